//! Copies of a process: `fork()` copies every generator, and no two copies may issue the same tickets.
//!
//! A target of its own: a child here has one thread, puts, writes to a pipe, and leaves by `_exit`.
#![cfg(all(unix, not(any(miri, cloakroom_loom, cloakroom_shuttle))))]

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::thread;

use cloakroom::{Stash, Ticket};

const TICKET_BYTES: usize = 36;
const EACH: usize = 8;

fn stash() -> Stash<Vec<u8>, ()> {
    Stash::builder().max_bytes(1 << 20).build().expect("the settings are good")
}

fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: two file descriptors are written to `ends`, and each gets one owner.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    }
}

/// The tickets that `issue` returns in a copy of this process.
fn tickets_of_a_child(issue: impl FnOnce() -> Vec<Ticket>) -> Vec<String> {
    let (mut from_child, mut to_parent) = pipe();
    // SAFETY: the child runs `issue`, which needs no other thread, and does not return.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        for ticket in issue() {
            let _ = to_parent.write_all(ticket.to_string().as_bytes());
        }
        // SAFETY: ends this process, and nothing else.
        unsafe { libc::_exit(0) };
    }
    drop(to_parent);
    let mut text = String::new();
    from_child.read_to_string(&mut text).unwrap();
    // SAFETY: our child, which no other code waits for.
    assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
    let tickets: Vec<String> =
        text.as_bytes().chunks(TICKET_BYTES).map(|t| String::from_utf8_lossy(t).into()).collect();
    assert_eq!(tickets.len(), EACH, "{tickets:?}");
    tickets
}

fn issue(stash: &Stash<Vec<u8>, ()>) -> Vec<Ticket> {
    (0..EACH).map(|_| stash.try_put((), vec![1]).unwrap()).collect()
}

/// The parts of the tickets that are random.
fn secrets(tickets: &[String]) -> impl Iterator<Item = String> {
    tickets.iter().map(|ticket| ticket[9..].to_owned()).collect::<Vec<_>>().into_iter()
}

fn assert_all_differ(issued: &[Vec<String>]) {
    let all: Vec<String> = issued.iter().flat_map(|tickets| secrets(tickets)).collect();
    let different: HashSet<&String> = all.iter().collect();
    assert_eq!(different.len(), all.len(), "{issued:?}");
}

fn as_text(tickets: Vec<Ticket>) -> Vec<String> {
    tickets.iter().map(Ticket::to_string).collect()
}

/// Two children and a grandchild of a thread whose generator is older than the fork.
#[test]
fn w1_copies_of_a_process_issue_different_tickets() {
    let before = stash();
    let mut issued = vec![as_text(issue(&before))];
    issued.push(tickets_of_a_child(|| issue(&before)));
    issued.push(tickets_of_a_child(|| issue(&before)));
    issued.push(tickets_of_a_child(|| issue(&stash())));
    issued.push(as_text(issue(&before)));
    assert_all_differ(&issued);
}

#[test]
fn w1_a_child_of_a_child_issues_different_tickets() {
    let before = stash();
    let _ = issue(&before);
    let mut lines = Vec::new();
    let (mut from_grandchild, mut to_us) = pipe();
    lines.push(tickets_of_a_child(|| {
        let issued = issue(&before);
        for ticket in tickets_of_a_child(|| issue(&before)) {
            let _ = to_us.write_all(ticket.as_bytes());
        }
        issued
    }));
    drop(to_us);
    let mut text = String::new();
    from_grandchild.read_to_string(&mut text).unwrap();
    lines.push(
        text.as_bytes().chunks(TICKET_BYTES).map(|t| String::from_utf8_lossy(t).into()).collect(),
    );
    assert_eq!(lines[1].len(), EACH);
    lines.push(as_text(issue(&before)));
    assert_all_differ(&lines);
}

/// The thread that forks is not the first, and its generator is its own.
#[test]
fn w1_a_copy_made_by_another_thread_issues_different_tickets() {
    let before = stash();
    let issued = thread::scope(|scope| {
        let forks = || {
            let first = as_text(issue(&before));
            let child = tickets_of_a_child(|| issue(&before));
            vec![first, child, as_text(issue(&before))]
        };
        scope.spawn(forks).join().unwrap()
    });
    assert_all_differ(&issued);
}
