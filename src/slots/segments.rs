//! Allocates slots in segments that grow, never move, and are freed with the stash.
//!
//! There are sixteen segments of each size, so that about a sixteenth of the slots is allocated ahead of
//! need: 16 segments of 16 slots, 16 of 32, and so on. With `x = index + 256`, the segment and the offset are
//! bits of `x`:
//!
//! ```text
//!   x:  0 .. 0 1 | 4 bits: which of the 16 | offset in the segment
//!              ^ position: which size
//! ```
//!
//! The shard itself holds the pointers to the first sixteen, so that a slot of a small stash is found with
//! one load and an empty stash is small. The pointers to the others are in a table that is allocated when the
//! shard needs the first of them.
//!
//! A segment is one zeroed allocation, `[Slot; len] [Bound; 1 + blocks]`: new slots need no writes, so
//! growing causes no pause, whatever the size. The first bound is the segment's, the others stand over its
//! blocks of slots.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::array;
use std::iter;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;

use super::bounds::Bound;
use super::free_list::Links;
use super::slot::Slot;
use crate::sync::atomic::{AtomicPtr, Ordering};

/// The log2 of the number of segments per doubling.
const SUB_BITS: u32 = if cfg!(cloakroom_loom) { 1 } else { 4 };
/// The log2 of the number of slots in the first sixteen segments together.
const FIRST_BITS: u32 = if cfg!(cloakroom_loom) { 2 } else { 8 };
/// The log2 of a number that no index of a shard reaches.
pub(super) const INDEX_BITS: u32 = if cfg!(cloakroom_loom) { 3 } else { 26 };
/// The number of slots that a shard can have.
pub(super) const MAX_SLOTS: u32 = (1 << INDEX_BITS) - (1 << FIRST_BITS);
const SEGMENTS: usize = ((INDEX_BITS - FIRST_BITS) as usize) << SUB_BITS;
/// The number of segments whose pointers are in the shard itself.
const NEAR: usize = if cfg!(cloakroom_loom) { 1 } else { 1 << SUB_BITS };
/// The number of slots under one bound.
const BLOCK: usize = if cfg!(cloakroom_loom) { 2 } else { 256 };

type Pointers<P, O, const N: usize> = [AtomicPtr<Slot<P, O>>; N];
/// Holds the pointers to the segments after the near ones.
type Table<P, O> = Pointers<P, O, { SEGMENTS - NEAR }>;

/// Holds the pointers to a shard's segments.
pub(super) struct Segments<P, O> {
    near: Pointers<P, O, NEAR>,
    /// Null until one of them is needed.
    far: AtomicPtr<Table<P, O>>,
    /// Makes this `Send` and `Sync` only if the slots are: an `AtomicPtr` alone always is.
    owned: PhantomData<Slot<P, O>>,
}

/// Views one segment.
pub(super) struct Segment<'a, P, O> {
    pub(super) first: u32,
    pub(super) slots: &'a [Slot<P, O>],
    pub(super) bound: &'a Bound,
    pub(super) blocks: &'a [Bound],
}

/// Computes where a slot is: segment number and offset.
#[inline]
fn locate(index: u32) -> (usize, usize) {
    let x = index + (1 << FIRST_BITS);
    let size_bits = x.ilog2() - SUB_BITS;
    let sub = x >> size_bits & ((1 << SUB_BITS) - 1);
    let doubling = x.ilog2() - FIRST_BITS;
    ((doubling << SUB_BITS | sub) as usize, (x & ((1 << size_bits) - 1)) as usize)
}

/// Inverts `locate`: returns a segment's first index and its length.
#[inline]
fn span(segment: usize) -> (u32, usize) {
    let segment = segment as u32;
    let size_bits = (segment >> SUB_BITS) + FIRST_BITS - SUB_BITS;
    let leading = 1 << SUB_BITS | segment & ((1 << SUB_BITS) - 1);
    ((leading << size_bits) - (1 << FIRST_BITS), 1 << size_bits)
}

/// Returns the number of bounds over the blocks of a segment with `len` slots.
const fn blocks(len: usize) -> usize {
    len.div_ceil(BLOCK)
}

fn layout<P, O>(len: usize) -> Layout {
    let slots = Layout::array::<Slot<P, O>>(len);
    let bounds = Layout::array::<Bound>(1 + blocks(len));
    let joined = slots.and_then(|slots| slots.extend(bounds?));
    let (layout, bounds_at) = joined.expect("a segment is smaller than the address space");
    assert_eq!(bounds_at, len * size_of::<Slot<P, O>>(), "bounds follow slots without a gap");
    layout
}

impl<P, O> Segments<P, O> {
    pub(super) fn new() -> Self {
        Self { near: no_segments(), far: AtomicPtr::new(ptr::null_mut()), owned: PhantomData }
    }

