//! The future that a put is given with `until` panics.

use std::pin::Pin;
use std::task::{Context, Poll};

use super::{boom, reaches_the_caller};
use crate::support::{Counted, Live, must_come_back, poll_once, put_task, queue, ready, stash_of};

/// Pends for some polls, panics at the next, and pends forever after that.
struct PanickingFuture(u32);

impl Future for PanickingFuture {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        self.0 = self.0.wrapping_sub(1);
        if self.0 == u32::MAX {
            boom();
        }
        Poll::Pending
    }
}

#[test]
fn a_panic_in_until_keeps_the_puts_queue_position() {
    must_come_back(|| {
        for fuse in [0, 1] {
            let (stash, _) = stash_of::<Counted, u8>(100);
            let live = Live::new();
            let full = stash.try_put(0, live.counted(100)).unwrap();
            let mut put = Box::pin(stash.put(1, live.counted(60)).until(PanickingFuture(fuse)));
            if fuse > 0 {
                queue(&mut put);
            }
            reaches_the_caller(|| _ = poll_once(&mut put));
            assert_eq!(stash.waiting(), fuse as usize);
            // The future is still good, and whether or not it had joined, it is before the next.
            let woken = queue(&mut put);
            let mut next = put_task(&stash, 1, live.counted(60));
            let next_woken = queue(&mut next);
            assert!(stash.take(&full, &0).is_some());
            assert_eq!((woken.get(), next_woken.get()), (1, 0));
            let ticket = ready(&mut put).unwrap();
            assert_eq!(stash.take(&ticket, &1).unwrap().size, 60);
            assert_eq!(next_woken.get(), 1);
            drop((put, next));
            assert_eq!((stash.used_bytes(), stash.waiting(), live.get()), (0, 0, 0));
        }
    });
}

#[test]
fn a_put_that_is_dropped_after_a_panic_in_until_leaves_the_queue() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Counted, u8>(100);
        let live = Live::new();
        let _ = stash.try_put(0, live.counted(60)).unwrap();
        let mut head = Box::pin(stash.put(1, live.counted(50)).until(PanickingFuture(1)));
        queue(&mut head);
        let mut next = put_task(&stash, 1, live.counted(40));
        let woken = queue(&mut next);
        reaches_the_caller(|| {
            let mut head = head;
            _ = poll_once(&mut head);
        });
        assert_eq!((woken.get(), live.get()), (1, 2));
        drop(next);
        assert_eq!((stash.used_bytes(), stash.waiting()), (60, 0));
    });
}
