//! Memory of a stash or a budget goes with the last handle. Alone in its program: it counts all that is allocated.
#![cfg(not(cloakroom_loom))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicIsize, Ordering};

use cloakroom::{Budget, Stash};

struct Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);

// SAFETY: the system's allocator, and a count.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as isize, Ordering::SeqCst);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Ordering::SeqCst);
        // SAFETY: the caller's.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// One test at a time is counted.
static ALONE: Mutex<()> = Mutex::new(());

/// Fails if more than a little, which the test's own program needs meanwhile, is left of what `f` allocates.
/// `f` is told how to ask for what is live.
fn leaves_nothing(f: impl FnOnce(&dyn Fn() -> isize)) {
    let _alone = ALONE.lock();
    let before = LIVE.load(Ordering::SeqCst);
    let live = || LIVE.load(Ordering::SeqCst) - before;
    f(&live);
    assert!(live() < 32_768, "{}", live());
}

#[test]
fn slots_are_freed_with_the_stash() {
    leaves_nothing(|live| {
        let stash: Stash<String, u8> = Stash::builder().max_bytes(1 << 30).build().unwrap();
        for _ in 0..20_000 {
            let _ = stash.try_put(0, String::new()).unwrap();
        }
        assert!(live() > 20_000 * 32, "{}", live());
    });
}

#[test]
fn a_budget_is_freed_with_its_last_handle_or_owned_permit() {
    leaves_nothing(|live| {
        let permits: Vec<_> = (0..1_000)
            .map(|_| {
                let budget = Budget::new(10);
                let mut all = budget.try_acquire(6).unwrap().into_owned();
                let mut borrowed = budget.try_acquire(4).unwrap();
                all.merge(borrowed.split(2).unwrap());
                all.merge(borrowed.into_owned());
                let split = [all.split(3).unwrap(), all.split(3).unwrap()];
                (all, split)
            })
            .collect();
        assert!(live() > 1_000 * 128, "{}", live());
        for (all, [one, other]) in permits {
            let budget = all.budget();
            assert_eq!((all.bytes(), one.bytes(), other.bytes(), budget.used()), (4, 3, 3, 10));
            drop(one);
            other.forget();
            drop(all);
            assert_eq!(budget.used(), 3);
        }
    });
}
