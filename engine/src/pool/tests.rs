use super::*;
use std::sync::atomic::AtomicU64;

/// Runs a region of `n` tasks and checks that each index was called exactly once.
fn each_once(pool: &Pool, n: usize) {
    let calls: Vec<AtomicU32> = (0..n).map(|_| AtomicU32::new(0)).collect();
    pool.run(n, &|i| {
        calls[i].fetch_add(1, Ordering::Relaxed);
    });
    assert!(calls.iter().all(|c| c.load(Ordering::Relaxed) == 1));
}

#[test]
fn every_task_runs_once() {
    for threads in [1, 2, 3, 7] {
        let pool = Pool::new(threads);
        assert_eq!(pool.threads(), threads);
        for n in (0..70).chain([1000]) {
            each_once(&pool, n);
        }
    }
}

#[test]
fn regions_in_quick_succession_and_after_parking() {
    let pool = Pool::with_spin(3, Duration::from_micros(50));
    for round in 0..20_000 {
        each_once(&pool, 2 + round % 5);
        if round % 4000 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn a_parked_worker_takes_part_again() {
    let pool = Pool::with_spin(2, Duration::ZERO);
    std::thread::sleep(Duration::from_millis(5));
    let arrived = AtomicU32::new(0);
    // Two tasks that wait for each other finish only on two threads.
    pool.run(2, &|_| {
        arrived.fetch_add(1, Ordering::SeqCst);
        while arrived.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
    });
}

#[test]
fn the_caller_sleeps_until_a_slow_worker_is_done() {
    let pool = Pool::new(2);
    let caller = std::thread::current().id();
    for _ in 0..3 {
        let (started, finished) = (AtomicU32::new(0), AtomicU32::new(0));
        pool.run(2, &|_| {
            started.fetch_add(1, Ordering::SeqCst);
            while started.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
            if std::thread::current().id() != caller {
                std::thread::sleep(Duration::from_millis(20));
                finished.fetch_add(1, Ordering::SeqCst);
            }
        });
        assert_eq!(finished.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn concurrent_and_nested_callers_make_progress() {
    let pool = Pool::new(2);
    let sum = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    pool.run(3, &|i| {
                        pool.run(2, &|j| {
                            sum.fetch_add((i * 2 + j) as u64, Ordering::Relaxed);
                        });
                    });
                }
            });
        }
    });
    assert_eq!(sum.into_inner(), 4 * 500 * 15);
}

#[test]
fn a_panic_reaches_the_caller_after_the_region() {
    let pool = Pool::new(3);
    for round in 0..200 {
        let running = AtomicU32::new(0);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.run(8, &|i| {
                running.fetch_add(1, Ordering::SeqCst);
                let bad = i == round % 8;
                if !bad {
                    std::thread::yield_now();
                }
                running.fetch_sub(1, Ordering::SeqCst);
                assert!(!bad, "task {i} fails");
            });
        }));
        let message = *outcome.unwrap_err().downcast::<String>().unwrap();
        assert_eq!(message, format!("task {} fails", round % 8));
        assert_eq!(running.load(Ordering::SeqCst), 0);
        each_once(&pool, 9);
    }
}

#[test]
fn a_shared_pool_lives_as_long_as_its_holders() {
    let a = Pool::shared(5);
    let b = Pool::shared(5);
    assert!(Arc::ptr_eq(&a, &b));
    let gone = Arc::downgrade(&a);
    drop((a, b));
    assert!(gone.upgrade().is_none());
    each_once(&Pool::shared(5), 10);
}

/// Forks; the child's exit status is 0 if `child` returned true. The child may only do what is safe after a fork of
/// a threaded process, which is why it exits without unwinding or running exit handlers.
#[cfg(target_os = "linux")]
fn in_forked_child(child: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs `child` and leaves by `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let good = catch_unwind(AssertUnwindSafe(child)).unwrap_or(false);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    let mut status = 0;
    // SAFETY: waits for the child just made.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_gets_workers_of_its_own() {
    let pool = Pool::new(2);
    each_once(&pool, 4);
    assert!(in_forked_child(|| {
        let arrived = AtomicU32::new(0);
        pool.run(2, &|_| {
            arrived.fetch_add(1, Ordering::SeqCst);
            let since = Instant::now();
            while arrived.load(Ordering::SeqCst) < 2 && since.elapsed() < Duration::from_secs(10) {
                std::thread::yield_now();
            }
        });
        arrived.load(Ordering::SeqCst) == 2
    }));
    each_once(&pool, 4);
}

#[cfg(target_os = "linux")]
#[test]
fn a_child_forked_during_a_region_can_drop_and_make_pools() {
    let pool = Pool::new(2);
    let good = AtomicBool::new(false);
    pool.run(2, &|i| {
        if i == 0 {
            let child = || {
                let sum = AtomicU32::new(0);
                pool.run(4, &|i| {
                    sum.fetch_add(i as u32, Ordering::SeqCst);
                });
                drop(Pool::new(2));
                sum.load(Ordering::SeqCst) == 6
            };
            good.store(in_forked_child(child), Ordering::SeqCst);
        }
    });
    assert!(good.into_inner());
}

/// Prints the cost of an empty region; run by hand with `--release --ignored --nocapture`.
#[test]
#[ignore = "measurement"]
fn region_cost() {
    for threads in [1, 2] {
        let pool = Pool::new(threads);
        for _ in 0..1000 {
            each_once(&pool, threads);
        }
        let mut best = Duration::MAX;
        for _ in 0..200 {
            let since = Instant::now();
            for _ in 0..100 {
                pool.run(threads, &|_| {});
            }
            best = best.min(since.elapsed() / 100);
        }
        println!("{threads} threads: {best:?} per empty region");
    }
}
