//! The protocol as a model: explored exhaustively, and run beside the real library.

#[path = "../support/mod.rs"]
mod support;

mod engine;
mod exhaustive;
mod traces;
