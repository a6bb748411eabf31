//! Calls from the destructors of thread-locals, when other thread-locals are gone already.

use std::cell::RefCell;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use cloakroom::{Refusal, Stash};

type Parcels = Stash<Vec<u8>, u64>;

fn stash() -> Parcels {
    Stash::builder().max_bytes(1000).entry_overhead(0).max_bytes_per_owner(900).build().unwrap()
}

/// Makes every kind of call when it is dropped, and sends a word for each that came back.
struct Last {
    stash: Parcels,
    done: Sender<&'static str>,
}

const CALLS: [&str; 5] = ["put, take", "claim", "a wait", "a reservation", "another stash"];

impl Drop for Last {
    fn drop(&mut self) {
        let Self { stash, done } = self;
        let (first, second) = (stash.try_put(7, vec![0; 10]), stash.try_put(7, vec![0; 10]));
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_ne!(first, second);
        assert_eq!(stash.take(&first, &7), Some(vec![0; 10]));
        done.send(CALLS[0]).unwrap();
        drop(stash.claim(&second, &7).unwrap());
        assert_eq!(stash.clear(), 1);
        done.send(CALLS[1]).unwrap();
        let _full = stash.budget().try_acquire(1000).unwrap();
        let refused = stash.put_timeout(7, vec![0; 10], Duration::from_millis(1)).unwrap_err();
        assert_eq!(refused.reason(), Refusal::TimedOut);
        assert!(!stash.drained_timeout(Duration::from_millis(1)));
        done.send(CALLS[2]).unwrap();
        assert!(stash.reserve_timeout(10, Duration::from_millis(1)).is_err());
        done.send(CALLS[3]).unwrap();
        let other = self::stash();
        assert!(other.try_put(7, vec![0; 10]).is_ok());
        done.send(CALLS[4]).unwrap();
    }
}

thread_local! {
    static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
}

/// Whichever is destroyed first: what is registered before the first put, or what that put registers.
#[test]
fn w15_a_put_while_thread_locals_are_destroyed_does_not_abort() {
    for puts_first in [false, true, false, true] {
        let (done, calls) = channel();
        // Outside, for building one draws its keys, and so registers what a put would.
        let stash = stash();
        thread::spawn(move || {
            if puts_first {
                let _ticket = stash.try_put(7, vec![1]).unwrap();
            }
            LAST.set(Some(Last { stash: stash.clone(), done }));
            if !puts_first {
                let _ticket = stash.try_put(7, vec![1]).unwrap();
            }
            stash.clear();
        })
        .join()
        .unwrap();
        assert_eq!(calls.iter().collect::<Vec<_>>(), CALLS, "puts first: {puts_first}");
    }
}

/// A thread that puts nothing before.
#[test]
fn w15_the_first_put_of_a_thread_may_be_its_last() {
    let (done, calls) = channel();
    let last = Last { stash: stash(), done };
    thread::spawn(move || LAST.set(Some(last))).join().unwrap();
    assert_eq!(calls.iter().collect::<Vec<_>>(), CALLS);
}
