//! Random scripts, run against the crate and against its model (`oracle/mod.rs`).

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use crate::oracle::budget::{BudgetStep, run_budget};
use crate::oracle::bytes::Script;
use crate::oracle::stash::{
    End, How, MAX_MAX_WAITING, MAX_MAX_WAITING_BYTES, MAX_OVERFLOW, OVERHEADS, OWNERS, Settings,
    StashStep, TTL_TICKS, run_stash,
};
use crate::oracle::{Index, LIMIT};

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
        false if cfg!(miri) => 4,
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

/// Steps that seldom come together by chance: others expire next to what is claimed, and a sweep comes by;
/// then it is put back, and its own time comes.
fn put_back_after_a_sweep() -> impl Strategy<Value = Vec<StashStep>> {
    use StashStep::*;
    (0..OWNERS, 1..TTL_TICKS, 0..TTL_TICKS).prop_map(|(owner, ttl, more)| {
        let last = Index(0);
        vec![
            Put(How::Try, owner, 2, None),
            Claim(last, 0),
            Put(How::Try, owner, 1, Some(ttl)),
            Advance(ttl),
            Gc,
            EndClaim(last, End::PutBack),
            Advance(more),
            Gc,
        ]
    })
}

fn stash_script() -> impl Strategy<Value = Vec<StashStep>> {
    let steps = prop_oneof![
        60 => stash_step().prop_map(|step| vec![step]),
        1 => put_back_after_a_sweep(),
    ];
    proptest::collection::vec(steps, 0..120).prop_map(|steps| steps.concat())
}

/// With nothing special often enough that what is special meets what is not.
fn settings() -> impl Strategy<Value = Settings> {
    use proptest::option::weighted;
    (
        0..OVERHEADS,
        weighted(0.4, 1..=MAX_OVERFLOW),
        weighted(0.4, LIMIT / 2..=LIMIT),
        weighted(0.2, 0..=MAX_MAX_WAITING),
        weighted(0.2, 0..=MAX_MAX_WAITING_BYTES),
        proptest::bool::weighted(0.3),
    )
        .prop_map(
            |(overhead, overflow, per_owner, max_waiting, max_waiting_bytes, weighs_owners)| {
                Settings {
                    overhead,
                    overflow,
                    per_owner,
                    max_waiting,
                    max_waiting_bytes,
                    weighs_owners,
                }
            },
        )
}

fn ttl() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![1 => Just(None), 1 => (0..=2 * TTL_TICKS).prop_map(Some)]
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![5 => Just(How::Try), 1 => Just(How::TimeoutZero), 5 => Just(How::Future), 5 => Just(How::Owned)]
}

fn end() -> impl Strategy<Value = End> {
    proptest::sample::select(&End::ALL)
}

fn stash_step() -> impl Strategy<Value = StashStep> {
    use StashStep::*;
    let index = || any::<u8>().prop_map(Index);
    let size = || size(LIMIT);
    let recent = || prop_oneof![2 => (0..6u8).prop_map(Index), 1 => index()];
    let rights = || prop_oneof![4 => Just(0), 1 => 1..OWNERS];
    let way_in = prop_oneof![
        18 => (how(), 0..OWNERS, size(), ttl())
            .prop_map(|(how, owner, size, ttl)| Put(how, owner, size, ttl)),
        6 => (how(), proptest::option::of(0..OWNERS), size())
            .prop_map(|(how, owner, size)| Reserve(how, owner, size)),
        3 => (how(), size()).prop_map(|(how, size)| Permit(how, size)),
        8 => (index(), 0..OWNERS, size(), ttl())
            .prop_map(|(room, owner, size, ttl)| PutReserved(room, owner, size, ttl)),
        2 => (index(), 0..=LIMIT).prop_map(|(room, to)| ShrinkReservation(room, to)),
    ];
    let waits = prop_oneof![
        24 => (index(), any::<bool>()).prop_map(|(waiter, new_waker)| Poll(waiter, new_waker)),
        3 => index().prop_map(Fire),
        5 => index().prop_map(Cancel),
    ];
    let way_out = prop_oneof![
        10 => (recent(), rights()).prop_map(|(ticket, off)| Take(ticket, off)),
        1 => (any::<u128>(), 0..OWNERS).prop_map(|(bits, owner)| TakeForged(bits, owner)),
        8 => (recent(), rights()).prop_map(|(ticket, off)| Claim(ticket, off)),
        3 => (index(), 0..=2 * TTL_TICKS).prop_map(|(claim, ttl)| Renew(claim, ttl)),
        2 => (recent(), rights()).prop_map(|(ticket, off)| Unsent(ticket, off)),
        8 => (index(), end()).prop_map(|(claim, end)| EndClaim(claim, end)),
        2 => index().prop_map(CloneBytes),
        4 => index().prop_map(DropBytes),
        3 => index().prop_map(DropReservation),
        1 => (index(), 0..=LIMIT).prop_map(|(permit, to)| ShrinkPermit(permit, to)),
        3 => index().prop_map(DropPermit),
    ];
    let rest = prop_oneof![
        4 => Just(Gc),
        2 => Just(Clear),
        10 => prop_oneof![0..TTL_TICKS, Just(TTL_TICKS - 1), Just(TTL_TICKS)].prop_map(Advance),
        3 => prop_oneof![0..=2 * LIMIT, Just(LIMIT)].prop_map(SetMaxBytes),
        1 => proptest::bool::weighted(0.4).prop_map(|close| if close { Close } else { Gc }),
        2 => Just(Drained),
        5 => (index(), any::<bool>()).prop_map(|(drain, new_waker)| PollDrained(drain, new_waker)),
        1 => index().prop_map(DropDrained),
    ];
    prop_oneof![37 => way_in, 32 => waits, 40 => way_out, 28 => rest]
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
        settings in settings(),
        script in stash_script(),
    ) {
        run_stash(settings, script).map_err(TestCaseError::fail)?;
    }
}

proptest! {
    // Each has all kinds of steps.
    #![proptest_config(Config { cases: config().cases.min(20), ..config() })]

    #[test]
    fn a_script_survives_as_bytes(
        settings in settings(),
        budget in proptest::collection::vec(budget_step(), 0..80),
        stash in proptest::collection::vec(stash_step(), 0..80),
    ) {
        for script in [Script::Budget(budget), Script::Stash(settings, stash)] {
            prop_assert_eq!(Script::decode(&script.encode()), script);
        }
    }
}
