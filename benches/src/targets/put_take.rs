//! T1 to T5: put + take, by one thread and by two, with no entries and with many.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{DAY, ROOMY, Timed, payload, small_payload};
use crate::crew::{Crew, Job};
use crate::peers::{
    Claimed, Cloakroom, Floor, Glue, GlueFoldhash, Limited, Moka, Observed, Overflow, OwnTtl,
    Owner, ParkingLotMutex, Peer, Plain, Reserved, Scc, ShardedSlab, StdMutex,
};
use crate::rounds::Candidate;

pub(super) const TIMED: &[Timed] = &[
    Timed {
        target: "T1",
        title: "put + take, 1 thread, nothing held",
        candidates: |_| everyone(1, 0),
    },
    Timed {
        target: "T1",
        title: "put + take, 1 thread, nothing held, by what is in use",
        candidates: |_| {
            let crew = Rc::new(Crew::new(1));
            vec![
                put_take::<Plain>(&crew, 1, 0),
                put_take::<Overflow>(&crew, 1, 0),
                put_take::<OwnTtl>(&crew, 1, 0),
                put_take::<Observed>(&crew, 1, 0),
                put_take::<Reserved>(&crew, 1, 0),
                put_take::<Claimed>(&crew, 1, 0),
                put_take::<Limited>(&crew, 1, 0),
            ]
        },
    },
    Timed {
        target: "T2",
        title: "put + take, 2 threads, nothing held",
        candidates: |_| everyone(2, 0),
    },
    Timed {
        target: "T3",
        title: "put + take, 1 thread, 1 M held",
        candidates: |quick| with_nothing_held(1, million(quick)),
    },
    Timed {
        target: "T3",
        title: "1 thread, 1 M held: take a random one, put another",
        candidates: |quick| {
            let held = million(quick);
            let crew = Rc::new(Crew::new(1));
            vec![
                replace_random::<Cloakroom>(&crew, held),
                replace_random::<Glue>(&crew, held),
                replace_random::<GlueFoldhash>(&crew, held),
                replace_random::<StdMutex>(&crew, held),
                replace_random::<Scc>(&crew, held),
                replace_random::<ShardedSlab>(&crew, held),
            ]
        },
    },
    Timed {
        target: "T4",
        title: "put + take, 2 threads, 1 M held",
        candidates: |quick| with_nothing_held(2, million(quick)),
    },
    Timed {
        target: "T5",
        title: "put + take, 1 thread, by number held",
        candidates: |quick| {
            let crew = Rc::new(Crew::new(1));
            let held = [0, 1_000, 100_000, 1_000_000, 10_000_000];
            let held = &held[..if quick { 3 } else { held.len() }];
            let peers = [put_take::<Cloakroom>, put_take::<Glue>, put_take::<ShardedSlab>];
            let by_held = peers
                .iter()
                .flat_map(|peer| held.iter().map(|held| peer(&crew, 1, *held).at(*held as u64)));
            by_held.collect()
        },
    },
];

pub(super) fn million(quick: bool) -> usize {
    if quick { 10_000 } else { 1_000_000 }
}

pub(super) fn everyone(threads: usize, held: usize) -> Vec<Candidate> {
    let crew = Rc::new(Crew::new(threads));
    vec![
        put_take::<Cloakroom>(&crew, threads, held),
        put_take::<Floor>(&crew, threads, held),
        put_take::<Glue>(&crew, threads, held),
        put_take::<GlueFoldhash>(&crew, threads, held),
        put_take::<StdMutex>(&crew, threads, held),
        put_take::<ParkingLotMutex>(&crew, threads, held),
        put_take::<Scc>(&crew, threads, held),
        put_take::<ShardedSlab>(&crew, threads, held),
        put_take::<Moka>(&crew, threads, held),
    ]
}

/// This crate with no entries, for comparison in the same run.
fn with_nothing_held(threads: usize, held: usize) -> Vec<Candidate> {
    let mut candidates = everyone(threads, held);
    let empty = put_take::<Cloakroom>(&Rc::new(Crew::new(threads)), threads, 0);
    candidates.push(empty.named("cloakroom, nothing held"));
    candidates
}

const HOLDER: Owner = 1;
const VISITOR: Owner = 2;

pub(super) fn put_take<P: Peer>(crew: &Rc<Crew>, threads: usize, held: usize) -> Candidate {
    let crew = Rc::clone(crew);
    Candidate::new(P::NAME, move || {
        let peer = holding::<P>(&crew, threads, held);
        move |operations| {
            let peer = Arc::clone(&peer);
            let job: Job = Arc::new(move |_| {
                let started = Instant::now();
                for _ in 0..operations {
                    let ticket = peer.put(VISITOR, payload()).expect("there is room");
                    black_box(peer.take(black_box(ticket), VISITOR));
                }
                started.elapsed()
            });
            crew.run(&job)
        }
    })
}

/// Each thread has put its share.
fn holding<P: Peer>(crew: &Crew, threads: usize, held: usize) -> Arc<P> {
    let peer = Arc::new(P::new(ROOMY, DAY));
    let filled = Arc::clone(&peer);
    let fill: Job = Arc::new(move |thread| {
        let started = Instant::now();
        for _ in (thread..held).step_by(threads) {
            let _ticket = filled.put(HOLDER, small_payload()).expect("there is room");
        }
        started.elapsed()
    });
    crew.run(&fill);
    peer
}

/// The entry that is taken has long left the caches, so every peer waits for memory.
fn replace_random<P: Peer>(crew: &Rc<Crew>, held: usize) -> Candidate {
    let crew = Rc::clone(crew);
    let put = move |peer: &P| Some(peer.put(HOLDER, payload()).expect("there is room"));
    Candidate::new(P::NAME, move || {
        let peer = P::new(ROOMY, DAY);
        let tickets: Vec<_> = (0..held).map(|_| put(&peer)).collect();
        let state = Arc::new((peer, Mutex::new((tickets, 1_u64))));
        move |operations| {
            let state = Arc::clone(&state);
            let job: Job = Arc::new(move |_| {
                let (peer, of_one_thread) = &*state;
                let (tickets, random) = &mut *of_one_thread.lock().expect("one thread");
                let started = Instant::now();
                for _ in 0..operations {
                    *random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    let place = &mut tickets[(*random >> 33) as usize % held];
                    let taken = peer.take(place.take().expect("put back"), HOLDER);
                    black_box(taken).expect("it was there");
                    *place = put(peer);
                }
                started.elapsed()
            });
            crew.run(&job)
        }
    })
}
