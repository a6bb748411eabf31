//! Reports why a stash could not be opened.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::config::LARGEST;

/// Reports why [`open`](crate::Builder::open) failed. Nothing was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting has a value that it cannot have: which one, and why.
    Setting {
        /// The builder's method. The second value of `overflow` is `overflow ttl`.
        setting: &'static str,
        /// What is wrong with the value.
        problem: String,
    },
    /// The stash exists with another value of this setting.
    Differs {
        /// The builder's method. The second value of `overflow` is `overflow ttl`.
        setting: &'static str,
        /// The value here: bytes, requests, or microseconds. Without a limit it is 0 for `max_bytes_per_owner`, and
        /// 2^51 for `max_waiting` and `max_waiting_bytes`. Without an overflow, both of its values are 0.
        here: u64,
        /// The value of the stash that exists, likewise.
        there: u64,
    },
    /// The engine cannot be reached, or did not answer.
    Unreachable(String),
    /// The engine refused the user name or the password.
    NotAuthenticated(String),
    /// The engine is older than Redis 7.
    TooOld(String),
    /// The engine may evict keys, and so lose payloads: its `maxmemory-policy` is not `noeviction`.
    Evicts(String),
    /// The engine refused what the library needs.
    Engine(String),
}

impl OpenError {
    pub(crate) fn setting(setting: &'static str, problem: impl Into<String>) -> Self {
        Self::Setting { setting, problem: problem.into() }
    }
}

/// Returns a shared setting's value as a person writes it.
fn value(setting: &str, value: u64) -> String {
    match (setting, value) {
        ("max_bytes_per_owner", 0) | ("max_waiting" | "max_waiting_bytes", LARGEST) => {
            "no limit".into()
        }
        ("overflow" | "overflow ttl", 0) => "no overflow".into(),
        ("ttl" | "overflow ttl" | "lease" | "grace", micros) => {
            format!("{:?}", Duration::from_micros(micros))
        }
        _ => value.to_string(),
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting { setting, problem } => write!(f, "{setting}: {problem}"),
            Self::Differs { setting, here, there } => {
                let (there, here) = (value(setting, *there), value(setting, *here));
                write!(f, "{setting}: the stash was opened with {there}, not {here}")
            }
            Self::Unreachable(why) => write!(f, "the engine cannot be reached: {why}"),
            Self::NotAuthenticated(why) => write!(f, "the engine refused the credentials: {why}"),
            Self::TooOld(version) => {
                write!(f, "the engine is version {version}; Redis 7 or Valkey is needed")
            }
            Self::Evicts(policy) => write!(
                f,
                "maxmemory-policy is {policy}, which loses payloads; it must be noeviction"
            ),
            Self::Engine(why) => write!(f, "the engine refused: {why}"),
        }
    }
}

impl Error for OpenError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_differs_is_shown_as_it_was_written() {
        for (setting, here, there, expected) in [
            ("max_bytes", 200, 100, "the stash was opened with 100, not 200"),
            ("max_waiting", 10, LARGEST, "the stash was opened with no limit, not 10"),
            ("max_bytes_per_owner", 0, 50, "the stash was opened with 50, not no limit"),
            ("ttl", 60_000_000, 1_500_000, "the stash was opened with 1.5s, not 60s"),
            ("overflow", 50, 0, "the stash was opened with no overflow, not 50"),
            ("overflow ttl", 2_000_000, 500_000, "the stash was opened with 500ms, not 2s"),
        ] {
            let error = OpenError::Differs { setting, here, there };
            assert_eq!(error.to_string(), format!("{setting}: {expected}"));
        }
    }
}
