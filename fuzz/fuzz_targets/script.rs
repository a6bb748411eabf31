//! Any bytes as a script of steps, run against the crate and against the sequential model of the property tests.
#![no_main]

#[path = "../../tests/oracle/mod.rs"]
mod oracle;
#[path = "../../tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;

use self::oracle::bytes::Script;

fuzz_target!(|bytes: &[u8]| {
    let script = Script::decode(bytes);
    if let Err(disagreement) = script.clone().run() {
        panic!("{disagreement}\n{script:?}");
    }
});
