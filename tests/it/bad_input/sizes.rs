//! Payloads with extreme sizes, or whose size changes.

use std::cell::Cell;
use std::time::Duration;

use cloakroom::{Budget, Payload, Refusal, Stash};

use crate::support::{TTL, put_task, queue, ready, stash_of};

/// Says what it is told to, each time something else if wished.
struct Reports(Cell<usize>, usize);

impl Payload for Reports {
    fn size(&self) -> usize {
        let said = self.0.get();
        self.0.set(said.wrapping_add(self.1));
        said
    }
}

fn reports(size: usize) -> Reports {
    Reports(Cell::new(size), 0)
}

#[test]
fn sizes_that_overflow_the_counter_are_too_large() {
    let max = Budget::MAX_LIMIT;
    for overhead in [0, 1, max] {
        let stash: Stash<Reports, u8> =
            Stash::builder().max_bytes(max).entry_overhead(overhead).build().unwrap();
        // With and without wrapping around, in the sum with the overhead and in the counter's units.
        let (half, quarter, eighth) = (usize::MAX / 2 + 1, usize::MAX / 4 + 1, usize::MAX / 8 + 1);
        for size in [usize::MAX, usize::MAX - 1, half, quarter, eighth] {
            let charge = (size as u64).saturating_add(overhead);
            if charge <= max {
                // All that 32 bits can say is no overflow by itself.
                assert_eq!((overhead < max, usize::BITS), (true, 32));
                continue;
            }
            let refused = stash.try_put(0, reports(size)).unwrap_err();
            assert_eq!((refused.reason(), refused.requested()), (Refusal::TooLarge, charge));
            assert_eq!(refused.into_payload().0.get(), size, "the payload comes back");
            let refused = ready(&mut put_task(&stash, 0, reports(size))).unwrap_err();
            assert_eq!(refused.reason(), Refusal::TooLarge, "and does not wait");
            let refused = stash.put_timeout(0, reports(size), Duration::MAX).unwrap_err();
            assert_eq!(refused.reason(), Refusal::TooLarge, "and does not block");
        }
        assert_eq!((stash.used_bytes(), stash.waiting(), stash.len()), (0, 0, 0));
    }
    let budget = Budget::new(max);
    for bytes in [max + 1, 1 << 62, 1 << 63, u64::MAX] {
        assert_eq!(budget.try_acquire(bytes).unwrap_err().reason(), Refusal::TooLarge);
        assert_eq!(
            budget.acquire_timeout(bytes, Duration::MAX).unwrap_err().reason(),
            Refusal::TooLarge
        );
    }
    assert_eq!((budget.used(), budget.waiting()), (0, 0));
}

#[test]
fn a_refusal_as_too_large_does_not_depend_on_other_entries() {
    let (stash, _) = stash_of::<Reports, u8>(100);
    let _ = stash.try_put(0, reports(100)).unwrap();
    assert_eq!(stash.try_put(0, reports(101)).unwrap_err().reason(), Refusal::TooLarge);
    assert_eq!(stash.try_put(0, reports(100)).unwrap_err().reason(), Refusal::Full);
    stash.close();
    assert_eq!(stash.try_put(0, reports(101)).unwrap_err().reason(), Refusal::Closed);
}

#[test]
fn the_charged_bytes_are_returned_whatever_size_the_payload_reports_later() {
    for step in [7, usize::MAX, 1 << (usize::BITS - 24)] {
        let (stash, clock) = stash_of::<Reports, u8>(100);
        let changing = || Reports(Cell::new(40), step);
        let taken = stash.try_put(0, changing()).unwrap();
        let _ = stash.try_put(0, changing()).unwrap();
        assert_eq!(stash.used_bytes(), 80);
        assert!(stash.take(&taken, &0).is_some());
        assert_eq!(stash.used_bytes(), 40);
        clock.advance(TTL);
        assert_eq!((stash.gc(), stash.used_bytes()), (1, 0));
        // A waiting put, too, gets the bytes that it asked for at first.
        let full = stash.try_put(0, reports(100)).unwrap();
        let mut put = put_task(&stash, 0, changing());
        queue(&mut put);
        assert!(stash.take(&full, &0).is_some());
        assert!(ready(&mut put).is_ok());
        assert_eq!(stash.used_bytes(), 40);
        assert_eq!((stash.clear(), stash.used_bytes()), (1, 0));
    }
}

#[test]
fn a_size_of_zero_fits_in_the_last_byte_and_not_beyond() {
    let (stash, _) = stash_of::<Reports, u8>(10);
    let _ = stash.try_put(0, reports(9)).unwrap();
    let nothing = stash.try_put(0, reports(0)).unwrap();
    assert_eq!((stash.len(), stash.used_bytes()), (2, 10));
    assert_eq!(stash.try_put(0, reports(0)).unwrap_err().reason(), Refusal::Full);
    assert!(stash.take(&nothing, &0).is_some());
    let _ = stash.try_put(0, reports(1)).unwrap();
    // But it does not overtake a waiter.
    let mut put = put_task(&stash, 0, reports(1));
    queue(&mut put);
    assert_eq!(stash.try_put(0, reports(0)).unwrap_err().reason(), Refusal::Full);
}
