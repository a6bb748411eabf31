#![doc = include_str!("../README.md")]

mod builder;
mod chunks;
mod claim;
mod config;
mod engine;
mod error;
mod keeper;
mod library;
mod link;
mod owner;
mod parity;
mod pending;
mod put;
mod reply;
mod reserve;
mod session;
mod stash;
mod stats;
mod unsent;

pub use builder::Builder;
pub use claim::Claim;
pub use config::{Durability, Persistence};
pub use error::OpenError;
#[doc(hidden)]
pub use library::Library;
pub use owner::OwnerBytes;
pub use reserve::Reservation;
pub use stash::SharedStash;
pub use unsent::Unsent;
