//! A memory-bounded, drain-on-read stash.
