//! Targets that differ from this one. `.ci/platforms` installs them, and runs the tests on one of 32 bits.

use std::path::Path;
use std::process::Command;

/// Checks the library for a target, with all features. `None`: the target is not installed here.
fn check(target: &str) -> Option<(bool, String)> {
    let libraries = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", target])
        .output()
        .expect("cargo has run rustc");
    let libraries = String::from_utf8(libraries.stdout).unwrap();
    if !Path::new(libraries.trim()).exists() {
        println!("NOT RUN: the target {target} is not installed");
        return None;
    }
    let checked = Command::new(env!("CARGO"))
        .args(["check", "--quiet", "--locked", "-p", "cloakroom", "--all-features"])
        .args(["--target", target])
        // Of its own: this test may run while another cargo holds the lock of the usual one.
        .env("CARGO_TARGET_DIR", concat!(env!("CARGO_MANIFEST_DIR"), "/target/platforms"))
        // Those of a sanitizer are for another target.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    Some((checked.status.success(), String::from_utf8_lossy(&checked.stderr).into_owned()))
}

/// Threads cannot block in WebAssembly, so the calls that block are left out there.
#[test]
#[cfg_attr(miri, ignore = "starts programs")]
fn w11_a_target_whose_threads_cannot_block_did_not_compile() {
    if let Some((compiles, errors)) = check("wasm32-wasip1") {
        assert!(compiles, "{errors}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "starts programs")]
fn w11_a_target_without_64_bit_atomics_gave_many_errors() {
    if let Some((compiles, errors)) = check("powerpc-unknown-linux-gnu") {
        assert!(!compiles && errors.contains("cloakroom needs 64-bit atomics"), "{errors}");
    }
}

/// Blocking calls are there where threads can block.
#[test]
fn w11_the_blocking_calls_are_there() {
    let stash = cloakroom::Stash::<Vec<u8>, ()>::builder().max_bytes(1_000).build().unwrap();
    let ticket = stash.put_timeout((), vec![1], std::time::Duration::ZERO).unwrap();
    assert_eq!(stash.take(&ticket, &()), Some(vec![1]));
    assert!(stash.budget().acquire_timeout(1, std::time::Duration::ZERO).is_ok());
}
