//! B15: what an entry weighs.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cloakroom::{Refusal, Stash, Ticket};
use futures_lite::future::block_on;

const OVERHEAD: u64 = 100;

/// Another crate's type, as far as this one knows.
type Table = HashMap<u64, f64>;

fn table(rows: u64) -> Table {
    (0..rows).map(|row| (row, 0.5)).collect()
}

fn by_rows() -> Stash<Table, String> {
    Stash::builder()
        .max_bytes(1000)
        .entry_overhead(OVERHEAD)
        .weigher(|owner: &String, table: &Table| (owner.len() + 10 * table.len()) as u64)
        .build()
        .unwrap()
}

#[test]
fn b15_a_foreign_type_is_charged_what_its_weigher_says() {
    let stash = by_rows();
    let forever = Duration::MAX;
    let alice = || "alice".to_owned();
    let tickets: Vec<Ticket> = vec![
        stash.try_put(alice(), table(1)).unwrap(),
        block_on(stash.put(alice(), table(2))).unwrap(),
        stash.put_timeout(alice(), table(3), forever).unwrap(),
        stash.try_reserve(200).unwrap().put(alice(), table(4)).unwrap(),
    ];
    let mut used = 4 * (OVERHEAD + 5) + 10 * (1 + 2 + 3 + 4);
    assert_eq!(stash.used_bytes(), used);
    for (ticket, rows) in tickets.iter().zip(1..) {
        assert_eq!(stash.take(ticket, "alice"), Some(table(rows)));
        used -= OVERHEAD + 5 + 10 * rows;
        assert_eq!(stash.used_bytes(), used);
    }
    assert_eq!(used, 0);
}

#[test]
fn b15_a_weight_above_what_there_is_refuses_and_gives_the_payload_back() {
    let stash = by_rows();
    let refused = stash.try_put("a".repeat(901), table(0)).unwrap_err();
    assert_eq!((refused.reason(), refused.requested()), (Refusal::TooLarge, 1001));
    let refused = stash.try_reserve(20).unwrap().put("alice".into(), table(2)).unwrap_err();
    assert_eq!((refused.reason(), stash.used_bytes()), (Refusal::TooLarge, OVERHEAD + 20));
    drop(refused);
    let whole: Stash<(), ()> =
        Stash::builder().max_bytes(1000).weigher(|_, _| u64::MAX).build().unwrap();
    assert_eq!(whole.try_put((), ()).unwrap_err().reason(), Refusal::TooLarge);
    assert_eq!((stash.used_bytes(), whole.used_bytes()), (0, 0));
}

/// Ten thousand bytes each, which are not counted.
#[test]
fn w8_owners_that_are_weighed_are_bounded() {
    let stash: Stash<Vec<u8>, String> = Stash::builder()
        .max_bytes(1 << 20)
        .weigher(|owner: &String, payload: &Vec<u8>| (owner.capacity() + payload.len()) as u64)
        .build()
        .unwrap();
    let owner = |number: u32| String::from(format!("{number:010000}").into_boxed_str());
    let mut held = 0;
    while stash.try_put(owner(held), Vec::new()).is_ok() {
        held += 1;
    }
    assert!((100..=104).contains(&held), "{held}");
    stash.clear();
    assert_eq!(stash.used_bytes(), 0);
}

/// What it says later is not what is released.
#[test]
fn b15_each_put_is_weighed_once() {
    let asked = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&asked);
    let stash: Stash<u8, u8> = Stash::builder()
        .max_bytes(1000)
        .entry_overhead(0)
        .weigher(move |_, _| counter.fetch_add(1, Ordering::Relaxed) + 1)
        .build()
        .unwrap();
    let tickets: Vec<Ticket> = (0..3).map(|_| stash.try_put(7, 1).unwrap()).collect();
    assert_eq!(stash.used_bytes(), 1 + 2 + 3);
    drop(stash.claim(&tickets[1], &7).unwrap());
    assert!(stash.claim(&tickets[2], &7).unwrap().put_back());
    for (ticket, left) in tickets.iter().zip([5, 3, 0]) {
        assert!(stash.take(ticket, &7).is_some());
        assert_eq!(stash.used_bytes(), left);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[test]
fn b15_a_weigher_may_call_the_stash() {
    let own: Arc<OnceLock<Stash<u8, u8>>> = Arc::new(OnceLock::new());
    let seen = Arc::clone(&own);
    let weigher = move |_: &u8, payload: &u8| {
        let stash = seen.get().unwrap();
        if *payload > 0 {
            // What stood in its way, or another put.
            stash.clear();
            let ticket = stash.try_put(7, 0).unwrap();
            assert_eq!(stash.take(&ticket, &7), Some(0));
        }
        50 + u64::from(*payload)
    };
    let stash = Stash::builder()
        .max_bytes(100)
        .max_bytes_per_owner(100)
        .entry_overhead(0)
        .weigher(weigher)
        .build()
        .unwrap();
    own.set(stash.clone()).unwrap();
    for _ in 0..3 {
        let _ticket = stash.try_put(7, 40).unwrap();
        let _ticket = stash.put_timeout(7, 30, Duration::ZERO).unwrap();
        let _ticket = block_on(stash.put(7, 20)).unwrap();
        assert_eq!((stash.used_bytes(), stash.owner_used_bytes(&7)), (70, 70));
    }
}

#[test]
fn b15_a_panic_in_a_weigher_is_its_callers_and_changes_nothing() {
    let stash: Stash<u8, u8> = Stash::builder()
        .max_bytes(100)
        .max_bytes_per_owner(100)
        .entry_overhead(0)
        .weigher(|_, payload| if *payload == 9 { panic!("nine") } else { 100 })
        .build()
        .unwrap();
    let put = |payload| catch_unwind(AssertUnwindSafe(|| stash.try_put(7, payload)));
    assert!(put(9).is_err());
    let in_a_future = || drop(block_on(stash.put(7, 9)));
    assert!(catch_unwind(AssertUnwindSafe(in_a_future)).is_err());
    let reserved = stash.try_reserve(100).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| reserved.put(7, 9))).is_err());
    assert_eq!((stash.used_bytes(), stash.waiting(), stash.owner_used_bytes(&7)), (0, 0, 0));
    assert!(put(1).unwrap().is_ok());
}
