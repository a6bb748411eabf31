//! The model of the budget and its wait queue.

use std::collections::VecDeque;

use cloakroom::{AcquireError, Refusal};

use super::{Index, Who};

/// Where bytes are from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Tier {
    Regular,
    Overflow,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum State {
    /// Never polled.
    Fresh,
    InLine,
    /// Ended while it waited, and not polled since.
    Ended(Result<Tier, Refusal>),
    /// Completed or dropped.
    Gone,
}

#[derive(Debug)]
pub(super) struct ModelWaiter {
    pub(super) need: u64,
    pub(super) state: State,
    pub(super) fired: bool,
    /// Whether the future that ends the wait is its timeout.
    pub(super) timed: bool,
    edition: usize,
}

/// A task that waits for the budget to be closed and empty.
#[derive(Debug, PartialEq)]
enum Drain {
    Fresh,
    Waiting { edition: usize },
    Woken,
    Gone,
}

#[derive(Debug)]
pub(super) struct ModelBudget {
    /// With the overflow.
    pub(super) limit: u64,
    pub(super) overflow: u64,
    pub(super) max_waiting: usize,
    pub(super) max_waiting_bytes: u64,
    pub(super) used: u64,
    pub(super) peak: u64,
    pub(super) abandoned: u64,
    pub(super) closed: bool,
    pub(super) queue: VecDeque<usize>,
    pub(super) waiters: Vec<ModelWaiter>,
    drain_line: Vec<usize>,
    drains: Vec<Drain>,
    pub(super) woken: Vec<(Who, usize)>,
}

/// The reason of a refusal and the numbers that it comes with.
pub(super) type Numbers = (Refusal, u64, u64, u64, usize);

pub(super) fn numbers_of(e: &AcquireError) -> Numbers {
    (e.reason(), e.requested(), e.used(), e.limit(), e.waiting())
}

