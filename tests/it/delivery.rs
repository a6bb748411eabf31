//! B13: delivery in parts. What was read decides whether a claim is delivered or put back: by a reader, by a
//! stream of bytes, by a stream of items. The body is in `http_body.rs`.

use std::collections::VecDeque;
use std::io::{BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use cloakroom::{Chunks, ClaimReader, ManualClock, OnDrop, Payload, Stash, Ticket};

use crate::fixtures::{ALICE, TestStash, checked_stats, payload, put, stash_with, state, take};

/// A payload in several chunks, some of them empty.
struct Rope(Vec<Bytes>);

impl Payload for Rope {
    fn size(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }
}

impl Chunks for Rope {
    fn chunk(&self, index: usize) -> Option<&[u8]> {
        self.0.chunk(index)
    }
}

impl AsRef<[Bytes]> for Rope {
    fn as_ref(&self) -> &[Bytes] {
        &self.0
    }
}

fn rope(sizes: &[usize]) -> Rope {
    Rope(sizes.iter().map(|&size| payload(size).into()).collect())
}

fn stash_of_ropes() -> Stash<Rope, u8> {
    let builder = Stash::builder().max_bytes(1 << 20).entry_overhead(8);
    builder.clock(ManualClock::new()).build().unwrap()
}

fn put_rope(stash: &Stash<Rope, u8>, sizes: &[usize]) -> (Ticket, Vec<u8>) {
    let rope = rope(sizes);
    let whole = rope.0.concat();
    (stash.try_put(ALICE, rope).unwrap(), whole)
}

fn test_stash() -> TestStash {
    stash_with(|builder| builder.max_bytes(1 << 20).entry_overhead(8)).0
}

/// Numbers of open claims, delivered entries, and claims put back.
fn counts<P, O>(stash: &Stash<P, O>) -> (u64, u64, u64) {
    let stats = checked_stats(stash);
    (stats.claims, stats.delivered, stats.put_back)
}

fn reader(stash: &TestStash, ticket: Ticket) -> ClaimReader {
    stash.claim(&ticket, &ALICE).expect("it is there").into_reader()
}

#[test]
fn w7_a_reader_that_was_read_to_its_end_and_is_put_back() {
    let stash = test_stash();
    for size in [1, 100, 100_000] {
        // Exactly, without asking for the end.
        let mut first = reader(&stash, put(&stash, size));
        let mut all = vec![0; size];
        first.read_exact(&mut all).unwrap();
        assert!(all == payload(size));
        assert_eq!(state(&stash), (0, 0, 0), "its bytes are free before it is dropped");
        assert_eq!((first.read(&mut [0; 4]).unwrap(), first.remaining()), (0, 0));
        drop(first);
        // By the buffer, and to the end.
        let mut second = reader(&stash, put(&stash, size));
        let (len, mut read) = (second.fill_buf().unwrap().len(), Vec::new());
        assert_eq!((len, stash.len()), (size, 1), "it was shown, not consumed");
        second.consume(len - 1);
        assert_eq!((second.remaining(), stash.len()), (1, 1));
        second.read_to_end(&mut read).unwrap();
        assert_eq!(read, payload(size)[size - 1..]);
        drop(second);
    }
    assert_eq!((counts(&stash), state(&stash)), ((0, 6, 0), (0, 0, 0)));
}

#[test]
fn b13_a_reader_that_is_dropped_before_its_end_puts_back() {
    let stash = test_stash();
    let ticket = put(&stash, 100);
    for (times, read) in [0, 1, 50, 99].into_iter().enumerate() {
        let mut reader = reader(&stash, ticket);
        reader.read_exact(&mut vec![0; read]).unwrap();
        assert_eq!((reader.remaining(), counts(&stash).0), (100 - read as u64, 1));
        drop(reader);
        assert_eq!((counts(&stash), state(&stash)), ((0, 0, times as u64 + 1), (1, 108, 0)));
    }
    let mut all = Vec::new();
    reader(&stash, ticket).read_to_end(&mut all).unwrap();
    assert_eq!((all, take(&stash, ticket)), (payload(100), None));
}

#[test]
fn w17_an_empty_reader_that_nobody_read() {
    let stash = test_stash();
    let ticket = put(&stash, 0);
    drop(reader(&stash, ticket));
    // Nothing was asked for.
    assert_eq!(reader(&stash, ticket).read(&mut []).unwrap(), 0);
    assert_eq!((counts(&stash), stash.len()), ((0, 0, 2), 1));
    assert_eq!(reader(&stash, ticket).read(&mut [0]).unwrap(), 0);
    assert_eq!((counts(&stash), stash.len()), ((0, 1, 2), 0));
    assert!(reader(&stash, put(&stash, 0)).fill_buf().unwrap().is_empty());
    assert_eq!((counts(&stash), stash.len()), ((0, 2, 2), 0));
}

#[test]
fn w6_readers_and_bytes_that_ignore_what_was_said_about_their_drop() {
    let stash = test_stash();
    for size in [0, 100] {
        let claim = |ticket| stash.claim(&ticket, &ALICE).unwrap();
        let ticket = put(&stash, size);
        drop(claim(ticket).on_drop(OnDrop::PutBack).into_reader());
        drop(claim(ticket).on_drop(OnDrop::PutBack).into_bytes());
        let bytes = claim(ticket).on_drop(OnDrop::PutBack).into_bytes();
        let clone = bytes.clone();
        drop(bytes);
        assert!(stash.claim(&ticket, &ALICE).is_none(), "a clone is there");
        drop(clone);
        drop(claim(ticket).on_drop(OnDrop::Finish).into_reader());
        assert_eq!(stash.len(), 0);
        drop(claim(put(&stash, size)).on_drop(OnDrop::Finish).into_bytes());
        drop(claim(put(&stash, size)).into_bytes());
        assert_eq!(stash.len(), 0);
    }
    assert_eq!((counts(&stash), state(&stash)), ((0, 6, 6), (0, 0, 0)));
}

#[test]
fn b13_a_reader_crosses_chunks_and_passes_over_empty_ones() {
    let stash = stash_of_ropes();
    for sizes in [&[0, 3, 0, 0, 5, 1, 0][..], &[7], &[1, 1], &[0, 0], &[]] {
        let (ticket, whole) = put_rope(&stash, sizes);
        let mut reader = stash.claim(&ticket, &ALICE).unwrap().into_reader();
        assert_eq!(reader.remaining(), whole.len() as u64);
        if let Some(half) = whole.len().checked_sub(2) {
            reader.read_exact(&mut vec![0; half]).unwrap();
            assert_eq!(reader.remaining(), 2);
            drop(reader);
            assert_eq!(stash.len(), 1, "{sizes:?}");
            reader = stash.claim(&ticket, &ALICE).unwrap().into_reader();
        }
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert_eq!((all, stash.len(), stash.used_bytes()), (whole, 0, 0), "{sizes:?}");
    }
}

#[test]
fn b13_lists_of_bytes_and_single_buffers_are_chunks() {
    fn read<K>(chunks: &impl Chunks<K>) -> Vec<Vec<u8>> {
        (0..).map_while(|index| chunks.chunk(index).map(<[u8]>::to_vec)).collect()
    }
    let two = [b"one".to_vec(), b"two".to_vec()];
    assert_eq!(read(&two.to_vec()), two);
    assert_eq!(read(&VecDeque::from(two.clone())), two);
    assert_eq!(read(&Vec::from(two.clone()).into_boxed_slice()), two);
    assert_eq!(read(&two.iter().cloned().map(Bytes::from).collect::<Arc<[_]>>()), two);
    assert_eq!(read(&b"one".to_vec()), [b"one"]);
    assert_eq!(read(&"one".to_owned()), [b"one"]);
    assert_eq!(read(&Bytes::new()), [b""]);
}

/// Without a weigher.
#[test]
fn b13_lists_that_are_chunks_are_payloads() {
    fn put_and_read<P: Payload + Chunks + Send + Sync + 'static>(list: P) -> Vec<u8> {
        let (size, mut all) = (list.size(), Vec::new());
        let stash = Stash::builder().max_bytes(1_000).entry_overhead(0).build().unwrap();
        let ticket = stash.try_put((), list).unwrap();
        assert_eq!(stash.used_bytes(), size as u64);
        stash.claim(&ticket, &()).unwrap().into_reader().read_to_end(&mut all).unwrap();
        all
    }
    let two = || [Bytes::from("one"), Bytes::from("two")];
    let mut around = VecDeque::from([Bytes::from("two")]);
    around.push_front(Bytes::from("one"));
    assert_eq!(around.size(), two().to_vec().size());
    assert_eq!(put_and_read(around), b"onetwo");
    assert_eq!(put_and_read(two().to_vec()), b"onetwo");
    assert_eq!(put_and_read(Box::<[Bytes]>::from(two())), b"onetwo");
    assert_eq!(put_and_read(Arc::<[Bytes]>::from(two())), b"onetwo");
}

