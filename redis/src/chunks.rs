//! Sends and fetches large payloads in chunks, beside the steps, so that they delay no other step and can be resumed.
//!
//! A chunk is a plain `SET` with `NX` and a time to live. So a chunk that an old connection delivers late changes
//! nothing that is there, and expires by itself if nothing is. `store` makes the chunks permanent.
//!
//! A reservation stays after a refusal, and its ticket with it. So the next payload's chunks have other numbers: what is
//! there, or comes late, of the refused one is no part of it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use redis::Value;
use tokio::sync::SemaphorePermit;

use crate::engine::{Engine, StepError};
use crate::library::{CHUNK, INLINE, SERIES};
use crate::owner::Id;
use crate::session::Session;

/// How long a chunk that was not stored stays, after the others could be sent.
const ORPHAN: Duration = Duration::from_secs(60);

/// The first chunk must be there when the last one is: each two may take as long as the patience.
fn life(chunks: usize, patience: Duration) -> u64 {
    let life = ORPHAN.saturating_add(patience.saturating_mul(chunks.div_ceil(2) as u32));
    // 71 years at most.
    life.as_millis().min(1 << 41) as u64
}

pub(crate) fn chunk_count(size: usize) -> usize {
    if size <= INLINE { 0 } else { size.div_ceil(CHUNK) }
}

/// How many payloads were tried under a ticket before their chunks' numbers begin anew. Those of the first have expired.
const TRIES: usize = 1 << 20;

/// Returns the number of the first chunk of a payload that was tried after so many others.
pub(crate) fn first_chunk(tries: usize) -> usize {
    tries % TRIES * SERIES
}

fn key(engine: &Engine, id: &Id, chunk: usize) -> Vec<u8> {
    let mut key = format!("{}p:", engine.prefix).into_bytes();
    key.extend_from_slice(id);
    key.extend_from_slice(format!(":{chunk}").as_bytes());
    key
}

/// A payload's chunks on their way to the engine.
pub(crate) struct Sending<'a> {
    pub(crate) engine: &'a Arc<Engine>,
    pub(crate) session: &'a Arc<Session>,
    pub(crate) id: &'a Id,
    /// The number of the first.
    pub(crate) first: usize,
    pub(crate) payload: &'a Bytes,
}

impl Sending<'_> {
    /// Sends chunks, two at a time, which keeps the link busy and delays other steps little.
    ///
    /// The patience begins anew with each two.
    pub(crate) async fn send(&self, chunks: Range<usize>) -> Result<(), StepError> {
        for chunk in chunks.clone().step_by(2) {
            let chunks = chunk..chunks.end.min(chunk + 2);
            let room = self.room(chunks.len()).await;
            self.send_in(room, chunks).await?;
        }
        Ok(())
    }

    /// Waits until so many chunks may be on their way.
    pub(crate) async fn room(&self, chunks: usize) -> SemaphorePermit<'_> {
        self.engine.chunks.acquire_many(chunks as u32).await.expect("never closed")
    }

    /// Sends two chunks, one, or none.
    pub(crate) async fn send_in(
        &self,
        _room: SemaphorePermit<'_>,
        chunks: Range<usize>,
    ) -> Result<(), StepError> {
        let (one, other) = (chunks.start, chunks.start + 1);
        match chunks.len() {
            0 => Ok(()),
            1 => self.send_one(one).await,
            _ => tokio::try_join!(self.send_one(one), self.send_one(other)).map(drop),
        }
    }

    async fn send_one(&self, chunk: usize) -> Result<(), StepError> {
        let payload = self.payload;
        let bytes = &payload[chunk * CHUNK..payload.len().min((chunk + 1) * CHUNK)];
        let mut set = redis::cmd("SET");
        set.arg(key(self.engine, self.id, self.first + chunk)).arg(bytes);
        let life = life(chunk_count(payload.len()), self.engine.config.patience);
        set.arg("NX").arg("PX").arg(life);
        // Nil when it is there already: an earlier try did it.
        self.engine.plain::<Value>(self.session, &set, self.engine.deadline()).await.map(drop)
    }
}

/// Fetches the chunks of a claimed payload. `chunks` is as in its record.
pub(crate) async fn fetch_chunks(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    id: &Id,
    chunks: usize,
) -> Result<Bytes, StepError> {
    let (first, chunks) = (chunks / SERIES * SERIES, chunks % SERIES);
    let fetch = |chunk: usize| async move {
        let mut get = redis::cmd("GET");
        get.arg(key(engine, id, first + chunk));
        // Never closed. The patience begins after it.
        let _room = engine.chunks.acquire().await;
        let bytes = engine.plain::<Option<Vec<u8>>>(session, &get, engine.deadline()).await?;
        // Gone: the claim has ended with its session.
        bytes.ok_or(StepError::Lost)
    };
    let mut payload = BytesMut::with_capacity(chunks * CHUNK);
    for chunk in (0..chunks).step_by(2) {
        if chunk + 1 < chunks {
            let (one, other) = tokio::try_join!(fetch(chunk), fetch(chunk + 1))?;
            payload.extend_from_slice(&one);
            payload.extend_from_slice(&other);
        } else {
            let last = fetch(chunk).await?;
            // One chunk alone needs no copy.
            if chunk == 0 {
                return Ok(last.into());
            }
            payload.extend_from_slice(&last);
        }
    }
    Ok(payload.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_cut_where_the_engine_cuts_them() {
        for (size, chunks) in
            [(0, 0), (INLINE, 0), (INLINE + 1, 1), (CHUNK, 1), (CHUNK + 1, 2), (3 * CHUNK, 3)]
        {
            assert_eq!(chunk_count(size), chunks);
        }
    }
}
