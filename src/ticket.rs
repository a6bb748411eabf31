//! Names the slot of a payload, with a secret that proves the right to it.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use crate::secrets;

/// Identifies a stored payload: with it, the payload's owner may take the payload, once.
///
/// It is 128 bits in the form of a version 8 UUID. 32 of them name the slot; 90 are from a cryptographically
/// secure random generator, so a ticket cannot be guessed, not even from another ticket. Send it to its owner
/// only. `Display` writes all of it, as `xxxxxxxx-xxxx-8xxx-yxxx-xxxxxxxxxxxx`; `Debug` leaves the secret
/// out, so that it does not get into logs. [`to_bytes`](Self::to_bytes) and [`as_u128`](Self::as_u128) return
/// all of it, too. With the feature `uuid` it converts to and from `uuid::Uuid`. With `serde` it is a string
/// in human-readable formats, and bytes in others.
///
/// # Copies of the process
///
/// After a `fork()` parent and child issue different tickets, also from a stash and a thread that are older
/// than the fork. Copies that are made without the C library's knowledge cannot be noticed: a raw `clone`
/// system call, and a snapshot of a virtual machine that is started more than once. Such copies can issue the
/// same tickets until their threads reseed, which each does after 4096 tickets.
///
/// ```
/// use cloakroom::Ticket;
///
/// let stash = cloakroom::Stash::<String, ()>::builder().max_bytes(1 << 20).build()?;
/// let ticket = stash.try_put((), "coat".to_owned()).unwrap();
/// let text = ticket.to_string();
/// assert_eq!(text.len(), 36);
/// assert_eq!(text.parse::<Ticket>()?, ticket);
/// assert!("not a ticket".parse::<Ticket>().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[must_use = "without its ticket a payload cannot be taken, and holds its bytes until it expires"]
pub struct Ticket(u128);

/// Holds the 90 random bits of a ticket, in a form that packs well.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Secret([u32; 3]);

/// The random bits above the two full words.
const TOP_BITS: u32 = 90 - 64;

impl Secret {
    pub(crate) const ZERO: Self = Self([0; 3]);

    #[inline]
    pub(crate) fn random() -> Self {
        let [low, middle, high] = secrets::draw();
        Self([low, middle, high >> (32 - TOP_BITS)])
    }

    /// Returns 64 of the bits.
    #[inline]
    pub(crate) fn low(self) -> u64 {
        self.bits() as u64
    }

    #[inline]
    fn bits(self) -> u128 {
        let [a, b, c] = self.0;
        u128::from(c) << 64 | u128::from(b) << 32 | u128::from(a)
    }
}

/// ```text
///   127                     80 79  76 75        64 63  62 61                     0
///  +--------------------------+------+------------+------+------------------------+
///  | location 32, secret 16 bits | 1000 | secret, 12 | 10   | secret, 62 bits        |
///  +--------------------------+------+------------+------+------------------------+
/// ```
const VERSION: u128 = 0x8 << 76;
const VERSION_MASK: u128 = 0xf << 76;
const VARIANT: u128 = 0b10 << 62;
const VARIANT_MASK: u128 = 0b11 << 62;

const fn mask(bits: u32) -> u128 {
    (1 << bits) - 1
}

impl Ticket {
    #[inline]
    pub(crate) fn new(location: u32, secret: Secret) -> Self {
        let secret = secret.bits();
        Self(
            u128::from(location) << 96
                | (secret >> 74) << 80
                | VERSION
                | (secret >> 62 & mask(12)) << 64
                | VARIANT
                | secret & mask(62),
        )
    }

    #[inline]
    pub(crate) fn location(self) -> u32 {
        (self.0 >> 96) as u32
    }

    #[inline]
    pub(crate) fn secret(self) -> Secret {
        let bits =
            (self.0 >> 80 & mask(16)) << 74 | (self.0 >> 64 & mask(12)) << 62 | self.0 & mask(62);
        Secret([bits as u32, (bits >> 32) as u32, (bits >> 64) as u32])
    }

    /// Returns all 128 bits, the secret among them.
    ///
    /// # Examples
    ///
    /// ```
    /// # use cloakroom::Ticket;
    /// # let stash = cloakroom::Stash::<String, ()>::builder().max_bytes(1 << 20).build().unwrap();
    /// # let ticket = stash.try_put((), "coat".to_owned()).unwrap();
    /// assert_eq!(Ticket::try_from(ticket.as_u128())?, ticket);
    /// # Ok::<(), cloakroom::ParseTicketError>(())
    /// ```
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    /// Returns the 16 bytes of the UUID, the highest first, the secret among them.
    ///
    /// For protocols whose tickets are bytes, such as Arrow Flight, and for columns of type `uuid`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use cloakroom::Ticket;
    /// # let stash = cloakroom::Stash::<String, ()>::builder().max_bytes(1 << 20).build().unwrap();
    /// # let ticket = stash.try_put((), "coat".to_owned()).unwrap();
    /// let received: Vec<u8> = ticket.to_bytes().to_vec();
    /// assert_eq!(Ticket::try_from(&received[..])?, ticket);
    /// # Ok::<(), cloakroom::ParseTicketError>(())
    /// ```
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

/// Accepts what [`as_u128`](Ticket::as_u128) returned. Any number that is not a version 8 UUID is an error.
impl TryFrom<u128> for Ticket {
    type Error = ParseTicketError;

