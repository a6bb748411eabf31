//! The search for an order of the calls that the model explains.

use std::collections::HashSet;
use std::hash::Hash;

use cloakroom::Refusal;

use crate::budget::{BudgetModel, BudgetOp, Polled};
use crate::recording::overlaps;
use crate::stash::{StashModel, StashOp};

#[derive(Clone, Debug)]
pub(crate) struct Call<Op> {
    pub(crate) thread: usize,
    pub(crate) began: u64,
    pub(crate) ended: u64,
    /// What was called, with what it returned.
    pub(crate) op: Op,
}

pub(crate) trait Model: Clone + Eq + Hash {
    type Op;

    /// What the state may be after step `step` of `op`, and whether that was its last step. Nothing: it
    /// cannot be that it returns what it returned.
    fn step(&self, call: usize, op: &Self::Op, step: u8) -> Vec<(Self, bool)>;
}

pub(crate) const ENDED: u8 = u8::MAX;

/// Whether there is an order of the calls' steps in which the model returns what they returned.
pub(crate) fn is_right<M: Model>(model: M, history: &[Call<M::Op>]) -> bool {
    let mut seen = HashSet::new();
    let mut todo = vec![(model, vec![0; history.len()])];
    while let Some((state, steps)) = todo.pop() {
        let open = || (0..history.len()).filter(|&at| steps[at] != ENDED);
        // What began after another call's end comes after it.
        let Some(first_end) = open().map(|at| history[at].ended).min() else { return true };
        for at in open().filter(|&at| history[at].began < first_end) {
            for (state, last) in state.step(at, &history[at].op, steps[at]) {
                let mut steps = steps.clone();
                steps[at] = if last { ENDED } else { steps[at] + 1 };
                let next = (state, steps);
                if seen.insert(next.clone()) {
                    todo.push(next);
                }
            }
        }
    }
    false
}

/// Calls that follow each other, each by a thread of its own.
pub(crate) fn in_turn<Op>(ops: impl IntoIterator<Item = Op>) -> Vec<Call<Op>> {
    let numbered = ops.into_iter().enumerate();
    numbered
        .map(|(at, op)| {
            let began = 2 * at as u64;
            Call { thread: at, began, ended: began + 1, op }
        })
        .collect()
}

#[test]
pub(crate) fn the_search_notices() {
    use BudgetOp::*;
    let right = |ops: Vec<BudgetOp>| is_right(BudgetModel::new(4), &in_turn(ops));
    let full = Some(Refusal::Full);
    assert!(right(vec![Try(4, None), Try(1, full), Release(4), Try(1, None)]));
    assert!(!right(vec![Try(4, None), Try(1, None)]), "above the limit");
    assert!(!right(vec![Try(4, None), Release(4), Try(1, full)]), "refused for nothing");
    let joined = |first| {
        let second = if first == 1 { 2 } else { 1 };
        let ops = [
            Try(4, None),
            Join(1, 3, Polled::Pending),
            Join(2, 3, Polled::Pending),
            Release(4),
            Poll(second, Polled::Pending),
            Poll(first, Polled::Granted),
        ];
        right(ops.to_vec())
    };
    assert!(joined(1));
    assert!(!joined(2), "overtaken");
    let lost = vec![
        Try(3, None),
        Join(1, 4, Polled::Pending),
        Join(2, 1, Polled::Pending),
        Leave(1),
        Poll(2, Polled::Pending),
    ];
    assert!(!right(lost), "the next was not served");

    let right = |ops: Vec<StashOp>| is_right(StashModel::default(), &in_turn(ops));
    let put = StashOp::Put(1, 5, None);
    let take = StashOp::Take(1, 5, true, true);
    assert!(right(vec![put.clone(), take.clone(), StashOp::Used(0)]));
    assert!(!right(vec![put.clone(), take.clone(), take.clone()]), "delivered twice");
    assert!(!right(vec![put.clone(), StashOp::Clear(0)]), "left by a clear");
    assert!(!right(vec![put, StashOp::Clear(1), take]), "delivered after a clear");

    // The same two calls, one after the other and at the same time.
    let mut two = in_turn([Try(1, full), Try(4, None)]);
    assert!(!is_right(BudgetModel::new(4), &two));
    assert!(!overlaps(&two));
    two[0].ended = 4;
    assert!(is_right(BudgetModel::new(4), &two));
    assert!(overlaps(&two));
}
