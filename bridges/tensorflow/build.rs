//! Keeps the library in memory once it is loaded: threads of the engine may outlive the host's call to unload it. Has the linker
//! hash it: that tells builds apart without reading them.
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
        println!("cargo::rustc-cdylib-link-arg=-Wl,--build-id=sha1");
    }
}
