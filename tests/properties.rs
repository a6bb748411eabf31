//! Random scripts, run against the crate and against its model (`model/mod.rs`).
#![cfg(not(loom))]

mod model;
mod support;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use self::model::bytes::Script;
use self::model::{
    BudgetStep, Index, LIMIT, OVERHEADS, OWNERS, StashStep, TTL_TICKS, run_budget, run_stash,
};

/// The same scripts at every run, unless the environment asks for others.
fn config() -> Config {
    let config = Config::default();
    let rng_seed = match config.rng_seed {
        RngSeed::Random => RngSeed::Fixed(0xC0A7),
        fixed => fixed,
    };
    // Likewise.
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let cases = match asked {
        true => config.cases,
        false if cfg!(miri) => 8,
        false => 500,
    };
    Config { rng_seed, cases, failure_persistence: None, ..config }
}

/// Sizes around zero, around half of the limit, around the limit.
fn size(limit: u64) -> impl Strategy<Value = u64> {
    prop_oneof![
        1 => Just(0),
        1 => Just(limit),
        1 => Just(limit + 1),
        2 => limit / 2 - 1..=limit / 2 + 1,
        6 => 1..=limit / 3,
    ]
}

fn budget_step() -> impl Strategy<Value = BudgetStep> {
    use BudgetStep::*;
    let index = || any::<u8>().prop_map(Index);
    prop_oneof![
        6 => size(LIMIT).prop_map(Try),
        1 => size(LIMIT).prop_map(TimeoutZero),
        12 => size(LIMIT).prop_map(Request),
        24 => (index(), any::<bool>()).prop_map(|(waiter, new_waker)| Poll(waiter, new_waker)),
        3 => index().prop_map(Fire),
        5 => index().prop_map(Cancel),
        10 => index().prop_map(Release),
        3 => (index(), 0..=LIMIT).prop_map(|(permit, bytes)| Split(permit, bytes)),
        3 => (index(), index()).prop_map(|(into, from)| Merge(into, from)),
        3 => (index(), 0..=LIMIT).prop_map(|(permit, to)| Shrink(permit, to)),
        2 => index().prop_map(IntoOwned),
        1 => index().prop_map(Forget),
        3 => prop_oneof![Just(0), 1..=LIMIT, Just(LIMIT), LIMIT..=2 * LIMIT].prop_map(SetLimit),
        1 => proptest::bool::weighted(0.2).prop_map(|close| if close { Close } else { Try(0) }),
    ]
}

fn stash_step() -> impl Strategy<Value = StashStep> {
    use StashStep::*;
    let index = || any::<u8>().prop_map(Index);
    prop_oneof![
        8 => (0..OWNERS, size(LIMIT)).prop_map(|(owner, size)| TryPut(owner, size)),
        1 => (0..OWNERS, size(LIMIT)).prop_map(|(owner, size)| TimeoutZero(owner, size)),
        12 => (0..OWNERS, size(LIMIT)).prop_map(|(owner, size)| Put(owner, size)),
        24 => (index(), any::<bool>()).prop_map(|(waiter, new_waker)| Poll(waiter, new_waker)),
        3 => index().prop_map(Fire),
        5 => index().prop_map(Cancel),
        10 => index().prop_map(|ticket| Take(ticket, 0)),
        3 => (index(), 1..OWNERS).prop_map(|(ticket, off)| Take(ticket, off)),
        1 => (any::<u128>(), 0..OWNERS).prop_map(|(bits, owner)| TakeForged(bits, owner)),
        2 => Just(Gc),
        1 => Just(Clear),
        6 => prop_oneof![0..TTL_TICKS, Just(TTL_TICKS - 1), Just(TTL_TICKS)].prop_map(Advance),
        1 => proptest::bool::weighted(0.2).prop_map(|close| if close { Close } else { Gc }),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_budget_does_what_its_model_does(
        script in proptest::collection::vec(budget_step(), 0..80),
    ) {
        run_budget(script).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn a_stash_does_what_its_model_does(
        overhead in 0..OVERHEADS,
        script in proptest::collection::vec(stash_step(), 0..80),
    ) {
        run_stash(overhead, script).map_err(TestCaseError::fail)?;
    }
}

proptest! {
    // Each has all kinds of steps.
    #![proptest_config(Config { cases: 20, ..config() })]

    #[test]
    fn a_script_survives_as_bytes(
        overhead in 0..OVERHEADS,
        budget in proptest::collection::vec(budget_step(), 0..80),
        stash in proptest::collection::vec(stash_step(), 0..80),
    ) {
        for script in [Script::Budget(budget), Script::Stash(overhead, stash)] {
            prop_assert_eq!(Script::decode(&script.encode()), script);
        }
    }
}
