//! The thread pool.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use thalweg_kernels::ThreadPool;

/// Runs `parts` parts and asserts that each came once.
fn check(pool: &ThreadPool, parts: usize) {
    let counts: Vec<AtomicU32> = (0..parts).map(|_| AtomicU32::new(0)).collect();
    pool.run(parts, &|part| {
        counts[part].fetch_add(1, Ordering::Relaxed);
    });
    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
}

#[test]
fn each_part_runs_once() {
    for threads in [0, 1, 2, 3, 5] {
        let pool = ThreadPool::new(threads);
        assert_eq!(pool.threads(), threads.max(1));
        for round in 0..2000 {
            check(&pool, round % 17);
        }
        // Long enough for the workers to fall asleep.
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(2));
            check(&pool, 9);
        }
    }
}

#[test]
fn runs_may_nest_and_overlap() {
    let pool = ThreadPool::new(3);
    let total = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..300 {
                    pool.run(5, &|_| {
                        pool.run(3, &|part| {
                            total.fetch_add(part, Ordering::Relaxed);
                        });
                    });
                }
            });
        }
    });
    assert_eq!(total.load(Ordering::Relaxed), 4 * 300 * 5 * 3);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    let pool = ThreadPool::new(3);
    for bad in 0..12 {
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(12, &|part| {
                assert!(part != bad, "part {bad}");
            });
        }));
        let payload = result.expect_err("the panic is passed on");
        assert_eq!(payload.downcast_ref::<String>(), Some(&format!("part {bad}")));
        check(&pool, 12);
    }
}

#[test]
fn more_than_one_thread_works() {
    let pool = ThreadPool::new(2);
    let (arrived, caller) = (AtomicU32::new(0), std::thread::current().id());
    let elsewhere = AtomicU32::new(0);
    // Each part waits for the other, which only two threads can satisfy.
    pool.run(2, &|_| {
        arrived.fetch_add(1, Ordering::SeqCst);
        while arrived.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        if std::thread::current().id() != caller {
            elsewhere.fetch_add(1, Ordering::Relaxed);
        }
    });
    assert_eq!(elsewhere.load(Ordering::Relaxed), 1);
}
