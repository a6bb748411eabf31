//! Each thread's random numbers, and panics on purpose.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::random::Rng;
use crate::{LIMIT, OVERHEAD};

pub(crate) struct OnPurpose;

pub(crate) struct Local {
    pub(crate) rng: Rng,
    pub(crate) depth: u32,
    /// Whether an owner that is compared may misbehave.
    pub(crate) moody: bool,
}

pub(crate) static SEED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static LOCAL: RefCell<Local> = RefCell::new(Local {
        rng: Rng::new(SEED.fetch_add(1 << 32, Ordering::Relaxed)),
        depth: 0,
        moody: false,
    });
}

pub(crate) fn local<R>(f: impl FnOnce(&mut Local) -> R) -> R {
    LOCAL.with_borrow_mut(f)
}

pub(crate) fn below(n: u64) -> u64 {
    local(|local| local.rng.below(n))
}

pub(crate) fn once_in(n: u64) -> bool {
    below(n) == 0
}

/// Zero, small, near the limit, too much.
pub(crate) fn size() -> u64 {
    match below(40) {
        0..4 => 0,
        4 => LIMIT + 1 + below(9),
        5..7 => LIMIT - OVERHEAD - below(2),
        7..12 => LIMIT / 4 + below(LIMIT / 2),
        _ => below(LIMIT / 10),
    }
}

pub(crate) fn silence_panics_on_purpose() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<OnPurpose>() {
            usual(info);
        }
    }));
}
