//! Draws what must not be guessed: tickets' secrets and the keys of hashes.
//!
//! Each thread has a ChaCha generator, seeded by the system and reseeded after [`BATCHES_PER_SEED`] batches. A
//! generator is used only in the process that seeded it: a copy of the process, which has a copy of the
//! state, seeds its own (`sync/copies.rs`). Where there is no generator, because the thread-locals of a
//! thread are being destroyed or because copies cannot be counted, the system is asked for every draw.

use std::cell::RefCell;

use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng, TryRng};

use crate::sync::{copies, count_copies};

/// The number of words that are drawn at a time: sixteen tickets' worth.
const BATCH: usize = 48;
/// Bounds what an unnoticed copy of the process can repeat.
///
/// Such copies are made by a snapshot of a virtual machine or by a raw `clone`.
const BATCHES_PER_SEED: u32 = 256;

thread_local! {
    static GENERATOR: RefCell<Option<Generator>> = const { RefCell::new(None) };
}

struct Generator {
    batch: [u8; 4 * BATCH],
    /// The bytes before it are used up.
    next: usize,
    /// Of the process that seeded it.
    copies: usize,
    random: StdRng,
    batches_left: u32,
}

impl Generator {
    /// Creates a generator, seeded by the system.
    ///
    /// # Returns
    ///
    /// `None` if the system has no random numbers, or copies of the process would not be noticed.
    fn seeded() -> Option<Self> {
        if !count_copies() {
            return None;
        }
        // Before the seed: a copy made in between has another count, and seeds again.
        let copies = copies();
        let random = StdRng::try_from_rng(&mut SysRng).ok()?;
        let (batch, next) = ([0; 4 * BATCH], 4 * BATCH);
        Some(Self { batch, next, copies, random, batches_left: BATCHES_PER_SEED })
    }

    fn is_usable(&self) -> bool {
        self.batches_left > 0 && self.copies == copies()
    }

    #[inline]
    fn draw<const N: usize>(&mut self) -> Option<[u32; N]> {
        if self.copies != copies() {
            return None;
        }
        let (words, _) = self.batch.get(self.next..)?.split_at_checked(4 * N)?;
        self.next += 4 * N;
        Some(std::array::from_fn(|word| {
            let word = &words[4 * word..][..4];
            u32::from_ne_bytes(word.try_into().expect("four bytes"))
        }))
    }

    fn refill(&mut self) {
        self.batches_left -= 1;
        self.random.fill_bytes(&mut self.batch);
        self.next = 0;
    }
}

/// Draws `N` words, 48 at most, that cannot be guessed.
///
/// Knowing all words that were ever drawn before does not help.
///
/// # Panics
///
/// If the system has no random numbers.
#[inline]
pub(crate) fn draw<const N: usize>() -> [u32; N] {
    let drawn = GENERATOR.try_with(|generator| {
        let mut generator = generator.try_borrow_mut().ok()?;
        generator.as_mut()?.draw()
    });
    match drawn {
        Ok(Some(words)) => words,
        _ => draw_slowly(),
    }
}

#[cold]
fn draw_slowly<const N: usize>() -> [u32; N] {
    let drawn = GENERATOR.try_with(|generator| {
        let mut generator = generator.try_borrow_mut().ok()?;
        if !generator.as_ref().is_some_and(Generator::is_usable) {
            *generator = Generator::seeded();
        }
        let generator = generator.as_mut()?;
        generator.refill();
        generator.draw()
    });
    drawn.unwrap_or(None).unwrap_or_else(draw_from_the_system)
}

fn draw_from_the_system<const N: usize>() -> [u32; N] {
    std::array::from_fn(|_| SysRng.try_next_u32().expect("the system has random numbers"))
}

#[cfg(all(test, not(cloakroom_loom)))]
mod tests {
    use super::*;

    fn batches_left() -> u32 {
        GENERATOR.with_borrow(|generator| generator.as_ref().unwrap().batches_left)
    }

    #[test]
    fn a_generator_is_reseeded_after_its_batches() {
        for left in (0..BATCHES_PER_SEED).rev() {
            for _ in 0..BATCH / 3 {
                let _: [u32; 3] = draw();
                assert_eq!(batches_left(), left);
            }
        }
        let _: [u32; 3] = draw();
        assert_eq!(batches_left(), BATCHES_PER_SEED - 1);
    }

    #[test]
    fn no_word_is_drawn_twice() {
        let mut words: Vec<u32> = (0..1000).flat_map(|_| draw::<5>()).collect();
        words.sort_unstable();
        words.dedup();
        // Of 5000 words, two are the same once in 300 times; three pairs never.
        assert!(words.len() > 4996, "{}", words.len());
    }

    #[test]
    fn a_generator_of_another_process_is_not_used() {
        let same_state = |copies| {
            let random = StdRng::from_seed([7; 32]);
            let (batch, batches_left) = ([0; 4 * BATCH], BATCHES_PER_SEED);
            let mut generator = Generator { batch, next: 0, copies, random, batches_left };
            generator.refill();
            generator
        };
        GENERATOR.set(Some(same_state(copies())));
        let here: [u32; 3] = draw();
        GENERATOR.set(Some(same_state(copies() + 1)));
        let there: [u32; 3] = draw();
        assert_eq!(Some(here), same_state(copies()).draw());
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
