//! Reads a claim as a `Read` and a `BufRead`.

use std::fmt;
use std::io::{self, BufRead, Read};

use super::claim::Claim;
use super::delivery::{Chunks, Deliver, Parts};

/// Reads a claim's payload, made by [`Claim::into_reader`]: for threads, files, and blocking sockets.
///
/// When the caller reads the last byte, the claim is delivered and its bytes are released. A reader that is dropped
/// before that puts the whole payload back, unless [`Claim::on_drop`] said otherwise. An empty payload is delivered
/// when a read has returned the end.
///
/// Reading never fails and never blocks.
///
/// [`io::copy`] reads before it writes: if the last write fails, the payload has been read to its end, and is gone.
/// To be exact, write from the reader's own buffer and consume the bytes that were written:
///
/// ```
/// use std::io::{self, BufRead, Write};
/// use cloakroom::ClaimReader;
///
/// fn send(mut reader: ClaimReader, mut socket: impl Write) -> io::Result<()> {
///     loop {
///         let buffer = reader.fill_buf()?;
///         if buffer.is_empty() {
///             return Ok(());
///         }
///         let written = socket.write(buffer)?;
///         if written == 0 {
///             return Err(io::ErrorKind::WriteZero.into());
///         }
///         reader.consume(written);
///     }
/// }
/// # let stash = cloakroom::Stash::<Vec<u8>, ()>::builder().max_bytes(1_000).build().unwrap();
/// # let ticket = stash.try_put((), vec![7; 100]).unwrap();
/// # let claim = || stash.claim(&ticket, &()).unwrap().into_reader();
/// # let mut full = &mut [0; 50][..];
/// # assert!(send(claim(), &mut full).is_err());
/// # let mut all = Vec::new();
/// # send(claim(), &mut all)?;
/// # assert_eq!((all.len(), stash.len()), (100, 0));
/// # Ok::<(), io::Error>(())
/// ```
#[must_use = "a reader that is dropped puts its payload back"]
pub struct ClaimReader {
    parts: Parts,
}

impl<P, O> Claim<P, O>
where
    P: Send + Sync + 'static,
    O: Send + 'static,
{
    /// Turns the claim into a reader, which delivers it at its end.
    ///
    /// A reader that is dropped before its end puts the payload back. Only the bytes that are read are copied.
    ///
    /// # Complexity
    ///
    /// O([chunks](Chunks)): one for payloads that are `AsRef<[u8]>`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::Read;
    /// # let stash = cloakroom::Stash::<Vec<u8>, ()>::builder().max_bytes(1_000).build().unwrap();
    /// # let ticket = stash.try_put((), vec![7; 100]).unwrap();
    /// let mut reader = stash.claim(&ticket, &()).unwrap().into_reader();
    /// reader.read_exact(&mut [0; 60])?;
    /// drop(reader); // the client went away
    ///
    /// let mut all = Vec::new();
    /// stash.claim(&ticket, &()).unwrap().into_reader().read_to_end(&mut all)?;
    /// assert_eq!((all.len(), stash.used_bytes()), (100, 0));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_reader<K: 'static>(self) -> ClaimReader
    where
        P: Chunks<K>,
    {
        ClaimReader::new(self)
    }
}

impl ClaimReader {
    pub(crate) fn new<C: Deliver, K: 'static>(claim: C) -> Self
    where
        C::Target: Chunks<K>,
    {
        Self { parts: Parts::new(claim) }
    }

    /// Returns how many bytes have not been read yet.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.parts.left()
    }
}

impl Read for ClaimReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // Nothing was asked for: not a sign that the end was seen.
        if buf.is_empty() {
            return Ok(0);
        }
        let part = self.parts.peek();
        let len = part.len().min(buf.len());
        buf[..len].copy_from_slice(&part[..len]);
        self.parts.consume(len);
        Ok(len)
    }
}

impl BufRead for ClaimReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(self.parts.peek())
    }

    /// # Panics
    ///
    /// If `amount` is more than [`fill_buf`](Self::fill_buf) returned.
    fn consume(&mut self, amount: usize) {
        self.parts.consume(amount);
    }
}

impl fmt::Debug for ClaimReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimReader").field("remaining", &self.remaining()).finish_non_exhaustive()
    }
}