/// Panics when it is asked for a chunk for the nth time.
struct Fragile(AtomicUsize);

impl Payload for Fragile {
    fn size(&self) -> usize {
        20
    }
}

impl Chunks for Fragile {
    fn chunk(&self, index: usize) -> Option<&[u8]> {
        let asked = self.0.fetch_sub(1, Ordering::Relaxed);
        assert!(asked != 1, "on purpose");
        (index < 2).then_some(&[7; 10])
    }
}

#[test]
fn b13_a_payload_that_panics_while_it_is_read_is_put_back() {
    // Three times for the lengths, then once for each chunk.
    for nth in 1..=5 {
        let stash: Stash<Fragile, u8> = Stash::builder().max_bytes(1_000).build().unwrap();
        let ticket = stash.try_put(ALICE, Fragile(AtomicUsize::new(nth))).unwrap();
        let read = || stash.claim(&ticket, &ALICE).unwrap().into_reader().read_to_end(&mut vec![]);
        assert!(catch_unwind(AssertUnwindSafe(read)).is_err());
        assert_eq!((counts(&stash), stash.len()), ((0, 0, 1), 1), "{nth}");
        assert_eq!(read().unwrap(), 20);
        assert_eq!((counts(&stash), stash.len()), ((0, 1, 1), 0), "{nth}");
    }
}