    fn try_from(bits: u128) -> Result<Self, ParseTicketError> {
        if bits & VERSION_MASK != VERSION || bits & VARIANT_MASK != VARIANT {
            return Err(ParseTicketError("not a version 8 UUID"));
        }
        Ok(Self(bits))
    }
}

/// Accepts what [`to_bytes`](Ticket::to_bytes) returned. Bytes that are not a version 8 UUID are an error.
impl TryFrom<[u8; 16]> for Ticket {
    type Error = ParseTicketError;

    fn try_from(bytes: [u8; 16]) -> Result<Self, ParseTicketError> {
        u128::from_be_bytes(bytes).try_into()
    }
}

/// Accepts what [`to_bytes`](Ticket::to_bytes) returned. Any other number of bytes is an error.
impl TryFrom<&[u8]> for Ticket {
    type Error = ParseTicketError;

    fn try_from(bytes: &[u8]) -> Result<Self, ParseTicketError> {
        let bytes: [u8; 16] =
            bytes.try_into().map_err(|_| ParseTicketError("not 16 bytes long"))?;
        bytes.try_into()
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'-'; 36];
        let mut rest = self.0;
        for (at, byte) in text.iter_mut().enumerate().rev() {
            if !HYPHENS.contains(&at) {
                *byte = b"0123456789abcdef"[(rest & 0xf) as usize];
                rest >>= 4;
            }
        }
        f.pad(std::str::from_utf8(&text).expect("hexadecimal digits are ASCII"))
    }
}

/// The positions of the hyphens in the text form.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

/// Writes the location, without the secret.
impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({:08x}-..)", self.location())
    }
}

impl FromStr for Ticket {
    type Err = ParseTicketError;

    fn from_str(text: &str) -> Result<Self, ParseTicketError> {
        let text: &[u8; 36] =
            text.as_bytes().try_into().map_err(|_| ParseTicketError("not 36 characters long"))?;
        let mut bits: u128 = 0;
        for (at, &byte) in text.iter().enumerate() {
            if HYPHENS.contains(&at) {
                if byte != b'-' {
                    return Err(ParseTicketError("a hyphen is missing"));
                }
            } else {
                let digit = char::from(byte)
                    .to_digit(16)
                    .ok_or(ParseTicketError("not a hexadecimal digit"))?;
                bits = bits << 4 | u128::from(digit);
            }
        }
        bits.try_into()
    }
}

/// Says why a text, a number or bytes are not a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseTicketError(&'static str);

impl fmt::Display for ParseTicketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid ticket: {}", self.0)
    }
}

impl Error for ParseTicketError {}

#[cfg(all(test, not(cloakroom_loom)))]
mod tests {
    use super::*;

    #[test]
    fn place_and_secret_survive_and_so_does_the_text() {
        for location in [0, 1, 0xdead_beef, u32::MAX] {
            for secret in [Secret([0; 3]), Secret([!0, !0, (1 << TOP_BITS) - 1]), Secret::random()]
            {
                let ticket = Ticket::new(location, secret);
                assert!(ticket.location() == location && ticket.secret() == secret);
                let text = ticket.to_string();
                assert_eq!(text.parse(), Ok(ticket));
                assert_eq!(text.to_uppercase().parse(), Ok(ticket));
                assert_eq!((&text[14..15], text.len()), ("8", 36));
                assert!("89ab".contains(&text[19..20]));
            }
        }
    }

    #[test]
    fn all_of_the_secret_is_random() {
        let (mut ever_one, mut ever_zero) = (0, 0);
        for _ in 0..200 {
            let bits = Secret::random().bits();
            ever_one |= bits;
            ever_zero |= !bits;
        }
        assert_eq!(ever_one, mask(90));
        assert_eq!(ever_zero & mask(90), mask(90));
    }

    #[test]
    fn the_low_bits_are_of_the_secret() {
        assert_eq!(Secret([0x89ab_cdef, 0x0123_4567, 0x3ff_ffff]).low(), 0x0123_4567_89ab_cdef);
    }
}