impl ModelBudget {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            overflow: 0,
            max_waiting: usize::MAX,
            max_waiting_bytes: u64::MAX,
            used: 0,
            peak: 0,
            abandoned: 0,
            closed: false,
            queue: VecDeque::new(),
            waiters: Vec::new(),
            drain_line: Vec::new(),
            drains: Vec::new(),
            woken: Vec::new(),
        }
    }

    fn fits(&self, need: u64) -> bool {
        self.used <= self.limit && need <= self.limit - self.used
    }

    /// Whether a request that is not in the queue may have the bytes now.
    pub(super) fn admits(&self, need: u64) -> Result<(), Refusal> {
        if self.closed {
            Err(Refusal::Closed)
        } else if need > self.limit {
            Err(Refusal::TooLarge)
        } else if !self.queue.is_empty() || !self.fits(need) {
            Err(Refusal::Full)
        } else {
            Ok(())
        }
    }

    fn charge(&mut self, need: u64) -> Tier {
        self.used += need;
        self.peak = self.peak.max(self.used);
        if self.used > self.limit - self.overflow { Tier::Overflow } else { Tier::Regular }
    }

    pub(super) fn try_charge(&mut self, need: u64) -> Result<Tier, Refusal> {
        self.admits(need)?;
        Ok(self.charge(need))
    }

    /// The bytes that all waiters ask for.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.queue.iter().map(|&waiter| self.waiters[waiter].need).sum()
    }

    fn line_is_full_for(&self, need: u64) -> bool {
        self.queue.len() >= self.max_waiting || self.waiting_bytes() + need > self.max_waiting_bytes
    }

    /// Ends every wait that is over, from the head on; then, if nothing is left, the waits to drain.
    pub(super) fn serve(&mut self) {
        while let Some(&head) = self.queue.front() {
            let need = self.waiters[head].need;
            let outcome = if self.closed {
                Err(Refusal::Closed)
            } else if need > self.limit {
                Err(Refusal::TooLarge)
            } else if self.fits(need) {
                Ok(self.charge(need))
            } else {
                return;
            };
            self.queue.pop_front();
            self.waiters[head].state = State::Ended(outcome);
            self.woken.push((Who::Waiter(head), self.waiters[head].edition));
        }
        if self.is_drained() {
            for at in self.drain_line.drain(..) {
                if let Drain::Waiting { edition } = self.drains[at] {
                    self.woken.push((Who::Drain(at), edition));
                }
                self.drains[at] = Drain::Woken;
            }
        }
    }

    pub(super) fn release(&mut self, bytes: u64) {
        self.used -= bytes;
        self.serve();
    }

    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
        self.serve();
    }

    pub(super) fn new_waiter(&mut self, need: u64) {
        self.waiters.push(ModelWaiter {
            need,
            state: State::Fresh,
            fired: false,
            timed: false,
            edition: 0,
        });
    }

    pub(super) fn pick(&self, index: Index) -> Option<usize> {
        index.of(self.waiters.len())
    }

    fn leave(&mut self, waiter: usize) {
        self.queue.retain(|&other| other != waiter);
        self.serve();
    }

    /// A poll of a waiter that is not gone. `None`: pending.
    pub(super) fn poll(&mut self, waiter: usize, new_waker: bool) -> Option<Result<Tier, Refusal>> {
        let ModelWaiter { need, state, fired, timed, edition } = self.waiters[waiter];
        let given_up = if timed { Refusal::TimedOut } else { Refusal::Cancelled };
        let outcome = match state {
            State::Fresh => match self.try_charge(need) {
                Err(Refusal::Full) if fired => Some(Err(given_up)),
                Err(Refusal::Full) if self.line_is_full_for(need) => Some(Err(Refusal::QueueFull)),
                Err(Refusal::Full) => {
                    self.queue.push_back(waiter);
                    self.waiters[waiter].state = State::InLine;
                    None
                }
                decided => Some(decided),
            },
            State::InLine if fired => {
                self.leave(waiter);
                Some(Err(given_up))
            }
            State::InLine => None,
            // The grant wins, even if `until` has fired too.
            State::Ended(outcome) => Some(outcome),
            State::Gone => unreachable!("not polled again"),
        };
        if outcome.is_some() {
            self.waiters[waiter].state = State::Gone;
        } else if new_waker || edition == 0 {
            self.waiters[waiter].edition += 1;
        }
        outcome
    }

    pub(super) fn drop_waiter(&mut self, waiter: usize) {
        let ModelWaiter { need, state, .. } = self.waiters[waiter];
        self.waiters[waiter].state = State::Gone;
        match state {
            State::InLine => {
                self.abandoned += 1;
                self.leave(waiter);
            }
            State::Ended(Ok(_)) => self.release(need),
            _ => {}
        }
    }

    /// Whether the next poll would give up the wait.
    pub(super) fn gives_up(&self, waiter: usize) -> bool {
        let ModelWaiter { state, fired, .. } = self.waiters[waiter];
        fired && state == State::InLine
    }

    pub(super) fn is_gone(&self, waiter: usize) -> bool {
        self.waiters[waiter].state == State::Gone
    }

    pub(super) fn close(&mut self) -> usize {
        self.closed = true;
        let sent_away = self.queue.len();
        self.serve();
        sent_away
    }

    pub(super) fn is_drained(&self) -> bool {
        self.closed && self.used == 0
    }

    pub(super) fn new_drain(&mut self) {
        self.drains.push(Drain::Fresh);
    }

    /// Whether it is complete. It is not gone.
    pub(super) fn poll_drain(&mut self, at: usize, new_waker: bool) -> bool {
        if self.is_drained() {
            self.drains[at] = Drain::Gone;
            return true;
        }
        let edition = match self.drains[at] {
            Drain::Fresh => 0,
            Drain::Waiting { edition } => edition,
            Drain::Woken | Drain::Gone => unreachable!("what is drained stays so"),
        };
        if edition == 0 {
            self.drain_line.push(at);
        }
        let edition = edition + usize::from(new_waker || edition == 0);
        self.drains[at] = Drain::Waiting { edition };
        false
    }

    pub(super) fn drop_drain(&mut self, at: usize) {
        self.drains[at] = Drain::Gone;
        self.drain_line.retain(|&other| other != at);
    }

    /// The numbers that a refusal must come with.
    pub(super) fn numbers(&self, reason: Refusal, requested: u64) -> Numbers {
        (reason, requested, self.used, self.limit, self.queue.len())
    }
}