#[test]
fn b13_cleared_while_it_is_read_it_can_be_read_to_its_end() {
    let stash = test_stash();
    let [read, dropped] = [put(&stash, 100), put(&stash, 100)];
    let (mut read, dropped) = (reader(&stash, read), reader(&stash, dropped));
    read.read_exact(&mut [0; 50]).unwrap();
    assert_eq!(stash.clear(), 0);
    drop(dropped);
    read.read_exact(&mut [0; 50]).unwrap();
    let stats = checked_stats(&stash);
    assert_eq!((stats.delivered, stats.cleared, stats.put_back, stats.entries), (1, 1, 0, 0));
}

#[cfg(feature = "http-body")]
#[test]
fn b13_a_body_of_several_chunks() {
    use http_body::Body;
    use http_body_util::BodyExt;

    let stash = stash_of_ropes();
    for sizes in [&[0, 3, 0, 100_000, 1, 0][..], &[7], &[0, 0], &[]] {
        let (ticket, whole) = put_rope(&stash, sizes);
        let mut body = stash.claim(&ticket, &ALICE).unwrap().into_body();
        if whole.len() > 3 {
            assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
            let frame = futures_lite::future::block_on(body.frame()).unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap().len(), whole.len().min(sizes[0].max(3)));
        }
        drop(body);
        let open = usize::from(whole.len() != 7);
        assert_eq!(stash.len(), open, "{sizes:?}");
        if open == 1 {
            let body = stash.claim(&ticket, &ALICE).unwrap().into_body();
            let all = futures_lite::future::block_on(body.collect()).unwrap().to_bytes();
            assert_eq!(all.len(), whole.len());
            assert!(all == whole);
        }
        drop(whole);
        assert_eq!((stash.len(), stash.used_bytes()), (0, 0), "{sizes:?}");
    }
}

#[cfg(feature = "stream")]
mod streams {
    use futures_core::Stream;
    use futures_lite::StreamExt;
    use futures_lite::future::block_on;

    use super::*;

    #[test]
    fn b13_a_stream_of_bytes_is_charged_until_its_last_chunk_is_dropped() {
        let stash = stash_of_ropes();
        let (ticket, whole) = put_rope(&stash, &[0, 3, 100_000, 1, 0]);
        let mut stream = stash.claim(&ticket, &ALICE).unwrap().into_stream();
        assert_eq!(stream.size_hint(), (2, None));
        let first = block_on(stream.next()).unwrap();
        assert_eq!((first.len(), counts(&stash).0), (3, 1));
        drop(stream);
        assert_eq!(counts(&stash), (1, 0, 0), "a chunk is out");
        drop(first);
        assert_eq!(counts(&stash), (0, 0, 1));
        let stream = stash.claim(&ticket, &ALICE).unwrap().into_stream();
        let chunks: Vec<Bytes> = block_on(stream.collect());
        assert!(chunks.concat() == whole);
        let sizes: Vec<usize> = chunks.iter().map(Bytes::len).collect();
        assert_eq!(sizes, [3, 64 << 10, 100_000 - (64 << 10), 1]);
        assert_eq!((counts(&stash), stash.used_bytes()), ((1, 0, 1), 100_012));
        drop(chunks);
        assert_eq!((counts(&stash), stash.used_bytes()), ((0, 1, 1), 0));
    }

    #[test]
    fn b13_the_last_chunk_is_enough_and_less_is_not() {
        let stash = stash_of_ropes();
        let (ticket, _) = put_rope(&stash, &[10, 10]);
        for read in 0..=2 {
            let mut stream = stash.claim(&ticket, &ALICE).unwrap().into_stream();
            (0..read).for_each(|_| drop(block_on(stream.next()).unwrap()));
            drop(stream);
            assert_eq!(stash.len(), usize::from(read < 2), "{read}");
        }
        assert_eq!(counts(&stash), (0, 1, 2));
    }

