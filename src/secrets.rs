//! The one source of what must not be guessed: tickets' secrets and the keys of hashes.
//!
//! Each thread has a ChaCha generator, seeded by the system and reseeded after [`DRAWS_PER_SEED`] draws. A
//! generator is used only in the process that seeded it: a copy of the process, which has a copy of the
//! state, seeds its own (`sync/copies.rs`). Where there is no generator, because the thread-locals of a
//! thread are being destroyed or because copies cannot be counted, the system is asked for every draw.

use std::cell::RefCell;

use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng, TryRng};

use crate::sync::{copies, count_copies};

/// What a copy that nobody noticed can repeat, at most: a snapshot of a virtual machine, a raw `clone`.
const DRAWS_PER_SEED: u32 = 4096;

thread_local! {
    static GENERATOR: RefCell<Option<Generator>> = const { RefCell::new(None) };
}

struct Generator {
    random: StdRng,
    /// Of the process that seeded it.
    copies: u64,
    draws_left: u32,
}

impl Generator {
    /// Returns `None` if the system has no random numbers, or copies of the process would not be noticed.
    #[cold]
    fn seeded() -> Option<Self> {
        if !count_copies() {
            return None;
        }
        // Before the seed: a copy made in between has another count, and seeds again.
        let copies = copies();
        let random = StdRng::try_from_rng(&mut SysRng).ok()?;
        Some(Self { random, copies, draws_left: DRAWS_PER_SEED })
    }

    #[inline]
    fn is_usable(&self) -> bool {
        self.draws_left > 0 && self.copies == copies()
    }

    #[inline]
    fn draw<const N: usize>(&mut self) -> [u32; N] {
        self.draws_left -= 1;
        std::array::from_fn(|_| self.random.next_u32())
    }
}

/// Draws `N` words that nobody can guess, not even from all others that were ever drawn.
///
/// # Panics
///
/// If the system has no random numbers.
#[inline]
pub(crate) fn draw<const N: usize>() -> [u32; N] {
    GENERATOR
        .try_with(|generator| match &mut *generator.try_borrow_mut().ok()? {
            Some(generator) if generator.is_usable() => Some(generator.draw()),
            outdated => {
                *outdated = Generator::seeded();
                outdated.as_mut().map(Generator::draw)
            }
        })
        .unwrap_or(None)
        .unwrap_or_else(draw_from_the_system)
}

#[cold]
fn draw_from_the_system<const N: usize>() -> [u32; N] {
    std::array::from_fn(|_| SysRng.try_next_u32().expect("the system has random numbers"))
}

#[cfg(all(test, not(cloakroom_loom)))]
mod tests {
    use super::*;

    fn seeded_with_draws_left() -> u32 {
        GENERATOR.with_borrow(|generator| generator.as_ref().unwrap().draws_left)
    }

    #[test]
    fn a_generator_is_reseeded_after_its_draws() {
        for left in (0..DRAWS_PER_SEED).rev() {
            let _: [u32; 3] = draw();
            assert_eq!(seeded_with_draws_left(), left);
        }
        let _: [u32; 3] = draw();
        assert_eq!(seeded_with_draws_left(), DRAWS_PER_SEED - 1);
    }

    #[test]
    fn a_generator_of_another_process_is_not_used() {
        let _: [u32; 3] = draw();
        let same_state = |copies| Generator {
            random: StdRng::from_seed([7; 32]),
            copies,
            draws_left: DRAWS_PER_SEED,
        };
        GENERATOR.set(Some(same_state(copies())));
        let here: [u32; 3] = draw();
        GENERATOR.set(Some(same_state(copies() + 1)));
        let there: [u32; 3] = draw();
        assert_eq!(here, same_state(0).draw());
        assert_ne!(here, there);
    }

    /// While the thread's generator is in use (a signal handler that puts), or gone.
    #[test]
    fn the_system_stands_in() {
        let _: [u32; 3] = draw();
        GENERATOR.with(|generator| {
            let _in_use = generator.borrow_mut();
            let (first, second): ([u32; 4], [u32; 4]) = (draw(), draw());
            assert_ne!(first, second);
        });
    }
}
