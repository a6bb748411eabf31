//! The server of plain threads, with plain clients.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cloakroom::Stash;
use recipes::threads::{Results, serve};

const LONG: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    stash: Results,
    signal: Sender<()>,
    thread: JoinHandle<()>,
}

fn start(patience: Duration) -> Server {
    let stash: Results =
        Stash::builder().max_bytes(60 << 20).entry_overhead(0).ttl(LONG).build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (signal, received) = mpsc::channel();
    let served = stash.clone();
    let thread = thread::spawn(move || serve(&listener, &served, received, patience).unwrap());
    Server { address, stash, signal, thread }
}

impl Server {
    fn ask(&self, line: &str) -> Vec<u8> {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        writeln!(socket, "{line}").unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        answer
    }

    fn run(&self, rows: u64) -> String {
        String::from_utf8(self.ask(&format!("run alice {rows}"))).unwrap().trim().to_owned()
    }

    fn ends(self) {
        drop(self.signal);
        self.thread.join().unwrap();
    }
}

fn rows(rows: u64) -> Vec<u8> {
    (0..rows).map(|row| row as u8).collect()
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn converses() {
    let server = start(LONG);
    let ticket = server.run(70_000);
    assert_eq!(server.ask(&format!("fetch bob {ticket}")), b"! none\n");
    assert_eq!(server.ask(&format!("fetch alice {ticket}")), rows(70_000));
    assert_eq!(server.ask(&format!("fetch alice {ticket}")), b"! none\n");
    assert!(server.run(61 << 20).starts_with("! larger than the limit"));
    assert!(server.ask("hello").starts_with(b"?"));
    assert_eq!(server.stash.used_bytes(), 0);
    server.ends();
}

#[test]
fn puts_back_what_was_not_delivered() {
    let server = start(LONG);
    let ticket = server.run(40 << 20);
    let mut socket = TcpStream::connect(server.address).unwrap();
    writeln!(socket, "fetch alice {ticket}").unwrap();
    socket.read_exact(&mut [0; 1_000]).unwrap();
    drop(socket);
    eventually("it is put back", || server.stash.stats().put_back == 1);
    assert!(server.ask(&format!("fetch alice {ticket}")) == rows(40 << 20));
    server.ends();
}

#[test]
fn loses_nothing_at_shutdown() {
    let server = start(LONG);
    let ticket = server.run(70_000);
    server.signal.send(()).unwrap();
    eventually("the signal has arrived", || server.stash.is_closed());
    assert!(server.run(10).starts_with("! closed"), "nothing new");
    assert_eq!(server.ask(&format!("fetch alice {ticket}")), rows(70_000));
    let (stash, address) = (server.stash.clone(), server.address);
    server.ends();
    let stats = stash.stats();
    assert_eq!((stats.delivered, stats.cleared, stats.entries), (1, 0, 0));
    assert!(TcpStream::connect(address).is_err(), "it is gone");
}

#[test]
fn waits_no_longer_than_its_patience() {
    let server = start(Duration::from_millis(50));
    server.run(1_000);
    let stash = server.stash.clone();
    server.ends();
    assert_eq!((stash.stats().cleared, stash.used_bytes()), (1, 0));
}
