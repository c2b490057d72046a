//! Many processes, some of which die: this test binary starts itself.

use super::*;
use std::io::Write;
use std::process::{Child, Command, Stdio};

const FOLDER: &str = "ENGRAFT_TEST_CACHE_FOLDER";

/// Starts the (otherwise ignored) test `name` of this file in a process of its own.
fn start(name: &str, folder: &Path) -> Child {
    let test = format!("plan_cache::tests::processes::{name}");
    Command::new(std::env::current_exe().unwrap())
        .args([&test, "--exact", "--ignored", "--test-threads=1"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn assert_success(child: Child) {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn folder() -> PathBuf {
    std::env::var_os(FOLDER).expect("started by another test").into()
}

/// Fetches on four threads; each build leaves a line in a log beside the cache.
#[test]
#[ignore = "a child of eight_processes_of_four_threads_build_once"]
fn child_fetches_on_four_threads() {
    let folder = folder();
    let cache = open(&folder);
    let log = folder.with_extension("log");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for key in [key("a"), key("b")] {
                    let fetched = cache.get_or_build(&key, |writer| {
                        let mut log = File::options().append(true).create(true).open(&log).unwrap();
                        log.write_all(format!("{}\n", key.entry_name()).as_bytes()).unwrap();
                        std::thread::sleep(Duration::from_millis(100));
                        write_plan(&key, writer)
                    });
                    check_plan(&key, &fetched.unwrap_or_else(|e: ContainerError| panic!("{e}")).container);
                }
            });
        }
    });
}

#[test]
fn eight_processes_of_four_threads_build_once() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let children: Vec<_> = (0..8).map(|_| start("child_fetches_on_four_threads", &cache)).collect();
    children.into_iter().for_each(assert_success);
    let log = fs::read_to_string(cache.with_extension("log")).unwrap();
    assert_eq!(log.lines().collect::<Vec<_>>(), [key("a").entry_name(), key("b").entry_name()]);
    for name in ["locks", "temp"] {
        assert_eq!(fs::read_dir(cache.join(name)).unwrap().count(), 0, "{name}");
    }
}

/// Builds, loads, removes and evicts for ever.
#[test]
#[ignore = "a child of killed_processes_leave_a_usable_cache"]
fn child_works_until_killed() {
    let folder = folder();
    for round in 0u64.. {
        let cache = PlanCache::open(&folder, 8 << 20);
        let key = key(&(round % 4).to_string());
        fetch(&cache, &key);
        if round % 3 == 0 {
            cache.remove(&key.entry_name());
        }
    }
}

#[test]
fn killed_processes_leave_a_usable_cache() {
    let folder = tempfile::tempdir().unwrap();
    let mut seed = 12345u64;
    for round in 0..200 {
        let mut child = start("child_works_until_killed", folder.path());
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        std::thread::sleep(Duration::from_micros(4000 + (seed >> 33) % 30_000));
        assert!(child.try_wait().unwrap().is_none(), "the child failed in round {round}");
        child.kill().unwrap();
        child.wait().unwrap();
        if round % 10 == 0 {
            let cache = open(folder.path());
            let since = std::time::Instant::now();
            for i in 0..4 {
                fetch(&cache, &key(&i.to_string()));
                assert_eq!(fetch(&cache, &key(&i.to_string())), Origin::Hit);
            }
            assert!(since.elapsed() < Duration::from_secs(20), "something waited for a dead process");
        }
    }
    let cache = open(folder.path());
    cache.prune(u64::MAX);
    assert!(cache.entries().iter().all(|entry| entry.summary.is_ok()));
    for name in ["locks", "temp"] {
        assert_eq!(fs::read_dir(folder.path().join(name)).unwrap().count(), 0, "{name}");
    }
}
