//! Plain threads, one for each connection. A line is a request: `run USER ROWS` answers a ticket, `fetch USER TICKET`
//! the result.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use cloakroom::{Stash, Ticket};

/// Results, of users. Make it with `Stash::builder().max_bytes(..).ttl(..).build()`.
pub type Results = Stash<Vec<u8>, String>;

/// Serves until `signal` receives or is disconnected, then for at most `patience` until the results have been fetched.
pub fn serve(
    listener: &TcpListener,
    stash: &Results,
    signal: Receiver<()>,
    patience: Duration,
) -> io::Result<()> {
    let _reaper = stash.reaper().spawn()?;
    let address = listener.local_addr()?;
    let stop = &AtomicBool::new(false);
    // Ends when the connections have.
    thread::scope(|scope| {
        scope.spawn(move || {
            let _ = signal.recv();
            stash.shut_down_timeout(patience);
            stop.store(true, Ordering::Relaxed);
            let _ = TcpStream::connect(address); // wakes the loop below
        });
        for socket in listener.incoming() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            scope.spawn(move || answer(stash, socket?));
        }
    });
    Ok(())
}

fn answer(stash: &Results, mut socket: TcpStream) -> io::Result<()> {
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.set_write_timeout(Some(Duration::from_secs(10)))?;
    let mut line = String::new();
    BufReader::new(socket.try_clone()?.take(1_000)).read_line(&mut line)?;
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["run", user, rows] => run_query(stash, user, rows, &mut socket),
        ["fetch", user, ticket] => fetch(stash, user, ticket, &mut socket),
        _ => socket.write_all(b"? run USER ROWS, or fetch USER TICKET\n"),
    }
}

fn run_query(stash: &Results, user: &str, rows: &str, socket: &mut TcpStream) -> io::Result<()> {
    let rows = rows.parse::<u64>().map_err(io::Error::other)?;
    // Room first: while it waits, a request holds no memory.
    let room = match stash.reserve_timeout_for(user, rows, Duration::from_secs(5)) {
        Ok(room) => room,
        Err(refused) => return writeln!(socket, "! {refused}"),
    };
    let result = (0..rows).map(|row| row as u8).collect();
    let ticket = room.put(user.to_owned(), result).map_err(io::Error::other)?;
    // Removed again if the client does not get its ticket.
    let unsent = stash.unsent(ticket, user.to_owned());
    writeln!(socket, "{ticket}")?;
    unsent.sent();
    Ok(())
}

fn fetch(stash: &Results, user: &str, ticket: &str, socket: &mut TcpStream) -> io::Result<()> {
    let Some(claim) = ticket.parse::<Ticket>().ok().and_then(|it| stash.claim(&it, user)) else {
        return writeln!(socket, "! none");
    };
    // Delivered when all of it was read; put back if the client disconnects before.
    io::copy(&mut claim.into_reader(), socket)?;
    Ok(())
}
