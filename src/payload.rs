//! What can be stored.

use std::sync::Arc;

use bytes::Bytes;

/// Something that can be stored, because it can tell its size.
///
/// The size is asked for once, when the payload is put; what it said then is charged, and exactly that
/// is given back, whatever it says later. It should be the memory that goes away with the payload.
/// The implementations here count contents, not spare capacity: shrink a `Vec` that has much of it, or
/// turn it into a `Box` or `Bytes`.
///
/// ```
/// use cloakroom::{Payload, Stash};
///
/// struct Rendered {
///     html: String,
///     thumbnail: Vec<u8>,
/// }
///
/// impl Payload for Rendered {
///     fn size(&self) -> usize {
///         self.html.len() + self.thumbnail.len()
///     }
/// }
///
/// let stash: Stash<Rendered> = Stash::builder().max_bytes(1 << 20).build()?;
/// # Ok::<(), cloakroom::ConfigError>(())
/// ```
pub trait Payload {
    /// Its size in bytes.
    fn size(&self) -> usize;
}

macro_rules! payload_by_len {
    ($($type:ty),*) => {
        $(impl Payload for $type {
            fn size(&self) -> usize {
                self.len()
            }
        })*
    };
}

payload_by_len!(Bytes, Vec<u8>, Box<[u8]>, Arc<[u8]>, String, Box<str>, Arc<str>);
