//! B18: what a program does about a refusal: `?`, parts, whether to try again, and what to tell a client.

use std::time::Duration;

use cloakroom::{AcquireError, Budget, PutError, Refusal, ReservationError, Stash};
use futures_lite::future::{block_on, poll_once};

use crate::fixtures::{ALICE, BOB, payload, stash_with};

/// A refusal for each reason that a stash can give, and for an owner whose request never fits.
fn refusals() -> Vec<AcquireError> {
    let (stash, _) = stash_with(|builder| builder.max_bytes_per_owner(60).max_waiting(1));
    let refused = |size| *stash.try_put(ALICE, payload(size)).unwrap_err().details();
    let too_large = [refused(101), refused(61)];
    let _held = stash.try_put(ALICE, payload(50)).unwrap();
    let owner_full = refused(20);
    let _rest = stash.try_put(BOB, payload(50)).unwrap();
    let full = refused(5);
    let timed_out = stash.put_timeout(ALICE, payload(5), Duration::from_millis(1)).unwrap_err();
    let cancelled = block_on(stash.reserve(5).until(std::future::ready(()))).unwrap_err();
    let mut first = Box::pin(stash.reserve(1));
    assert!(block_on(poll_once(&mut first)).is_none());
    let queue_full = block_on(stash.reserve(1)).unwrap_err();
    stash.close();
    let closed = refused(5);
    let [too_large, never] = too_large;
    let timed_out = *timed_out.details();
    vec![too_large, never, owner_full, full, timed_out, cancelled, queue_full, closed]
}

#[test]
fn b18_whether_to_try_again_and_which_status() {
    let seen: Vec<_> = refusals()
        .iter()
        .map(|refusal| {
            let statuses = (refusal.http_status(), refusal.grpc_code());
            (refusal.reason(), refusal.is_transient(), statuses.0, statuses.1)
        })
        .collect();
    assert_eq!(
        seen,
        [
            (Refusal::TooLarge, false, 413, 11),
            (Refusal::OwnerFull, false, 413, 11),
            (Refusal::OwnerFull, true, 429, 8),
            (Refusal::Full, true, 503, 14),
            (Refusal::TimedOut, true, 503, 14),
            (Refusal::Cancelled, true, 503, 14),
            (Refusal::QueueFull, true, 503, 14),
            (Refusal::Closed, false, 503, 14),
        ]
    );
    for refusal in refusals() {
        let (reason, never) = (refusal.reason(), refusal.requested() > refusal.limit());
        assert!(refusal.is_transient() == (reason.is_transient() && !never), "{refusal}");
    }
}