    #[inline]
    fn table(&self) -> Option<&Table<P, O>> {
        // ORDERING: Acquire [segment.load] pairs with [segment.install].
        let table = NonNull::new(self.far.load(Ordering::Acquire))?;
        // SAFETY: an installed table lives as long as `self`.
        Some(unsafe { table.as_ref() })
    }

    /// Returns the segment's pointer, if it is near or the table exists.
    #[inline]
    fn pointer(&self, number: usize) -> Option<&AtomicPtr<Slot<P, O>>> {
        match self.near.get(number) {
            Some(near) => Some(near),
            None => self.table()?.get(number - NEAR),
        }
    }

    /// Returns the slot, if its segment exists.
    #[inline]
    pub(super) fn slot(&self, index: u32) -> Option<&Slot<P, O>> {
        let (segment, offset) = locate(index);
        // ORDERING: Acquire [segment.load] pairs with [segment.install].
        let slots = NonNull::new(self.pointer(segment)?.load(Ordering::Acquire))?;
        // SAFETY: an installed segment lives as long as `self`; the offset is within it.
        Some(unsafe { slots.add(offset).as_ref() })
    }

    /// Returns the slot and the bounds over it, lowest first, if its segment exists.
    #[inline]
    pub(super) fn location(&self, index: u32) -> Option<(&Slot<P, O>, [&Bound; 2])> {
        let (number, offset) = locate(index);
        // ORDERING: Acquire [segment.load] pairs with [segment.install].
        let slots = NonNull::new(self.pointer(number)?.load(Ordering::Acquire))?;
        // SAFETY: installed, under this number.
        let segment = unsafe { view(number, slots) };
        Some((&segment.slots[offset], [&segment.blocks[offset / BLOCK], segment.bound]))
    }

    /// Iterates over all segments, for a sweep that has begun.
    ///
    /// A segment that it misses is installed by a put that will see what the sweep did before.
    pub(super) fn iter(&self) -> impl Iterator<Item = Segment<'_, P, O>> {
        // Read after the near ones, not before.
        let far = iter::once_with(|| confirm(&self.far)).flatten();
        // SAFETY: an installed table lives as long as `self`.
        let far = far.flat_map(|table| unsafe { table.as_ref() });
        self.near.iter().chain(far).enumerate().map_while(|(number, installed)| {
            // SAFETY: installed, under this number.
            confirm(installed).map(|slots| unsafe { view(number, slots) })
        })
    }

    /// Installs the slot's segment, unless another thread has.
    #[cold]
    pub(super) fn grow(&self, index: u32) {
        let (number, _) = locate(index);
        if number >= NEAR && self.table().is_none() {
            self.install_table();
        }
        let pointer = self.pointer(number).expect("near, or in the table");
        let new = allocate::<P, O>(span(number).1);
        if !install(pointer, new) {
            // SAFETY: ours, and no other thread has seen it.
            unsafe { free(number, new) };
        }
    }

    fn install_table(&self) {
        let new = Box::into_raw(Box::new(no_segments()));
        if !install(&self.far, new) {
            // SAFETY: ours, and no other thread has seen it.
            drop(unsafe { Box::from_raw(new) });
        }
    }
}

fn no_segments<P, O, const N: usize>() -> Pointers<P, O, N> {
    array::from_fn(|_| AtomicPtr::new(ptr::null_mut()))
}

/// Returns whether `new` is installed: another thread's pointer may have been first.
fn install<T>(pointer: &AtomicPtr<T>, new: *mut T) -> bool {
    // Step N1.
    // ORDERING: Release / Relaxed [segment.install] pairs with [segment.load] and [segment.confirm].
    pointer.compare_exchange(ptr::null_mut(), new, Ordering::Release, Ordering::Relaxed).is_ok()
}

/// Loads what is installed. If nothing is, a later install sees the sweep that called this.
fn confirm<T>(installed: &AtomicPtr<T>) -> Option<NonNull<T>> {
    // ORDERING: Acquire [segment.load] pairs with [segment.install].
    let mut found = installed.load(Ordering::Acquire);
    if found.is_null() {
        // Step N2.
        // ORDERING: Release / Acquire [segment.confirm] pairs with [segment.install] and [segment.load]: an
        // RMW, so that the install comes before it, and is seen here, or after it; then a thread that loads
        // the pointer sees our sweep.
        found = installed
            .compare_exchange(found, found, Ordering::Release, Ordering::Acquire)
            .unwrap_or_else(|other| other);
    }
    NonNull::new(found)
}

impl<P, O> Links for Segments<P, O> {
    #[inline]
    fn link(&self, index: u32) -> u64 {
        self.slot(index).map_or(0, Slot::charge_or_link)
    }

    #[inline]
    fn set_link(&self, index: u32, link: u64) {
        if let Some(slot) = self.slot(index) {
            slot.set_charge_or_link(link);
        }
    }
}

