//! Rules about the text of the sources, which no compiler checks.
//!
//! Each rule is a function from text to problems, a test that applies it to the tree, and a test that shows it
//! noticing what it forbids.
#![cfg(not(cloakroom_loom))]

mod files;
mod imports;
mod lengths;
mod orderings;
mod phrases;