    #[test]
    fn b13_items_are_clones_and_the_last_one_delivers() {
        let stash = stash_of_ropes();
        let (ticket, _) = put_rope(&stash, &[1, 2, 3]);
        for read in 0..=3 {
            let mut items = stash.claim(&ticket, &ALICE).unwrap().into_items();
            for size in 1..=read {
                assert_eq!(items.size_hint(), (4 - size, Some(4 - size)));
                assert_eq!(block_on(items.next()).unwrap(), payload(size));
            }
            assert_eq!(counts(&stash).0, 1, "charged until the stream ends");
            drop(items);
            assert_eq!(stash.len(), usize::from(read < 3), "{read}");
        }
        let (ticket, _) = put_rope(&stash, &[1]);
        let mut items = stash.claim(&ticket, &ALICE).unwrap().into_items();
        assert!(block_on(items.next()).is_some());
        assert!(block_on(items.next()).is_none());
        assert_eq!((stash.len(), stash.used_bytes()), (0, 0), "at the end, before the drop");
        assert!(block_on(items.next()).is_none(), "and again");
        assert_eq!(counts(&stash), (0, 2, 3));
    }

    #[test]
    fn w17_a_stream_of_nothing_that_nobody_polled() {
        let stash = stash_of_ropes();
        let (ticket, _) = put_rope(&stash, &[]);
        let claim = |ticket| stash.claim(&ticket, &ALICE).unwrap();
        drop(claim(ticket).into_stream());
        drop(claim(ticket).into_items());
        assert_eq!((counts(&stash), stash.len()), ((0, 0, 2), 1));
        assert!(block_on(claim(ticket).into_stream().next()).is_none());
        assert_eq!((counts(&stash), stash.len()), ((0, 1, 2), 0));
        let (ticket, _) = put_rope(&stash, &[]);
        assert!(block_on(claim(ticket).into_items().next()).is_none());
        assert_eq!((counts(&stash), stash.len()), ((0, 2, 2), 0));
    }

    #[test]
    fn w6_streams_that_ignore_what_was_said_about_their_drop() {
        let stash = stash_of_ropes();
        for sizes in [&[][..], &[10, 10]] {
            for on_drop in [OnDrop::PutBack, OnDrop::Finish] {
                let put = || stash.claim(&put_rope(&stash, sizes).0, &ALICE).unwrap();
                drop(put().on_drop(on_drop).into_stream());
                drop(put().on_drop(on_drop).into_items());
                let kept = if on_drop == OnDrop::PutBack { 2 } else { 0 };
                assert_eq!((stash.len(), counts(&stash).0), (kept, 0));
                stash.clear();
            }
        }
    }

    /// An item whose clone panics while it is told to.
    struct Shy(Arc<AtomicUsize>);

    impl Clone for Shy {
        fn clone(&self) -> Self {
            assert!(self.0.load(Ordering::Relaxed) == 0, "on purpose");
            Self(Arc::clone(&self.0))
        }
    }

    struct Shies(Vec<Shy>);

    impl Payload for Shies {
        fn size(&self) -> usize {
            1
        }
    }

    impl AsRef<[Shy]> for Shies {
        fn as_ref(&self) -> &[Shy] {
            &self.0
        }
    }

    #[test]
    fn b13_an_item_whose_clone_panics_was_not_handed_out() {
        let stash: Stash<Shies, u8> = Stash::builder().max_bytes(1_000).build().unwrap();
        let panics = Arc::new(AtomicUsize::new(1));
        let ticket = stash.try_put(ALICE, Shies(vec![Shy(Arc::clone(&panics))])).unwrap();
        let mut items = stash.claim(&ticket, &ALICE).unwrap().into_items();
        assert!(catch_unwind(AssertUnwindSafe(|| block_on(items.next()).is_some())).is_err());
        drop(items);
        assert_eq!((counts(&stash), stash.len()), ((0, 0, 1), 1));
        panics.store(0, Ordering::Relaxed);
        let items = stash.claim(&ticket, &ALICE).unwrap().into_items();
        assert_eq!((block_on(items.count()), counts(&stash)), (1, (0, 1, 1)));
    }

    #[test]
    fn b13_streams_may_be_boxed_and_sent() {
        fn fits<S: Stream + Send + Sync + Unpin + 'static>(_: &S) {}
        let stash = stash_of_ropes();
        let (ticket, _) = put_rope(&stash, &[10]);
        let claim = || stash.claim(&ticket, &ALICE).unwrap();
        fits(&claim().into_stream());
        fits(&claim().into_items());
        assert_eq!(format!("{:?}", claim().into_stream()), "ClaimStream { rest: 10, .. }");
        assert_eq!(format!("{:?}", claim().into_items()), "ClaimItems { left: 1, .. }");
    }
}
