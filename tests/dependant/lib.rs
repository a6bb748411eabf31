//! A crate that uses cloakroom: what it sees depends on its own flags and features, not on those of our tests.
//!
//! `.ci/dependants` builds and runs it with each set of features, under flags that are other crates' own, and
//! against the packed crate.

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cloakroom::{Budget, Refusal, Stash};

    fn stash(max_bytes: u64, ttl: Duration) -> Stash<Vec<u8>, u64> {
        Stash::builder().max_bytes(max_bytes).ttl(ttl).entry_overhead(0).build().unwrap()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn w12_put_and_take_need_no_model() {
        let stash = stash(100, LONG);
        let ticket = stash.try_put(7, vec![1; 60]).unwrap();
        assert_eq!(stash.try_put(7, vec![2; 60]).unwrap_err().reason(), Refusal::Full);
        assert_eq!(stash.take(&ticket, &8), None);
        assert_eq!(stash.take(&ticket, &7), Some(vec![1; 60]));
        assert_eq!(stash.used_bytes(), 0);
    }

    #[test]
    fn w12_a_thread_waits_for_room_without_a_model() {
        let stash = stash(100, LONG);
        let ticket = stash.try_put(7, vec![1; 60]).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| stash.put_timeout(7, vec![2; 60], LONG));
            while stash.stats().waiting == 0 {
                std::thread::yield_now();
            }
            assert_eq!(stash.take(&ticket, &7), Some(vec![1; 60]));
            let second = waiter.join().unwrap().unwrap();
            assert_eq!(stash.take(&second, &7), Some(vec![2; 60]));
        });
    }

    #[test]
    fn w12_a_wait_ends_at_its_timeout_without_a_model() {
        let stash = stash(100, LONG);
        let _kept = stash.try_put(7, vec![1; 60]).unwrap();
        let refused = stash.put_timeout(7, vec![2; 60], Duration::from_millis(5)).unwrap_err();
        assert_eq!(refused.into_payload(), vec![2; 60]);
        let budget = Budget::new(10);
        let permit = budget.try_acquire(8).unwrap();
        assert!(budget.acquire_timeout(8, Duration::from_millis(5)).is_err());
        drop(permit);
        assert!(budget.acquire_timeout(8, Duration::from_millis(5)).is_ok());
    }

    #[test]
    fn w12_a_reaper_runs_without_a_model() {
        let stash = stash(100, Duration::from_millis(5));
        let reaper = stash.reaper().spawn().unwrap();
        let _ = stash.try_put(7, vec![1; 60]).unwrap();
        while stash.stats().expired == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(stash.used_bytes(), 0);
        drop(stash);
        reaper.join().unwrap();
    }
}
