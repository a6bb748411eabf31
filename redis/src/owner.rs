//! Owners and tickets, as the engine knows them: by a hash.

use std::borrow::Cow;
use std::sync::Arc;

use cloakroom::Ticket;
use sha2::{Digest, Sha256};

/// Identifies a ticket, request, claim or owner on the engine.
pub(crate) type Id = [u8; 16];

/// Bytes that tell owners apart.
///
/// Implemented for strings, integers, byte strings and `()`. Two owners are the same owner if their bytes are equal.
pub trait OwnerBytes {
    /// Returns the owner's bytes.
    fn owner_bytes(&self) -> Cow<'_, [u8]>;
}

macro_rules! owner_by_bytes {
    ($($type:ty: $as_bytes:expr),* $(,)?) => {
        $(impl OwnerBytes for $type {
            fn owner_bytes(&self) -> Cow<'_, [u8]> {
                let as_bytes: fn(&$type) -> &[u8] = $as_bytes;
                Cow::Borrowed(as_bytes(self))
            }
        })*
    };
}

owner_by_bytes! {
    (): |_| &[],
    String: |owner| owner.as_bytes(),
    Box<str>: |owner| owner.as_bytes(),
    Arc<str>: |owner| owner.as_bytes(),
    Vec<u8>: |owner| owner,
    Box<[u8]>: |owner| owner,
    bytes::Bytes: |owner| owner,
}

macro_rules! owner_by_value {
    ($($type:ty),*) => {
        $(impl OwnerBytes for $type {
            fn owner_bytes(&self) -> Cow<'_, [u8]> {
                Cow::Owned(self.to_be_bytes().to_vec())
            }
        })*
    };
}

owner_by_value!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128);

/// Stands for no owner.
pub(crate) const NOBODY: Id = [0; 16];

pub(crate) fn owner_id<O: OwnerBytes>(owner: &O) -> Id {
    hash(b"owner", &owner.owner_bytes())
}

/// Hashes the ticket: SLOWLOG, MONITOR and dumps show the hash, which takes nothing.
pub(crate) fn ticket_id(ticket: &Ticket) -> Id {
    hash(b"ticket", ticket.to_string().as_bytes())
}

fn hash(domain: &[u8], bytes: &[u8]) -> Id {
    let digest = Sha256::new()
        .chain_update([domain.len() as u8])
        .chain_update(domain)
        .chain_update(bytes)
        .finalize();
    digest[..16].try_into().expect("a SHA-256 digest has 32 bytes")
}

/// Draws from the system's generator each time: a fork shares no state with its parent.
pub(crate) fn random() -> Id {
    let mut id = [0; 16];
    getrandom::fill(&mut id).expect("the system's random generator works");
    id
}

/// 122 random bits in the form of a version 8 UUID.
pub(crate) fn new_ticket() -> Ticket {
    let mut bits = u128::from_be_bytes(random());
    bits = bits & !(0xf << 76) | 0x8 << 76;
    bits = bits & !(0b11 << 62) | 0b10 << 62;
    let hex = format!("{bits:032x}");
    let text = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
    text.parse().expect("a version 8 UUID is a ticket")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_are_random_and_their_ids_say_nothing_of_them() {
        let (a, b) = (new_ticket(), new_ticket());
        assert_ne!(a, b);
        assert_ne!(ticket_id(&a), ticket_id(&b));
        assert_eq!(ticket_id(&a), ticket_id(&a.to_string().parse().unwrap()));
        let (mut ones, mut zeros) = (0, 0);
        for _ in 0..200 {
            let bits =
                u128::from_str_radix(&new_ticket().to_string().replace('-', ""), 16).unwrap();
            ones |= bits;
            zeros |= !bits;
        }
        assert_eq!(ones.count_ones() + zeros.count_ones() - 128, 122, "all but six bits vary");
    }

    #[test]
    fn owners_of_different_types_and_lengths_do_not_collide() {
        let ids = [
            owner_id(&()),
            owner_id(&String::from("a")),
            owner_id(&String::from("a|b")),
            owner_id(&97_u16),
            owner_id(&97_u32),
        ];
        for (at, id) in ids.iter().enumerate() {
            assert!(!ids[..at].contains(id) && *id != NOBODY);
        }
    }
}
