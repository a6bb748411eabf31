//! The stash's own memory goes with the last handle. Alone in its program: it counts all that is allocated.
#![cfg(not(loom))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering};

use cloakroom::Stash;

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

#[test]
fn slots_are_freed_with_the_stash() {
    let before = LIVE.load(Ordering::SeqCst);
    let stash: Stash<String, u8> = Stash::builder().max_bytes(1 << 30).build().unwrap();
    for _ in 0..20_000 {
        let _ = stash.try_put(0, String::new()).unwrap();
    }
    let held = LIVE.load(Ordering::SeqCst) - before;
    assert!(held > 20_000 * 32, "{held}");
    drop(stash);
    let left = LIVE.load(Ordering::SeqCst) - before;
    // What the test's own program does meanwhile is little.
    assert!(left < 32_768, "{left}");
}