impl<P, O> Drop for Segments<P, O> {
    fn drop(&mut self) {
        // ORDERING: Relaxed [segment.last]: no other thread is left.
        let table = NonNull::new(self.far.load(Ordering::Relaxed));
        // SAFETY: ours, from a box, and no other thread is left that could read it.
        let table = table.map(|table| unsafe { Box::from_raw(table.as_ptr()) });
        for (number, installed) in
            self.near.iter().chain(table.iter().flat_map(|t| &**t)).enumerate()
        {
            // ORDERING: Relaxed [segment.last]: no other thread is left.
            let slots = installed.load(Ordering::Relaxed);
            if !slots.is_null() {
                // SAFETY: installed under this number, and no other thread is left that could read it.
                unsafe { free(number, slots) };
            }
        }
    }
}

fn allocate<P, O>(len: usize) -> *mut Slot<P, O> {
    let layout = layout::<P, O>(len);
    // SAFETY: the layout is not of size zero: a segment has slots, and a slot has a state.
    let memory = unsafe { alloc_zeroed(layout) };
    if memory.is_null() {
        handle_alloc_error(layout);
    }
    let slots = memory.cast::<Slot<P, O>>();
    // SAFETY: within the allocation, aligned by its layout, and not shared yet. Slots may stay zero.
    unsafe {
        let bounds = slots.add(len).cast::<Bound>();
        for bound in 0..=blocks(len) {
            bounds.add(bound).write(Bound::new());
        }
        #[cfg(cloakroom_loom)]
        for slot in 0..len {
            slots.add(slot).write(Slot::new());
        }
    }
    slots
}

/// Views the segment that starts at `slots`.
///
/// # Safety
/// The slots were allocated for a segment of this number.
#[inline]
unsafe fn view<'a, P, O>(number: usize, slots: NonNull<Slot<P, O>>) -> Segment<'a, P, O> {
    let (first, len) = span(number);
    // SAFETY: what `allocate` laid out.
    unsafe {
        let bounds = slots.add(len).cast::<Bound>();
        Segment {
            first,
            slots: slice::from_raw_parts(slots.as_ptr(), len),
            bound: bounds.as_ref(),
            blocks: slice::from_raw_parts(bounds.as_ptr().add(1), blocks(len)),
        }
    }
}

/// Frees the segment that starts at `slots`.
///
/// # Safety
/// As for `view`, and nothing refers to the segment any more.
unsafe fn free<P, O>(number: usize, slots: *mut Slot<P, O>) {
    let layout = layout::<P, O>(span(number).1);
    // SAFETY: the layout it was allocated with. Slots and bounds have nothing to drop: entries were drained.
    unsafe { dealloc(slots.cast(), layout) };
}

impl<P, O> Segment<'_, P, O> {
    /// Iterates over the blocks: each one's first index, its slots, its bound.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (u32, &[Slot<P, O>], &Bound)> {
        let firsts = (self.first..).step_by(BLOCK);
        firsts.zip(self.slots.chunks(BLOCK)).zip(self.blocks).map(|((f, s), b)| (f, s, b))
    }
}

#[cfg(all(test, not(cloakroom_loom)))]
mod tests {
    use super::*;

    #[test]
    fn locate_is_dense_and_span_is_its_inverse() {
        let (mut segment, mut offset) = (0, 0);
        for index in 0..1_000_000 {
            assert_eq!(locate(index), (segment, offset), "{index}");
            let (first, len) = span(segment);
            assert_eq!(first as usize + offset, index as usize);
            offset += 1;
            if offset == len {
                (segment, offset) = (segment + 1, 0);
            }
        }
        let (last, _) = locate(MAX_SLOTS - 1);
        assert_eq!(last, SEGMENTS - 1);
        let (first, len) = span(last);
        assert_eq!(first as usize + len, MAX_SLOTS as usize);
    }

    #[test]
    fn about_a_sixteenth_is_ahead_of_need() {
        for segment in 0..SEGMENTS {
            let (used, len) = span(segment);
            assert!(len <= (used as usize + 256) / 16, "{segment}");
        }
    }

    #[test]
    fn blocks_cover_a_segment() {
        let segments = Segments::<Vec<u8>, ()>::new();
        for index in [0, 5_000, 200_000] {
            segments.grow(index);
            let (slot, [block, _]) = segments.location(index).unwrap();
            let number = locate(index).0;
            // ORDERING: Relaxed [segment.last]: no other thread is here.
            let slots =
                NonNull::new(segments.pointer(number).unwrap().load(Ordering::Relaxed)).unwrap();
            // SAFETY: installed.
            let segment = unsafe { view(number, slots) };
            let mut covered = 0;
            for (first, slots, bound) in segment.blocks() {
                assert_eq!(first, segment.first + covered);
                covered += slots.len() as u32;
                if (first..segment.first + covered).contains(&index) {
                    assert!(ptr::eq(bound, block));
                    assert!(ptr::eq(&slots[(index - first) as usize], slot));
                }
            }
            assert_eq!(covered as usize, segment.slots.len());
        }
    }
}
