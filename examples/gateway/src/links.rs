//! Signed, expiring links.
//!
//! A link names a result and the second at which it expires, and carries an HMAC-SHA256 over both. The
//! key is made when the gateway starts and never leaves it, so only the gateway can make or change a link.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;
use uuid::Uuid;

/// Where results are served by link; the id of the result follows.
pub const PATH: &str = "/api/analytics/external-result";

/// Seconds since the Unix epoch.
pub type UnixSeconds = u64;

/// The current second.
pub fn now() -> UnixSeconds {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// The part of a link that follows the question mark.
#[derive(Debug, Deserialize)]
pub struct LinkQuery {
    expires: UnixSeconds,
    signature: String,
}

/// Why a link was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkError {
    /// It was not made by this gateway, or was changed since.
    Tampered,
    /// It was good until it expired.
    Expired,
}

/// Makes links, and verifies them.
pub struct LinkSigner {
    key: [u8; 32],
}

impl std::fmt::Debug for LinkSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkSigner(..)")
    }
}

impl LinkSigner {
    /// A signer with a key of its own, from the system's generator.
    pub fn new() -> Self {
        LinkSigner { key: rand::random() }
    }

    /// The link to `id` that is good until `expires`.
    pub fn link(&self, id: Uuid, expires: UnixSeconds) -> String {
        let signature = hex::encode(self.mac(id, expires).finalize().into_bytes());
        format!("{PATH}/{id}?expires={expires}&signature={signature}")
    }

    /// Checks the signature before the time, so that only the holder of a genuine link learns that it
    /// expired.
    pub fn check(&self, id: Uuid, query: &LinkQuery, now: UnixSeconds) -> Result<(), LinkError> {
        let signature = hex::decode(&query.signature).map_err(|_| LinkError::Tampered)?;
        self.mac(id, query.expires).verify_slice(&signature).map_err(|_| LinkError::Tampered)?;
        if now < query.expires { Ok(()) } else { Err(LinkError::Expired) }
    }

    fn mac(&self, id: Uuid, expires: UnixSeconds) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(id.as_bytes());
        mac.update(&expires.to_be_bytes());
        mac
    }
}

impl Default for LinkSigner {
    fn default() -> Self {
        LinkSigner::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = Uuid::from_u128(7);

    fn query(link: &str) -> LinkQuery {
        let (_, query) = link.split_once("?expires=").expect("a link expires");
        let (expires, signature) = query.split_once("&signature=").expect("a link is signed");
        LinkQuery { expires: expires.parse().expect("a number"), signature: signature.to_owned() }
    }

    #[test]
    fn a_link_is_good_until_the_second_it_expires() {
        let signer = LinkSigner::new();
        let query = query(&signer.link(ID, 100));
        assert_eq!(signer.check(ID, &query, 99), Ok(()));
        assert_eq!(signer.check(ID, &query, 100), Err(LinkError::Expired));
    }

    #[test]
    fn a_changed_link_is_refused_whatever_was_changed() {
        let signer = LinkSigner::new();
        let genuine = query(&signer.link(ID, 100));
        let later = LinkQuery { expires: 1_000, signature: genuine.signature.clone() };
        assert_eq!(signer.check(ID, &later, 0), Err(LinkError::Tampered));
        assert_eq!(signer.check(Uuid::from_u128(8), &genuine, 0), Err(LinkError::Tampered));
        let mut signature = genuine.signature.clone();
        signature.replace_range(..1, if signature.starts_with('0') { "1" } else { "0" });
        for signature in
            [signature, genuine.signature[..32].to_owned(), String::new(), "zz".repeat(32)]
        {
            let changed = LinkQuery { expires: 100, signature };
            assert_eq!(signer.check(ID, &changed, 0), Err(LinkError::Tampered));
        }
    }

    #[test]
    fn the_link_of_another_gateway_is_refused() {
        let query = query(&LinkSigner::new().link(ID, 100));
        assert_eq!(LinkSigner::new().check(ID, &query, 0), Err(LinkError::Tampered));
    }
}
