//! Reports why a stash could not be opened.

use std::error::Error;
use std::fmt;

/// Reports why [`open`](crate::Builder::open) failed. Nothing was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting has a value that it cannot have: which one, and why.
    Setting {
        /// The builder's method.
        setting: &'static str,
        /// What is wrong with the value.
        problem: String,
    },
    /// The stash exists with another value of this setting.
    Differs {
        /// The builder's method.
        setting: &'static str,
        /// The value here.
        here: u64,
        /// The value of the stash that exists.
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

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting { setting, problem } => write!(f, "{setting}: {problem}"),
            Self::Differs { setting, here, there } => {
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
