//! B16: a ticket as a number, as bytes, as a `Uuid`, and in messages that are not text.

use cloakroom::{ParseTicketError, Ticket};

use crate::fixtures::{payload, put, take, test_stash};

#[test]
fn b16_numbers_and_bytes_both_ways() {
    let (stash, _) = test_stash();
    for _ in 0..50 {
        let ticket = put(&stash, 2);
        let (number, bytes) = (ticket.as_u128(), ticket.to_bytes());
        let digits: String = ticket.to_string().split('-').collect();
        assert_eq!(format!("{number:032x}"), digits);
        assert_eq!(bytes, number.to_be_bytes());
        assert_eq!(Ticket::try_from(number), Ok(ticket));
        assert_eq!(Ticket::try_from(bytes), Ok(ticket));
        assert_eq!(Ticket::try_from(&bytes[..]), Ok(ticket));
        let received: Ticket = bytes.to_vec().as_slice().try_into().unwrap();
        assert_eq!(take(&stash, received), Some(payload(2)));
    }
}

#[test]
fn b16_what_is_no_ticket_is_an_error_that_does_not_repeat_it() {
    let (stash, _) = test_stash();
    let ticket = put(&stash, 2);
    let error = |result: Result<Ticket, ParseTicketError>| result.unwrap_err().to_string();
    // Each bit of the version and the variant, and both at once.
    for bit in [76, 77, 78, 79, 62, 63] {
        let other = ticket.as_u128() ^ (1 << bit);
        assert_eq!(error(other.try_into()), "invalid ticket: not a version 8 UUID");
        assert_eq!(error(other.to_be_bytes().try_into()), error(other.try_into()));
    }
    for number in [0, u128::MAX] {
        assert!(Ticket::try_from(number).is_err());
    }
    let bytes = [ticket.to_bytes(), ticket.to_bytes()].concat();
    for len in (0..=32).filter(|len| *len != 16) {
        assert_eq!(error(bytes[..len].try_into()), "invalid ticket: not 16 bytes long");
    }
    // A ticket of nowhere is a ticket, and unknown.
    let unknown = Ticket::try_from(ticket.as_u128() ^ 1).unwrap();
    assert_eq!(take(&stash, unknown), None);
    let nowhere = Ticket::try_from(ticket.as_u128() | u128::from(u32::MAX) << 96).unwrap();
    assert_eq!(take(&stash, nowhere), None);
    assert_eq!(take(&stash, ticket), Some(payload(2)));
}

#[cfg(feature = "uuid")]
#[test]
fn b16_a_uuid_both_ways() {
    use uuid::{Uuid, Variant, Version};

    let (stash, _) = test_stash();
    let ticket = put(&stash, 2);
    let id = Uuid::from(ticket);
    assert_eq!((id.get_version(), id.get_variant()), (Some(Version::Custom), Variant::RFC4122));
    assert_eq!((id.to_string(), *id.as_bytes()), (ticket.to_string(), ticket.to_bytes()));
    assert_eq!(Ticket::try_from(id), Ok(ticket));
    for other in [Uuid::nil(), Uuid::max(), Uuid::from_u128(ticket.as_u128() ^ (1 << 78))] {
        assert!(Ticket::try_from(other).is_err());
    }
}

#[cfg(feature = "serde")]
#[test]
fn b16_sixteen_bytes_in_formats_that_are_not_for_people() {
    let (stash, _) = test_stash();
    let ticket = put(&stash, 2);
    let message = postcard::to_allocvec(&(7_u8, ticket)).unwrap();
    // The seven, the length, and the bytes.
    assert_eq!(message[..2], [7, 16]);
    assert_eq!(message[2..], ticket.to_bytes());
    assert_eq!(postcard::from_bytes::<(u8, Ticket)>(&message), Ok((7, ticket)));
    // As a byte string of another type.
    let bytes = postcard::to_allocvec(&ticket.to_bytes().to_vec()).unwrap();
    assert_eq!(postcard::from_bytes::<Ticket>(&bytes), Ok(ticket));
    for end in 0..message.len() {
        assert!(postcard::from_bytes::<(u8, Ticket)>(&message[..end]).is_err());
    }
    for wrong in [vec![0; 16], ticket.to_bytes()[..15].to_vec(), vec![0; 17]] {
        let message = postcard::to_allocvec(&wrong).unwrap();
        assert!(postcard::from_bytes::<Ticket>(&message).is_err());
    }
}

/// Some formats have no byte strings: what they read is a list of numbers.
#[cfg(feature = "serde")]
#[test]
fn b16_a_list_of_sixteen_numbers_is_read_too() {
    use serde::Deserialize;
    use serde::de::value::{BytesDeserializer, Error, SeqDeserializer};
    use serde::de::{Deserializer, Visitor};
    use serde::forward_to_deserialize_any;

    struct Compact<D>(D);

    impl<'de, D: Deserializer<'de>> Deserializer<'de> for Compact<D> {
        type Error = D::Error;

        fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.deserialize_any(visitor)
        }

        fn is_human_readable(&self) -> bool {
            false
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
        }
    }

    let (stash, _) = test_stash();
    let ticket = put(&stash, 2);
    let list = |bytes: Vec<u8>| {
        Ticket::deserialize(Compact(SeqDeserializer::<_, Error>::new(bytes.into_iter())))
    };
    assert_eq!(list(ticket.to_bytes().to_vec()), Ok(ticket));
    assert!(list(ticket.to_bytes()[..15].to_vec()).is_err());
    assert!(list([&ticket.to_bytes()[..], &[0]].concat()).is_err());
    assert!(list(vec![0; 16]).is_err());
    let bytes = ticket.to_bytes();
    let read = Ticket::deserialize(Compact(BytesDeserializer::<Error>::new(&bytes)));
    assert_eq!(read, Ok(ticket));
}

/// Before serde knows the variant of an enum, it keeps what it reads: as bytes, in a format for people.
#[cfg(feature = "serde")]
#[test]
fn b16_a_message_that_was_buffered_has_its_ticket_in_either_form() {
    use serde::Deserialize;
    use serde::de::IntoDeserializer;
    use serde::de::value::{BytesDeserializer, Error, StrDeserializer};

    let (stash, _) = test_stash();
    let ticket = put(&stash, 2);
    let bytes = ticket.to_bytes();
    let read = |bytes| Ticket::deserialize(BytesDeserializer::<Error>::new(bytes));
    assert_eq!(read(&bytes[..]), Ok(ticket));
    assert!(read(&bytes[..15]).is_err());
    assert!(read(&[0; 16]).is_err());
    let text: StrDeserializer<'_, Error> = "not a ticket".into_deserializer();
    assert!(Ticket::deserialize(text).is_err());
}