/// Each refusal as a response: the status, and the reason without the server's numbers.
#[cfg(feature = "http")]
#[test]
fn b18_errors_convert_into_a_response() {
    use http::{Response, StatusCode};

    for refusal in refusals() {
        let response = Response::<String>::from(refusal);
        assert_eq!(response.status().as_u16(), refusal.http_status());
        assert_eq!(StatusCode::from(refusal), response.status());
        assert_eq!(*response.body(), refusal.reason().to_string());
        assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    }
    async fn put(stash: &Stash<Vec<u8>, u8>) -> Result<(), Response<String>> {
        let _ = stash.try_put(ALICE, payload(101))?;
        Ok(())
    }
    async fn reserve(stash: &Stash<Vec<u8>, u8>) -> Result<(), Response<String>> {
        let _ = stash.try_reserve(10)?.put(ALICE, payload(11))?;
        Ok(())
    }
    let (stash, _) = stash_with(|builder| builder.max_bytes_per_owner(50));
    for refused in [block_on(put(&stash)), block_on(reserve(&stash))] {
        assert_eq!(refused.unwrap_err().status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
    assert_eq!(stash.used_bytes(), 0, "the reservation was dropped");
}

#[test]
fn b18_errors_convert_with_a_question_mark() {
    fn put(stash: &Stash<Vec<u8>, u8>, size: usize) -> Result<(), AcquireError> {
        let _ = stash.try_put(ALICE, payload(size))?;
        Ok(())
    }
    fn reserve(stash: &Stash<Vec<u8>, u8>, size: usize) -> Result<(), AcquireError> {
        let _ = stash.try_reserve(10)?.put(ALICE, payload(size))?;
        Ok(())
    }
    let (stash, _) = stash_with(|builder| builder);
    let refused = put(&stash, 101).unwrap_err();
    assert_eq!((refused.reason(), refused.requested()), (Refusal::TooLarge, 101));
    let refused = reserve(&stash, 11).unwrap_err();
    assert_eq!(
        (refused.reason(), refused.requested(), refused.limit()),
        (Refusal::TooLarge, 11, 10)
    );
    assert_eq!(stash.used_bytes(), 0, "the reservation was dropped");
    put(&stash, 1).and_then(|()| reserve(&stash, 1)).unwrap();
    // The whole refusal, not a part of it.
    let error: PutError<_> = stash.try_put(ALICE, payload(99)).unwrap_err();
    let details = *error.details();
    assert_eq!(AcquireError::from(error), details);
    let error: ReservationError<_, _> =
        stash.try_reserve(1).unwrap().put(ALICE, payload(2)).unwrap_err();
    let details = *error.details();
    assert_eq!(AcquireError::from(error), details);
}

#[test]
fn b18_a_refused_put_in_parts() {
    let (stash, _) = stash_with(|builder| builder);
    let (back, refusal) = stash.try_put(ALICE, payload(101)).unwrap_err().into_parts();
    assert_eq!((back, refusal.reason()), (payload(101), Refusal::TooLarge));
}

#[test]
fn b18_when_to_try_again_is_read_off_the_wait_queue() {
    let (stash, clock) = stash_with(|builder| builder.max_bytes_per_owner(90));
    let held = stash.try_reserve(100).unwrap();
    let refused = *stash.try_put(ALICE, payload(10)).unwrap_err().details();
    assert_eq!(stash.retry_after(&refused), None, "nobody waits");
    let mut first = Box::pin(stash.reserve(10));
    assert!(block_on(poll_once(&mut first)).is_none());
    clock.advance(Duration::from_millis(1_500));
    let mut second = Box::pin(stash.reserve(20));
    assert!(block_on(poll_once(&mut second)).is_none());
    clock.advance(Duration::from_millis(500));
    assert_eq!(stash.retry_after(&refused), Some(Duration::from_secs(2)), "the head's wait");
    drop(first);
    assert_eq!(stash.retry_after(&refused), Some(Duration::from_millis(500)));
    // What the wait queue has nothing to do with.
    for size in [101, 91] {
        let never = *stash.try_put(ALICE, payload(size)).unwrap_err().details();
        assert_eq!(stash.retry_after(&never), None, "{never}");
    }
    drop((second, held));
    let _held = stash.try_put(ALICE, payload(90)).unwrap();
    let of_owner = *stash.try_put(ALICE, payload(5)).unwrap_err().details();
    let mut waiting = Box::pin(stash.reserve(20));
    assert!(block_on(poll_once(&mut waiting)).is_none());
    assert_eq!((of_owner.reason(), stash.retry_after(&of_owner)), (Refusal::OwnerFull, None));
    assert_eq!(stash.retry_after(&refused), Some(Duration::ZERO));
    // A bare permit has no clock.
    drop(waiting);
    let mut bare = Box::pin(stash.budget().acquire(20));
    assert!(block_on(poll_once(&mut bare)).is_none());
    assert_eq!(stash.retry_after(&refused), None);
}

#[test]
fn b19_a_budget_in_numbers() {
    let budget = Budget::new(100);
    let numbers = || {
        let stats = budget.stats();
        assert_eq!(stats.limit, budget.limit());
        (stats.used, stats.peak, stats.waiting, stats.waiting_bytes, stats.head_bytes)
    };
    assert_eq!(numbers(), (0, 0, 0, 0, None));
    let first = budget.try_acquire(80).unwrap();
    let mut waiting = [30, 50].map(|bytes| Box::pin(budget.acquire(bytes)));
    for acquire in &mut waiting {
        assert!(block_on(poll_once(acquire)).is_none());
    }
    assert_eq!(numbers(), (80, 80, 2, 80, Some(30)));
    drop(first);
    assert_eq!(numbers(), (80, 80, 0, 0, None), "both are granted");
    drop(waiting);
    assert_eq!(numbers(), (0, 80, 0, 0, None), "the peak stays");
    budget.set_limit(200);
    drop(budget.try_acquire(200).unwrap());
    assert_eq!(numbers(), (0, 200, 0, 0, None));
}

/// A bound that has completed already hides no reason that waiting could not change.
#[test]
fn a_completed_bound_does_not_hide_that_a_request_is_too_large_or_closed() {
    let budget = Budget::new(10);
    let _all = budget.try_acquire(10).unwrap();
    let reason = |bytes| {
        let refused = block_on(budget.acquire(bytes).until(std::future::ready(())));
        refused.unwrap_err().reason()
    };
    assert_eq!((reason(11), reason(1)), (Refusal::TooLarge, Refusal::Cancelled));
    budget.close();
    assert_eq!((reason(11), reason(1)), (Refusal::Closed, Refusal::Closed));
}
