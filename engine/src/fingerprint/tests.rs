use super::*;

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect()
}

#[test]
fn a_hash_of_parts_depends_on_every_byte_and_boundary_but_not_on_threads() {
    let bytes = noise(3 * BLOCK + 17);
    let of = |parts: &[&[u8]], threads| Fingerprint::of_parts(parts.iter().copied(), threads);
    let whole = of(&[&bytes], 1);
    for threads in 2..5 {
        assert_eq!(of(&[&bytes], threads), whole);
    }
    assert_ne!(of(&[&bytes[..BLOCK], &bytes[BLOCK..]], 1), whole);
    assert_ne!(of(&[&bytes, &[]], 1), whole);
    assert_ne!(of(&[], 1), of(&[&[]], 1));
    assert_ne!(of(&[&[1], &[2]], 1), of(&[&[2], &[1]], 1));
    for at in [0, BLOCK - 1, BLOCK, bytes.len() - 1] {
        let mut other = bytes.clone();
        other[at] ^= 1;
        assert_ne!(of(&[&other], 2), whole);
    }
}

#[test]
fn parallel_iteration_meets_each_element_once() {
    for threads in 1..5 {
        for length in [0, 1, 7, 8, 9, 100] {
            let mut items = vec![0; length];
            for_each_parallel(&mut items, threads, |i, item| *item += i + 1);
            assert!(items.iter().enumerate().all(|(i, item)| *item == i + 1));
        }
    }
}

#[test]
fn fingerprints_read_back() {
    let hash = Fingerprint::of(b"a");
    assert_eq!(Fingerprint::parse(&hash.to_string()), Some(hash));
    assert_eq!(Fingerprint::parse("12"), None);
}

#[test]
fn the_library_hash_is_stable_within_a_program_and_across_its_processes() {
    let here = library_content();
    if let Ok(parent) = std::env::var("ENGRAFT_TEST_LIBRARY_HASH") {
        assert_eq!(here.to_string(), parent);
        return;
    }
    let test = "fingerprint::tests::the_library_hash_is_stable_within_a_program_and_across_its_processes";
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact"])
        .env("ENGRAFT_TEST_LIBRARY_HASH", here.to_string())
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"));
}

#[test]
fn the_cpu_is_named() {
    assert!(cpu_features().starts_with(std::env::consts::ARCH));
    assert!(!cpu_model().is_empty());
}

/// Prints hashing speed; run by hand with `--release --ignored --nocapture`.
#[test]
#[ignore = "measurement"]
fn hashing_speed() {
    let bytes = noise(650 << 20);
    for threads in [1, 2] {
        let best = (0..3)
            .map(|_| {
                let since = std::time::Instant::now();
                std::hint::black_box(Fingerprint::of_parts([&bytes[..]], threads));
                since.elapsed()
            })
            .min()
            .unwrap();
        println!(
            "{threads} threads: 650 MiB in {best:?}: {:.1} GB/s",
            bytes.len() as f64 / best.as_secs_f64() / 1e9
        );
    }
    let since = std::time::Instant::now();
    library_content();
    println!("library content: {:?}", since.elapsed());
}
