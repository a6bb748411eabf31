//! A proxy between a replica and its engine, that breaks connections where a test says.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// No cut.
const NEVER: i64 = i64::MAX;

#[derive(Default)]
struct Faults {
    /// Bytes until the requests are cut: what came before goes on, a request may be torn.
    requests: AtomicI64,
    /// Bytes until the replies are cut: what was executed is not heard of.
    replies: AtomicI64,
    /// The last reply is passed on again before the next one, as the answer to another request.
    repeat_reply: AtomicBool,
    /// Replies are read and never passed on.
    drop_replies: AtomicBool,
    /// New connections are closed at once.
    refuse: AtomicBool,
    /// Requests are kept, to be delivered late.
    hold: AtomicBool,
    held: Mutex<Vec<(Vec<u8>, tokio::net::tcp::OwnedWriteHalf)>>,
    delay: Mutex<Duration>,
    /// As `delay`, of requests: the link is slow.
    delay_requests: Mutex<Duration>,
    cuts: AtomicUsize,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    faults: Arc<Faults>,
    /// Counted up to close all connections.
    epoch: watch::Sender<u64>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Proxy {
    /// Runs on a thread of its own: a test that blocks does not stop it.
    pub(crate) fn to(target: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let faults =
            Arc::new(Faults { requests: NEVER.into(), replies: NEVER.into(), ..Faults::default() });
        let (epoch, watching) = watch::channel(0);
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::clone(&faults);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((client, _)) = listener.accept().await {
                if !shared.refuse.load(SeqCst) {
                    tokio::spawn(serve(Arc::clone(&shared), client, target, watching.clone()));
                }
            }
        });
        Self { port, faults, epoch, runtime: Some(runtime) }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Cuts the connection once, when so many more bytes of requests have passed.
    pub(crate) fn cut_requests_after(&self, bytes: i64) {
        self.faults.requests.store(bytes, SeqCst);
    }

    /// Cuts the connection once, when so many more bytes of replies have passed.
    pub(crate) fn cut_replies_after(&self, bytes: i64) {
        self.faults.replies.store(bytes, SeqCst);
    }

    pub(crate) fn drop_replies(&self, dropped: bool) {
        self.faults.drop_replies.store(dropped, SeqCst);
    }

    pub(crate) fn repeat_reply(&self) {
        self.faults.repeat_reply.store(true, SeqCst);
    }

    pub(crate) fn delay(&self, delay: Duration) {
        *self.faults.delay.lock().unwrap() = delay;
    }

    /// Delays each 64 KiB of requests.
    pub(crate) fn delay_requests(&self, delay: Duration) {
        *self.faults.delay_requests.lock().unwrap() = delay;
    }

    pub(crate) fn cuts(&self) -> usize {
        self.faults.cuts.load(SeqCst)
    }

    /// Cuts all connections now; new ones are made.
    pub(crate) fn cut(&self) {
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    /// Cuts all connections and refuses new ones: to the engine, the replica has died.
    pub(crate) fn sever(&self) {
        self.faults.refuse.store(true, SeqCst);
        self.cut();
    }

    pub(crate) fn mend(&self) {
        self.faults.refuse.store(false, SeqCst);
    }

    /// Keeps the requests from now on, and the connection to the engine open.
    pub(crate) fn hold_requests(&self) {
        self.faults.hold.store(true, SeqCst);
    }

    /// Cuts the replica off what it has sent, which is on its way still; new connections pass everything.
    pub(crate) fn forget_held(&self) {
        self.faults.hold.store(false, SeqCst);
        self.cut();
    }

    /// Delivers what was held, late, over the old connections. Returns how many bytes that were.
    pub(crate) fn deliver_held(&self) -> usize {
        let held = std::mem::take(&mut *self.faults.held.lock().unwrap());
        let deliver = async move {
            let mut count = 0;
            for (bytes, mut engine) in held {
                count += bytes.len();
                engine.write_all(&bytes).await.unwrap();
                // The engine executes it before the connection ends.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            count
        };
        let runtime = self.runtime.as_ref().unwrap().handle().clone();
        std::thread::spawn(move || runtime.block_on(deliver)).join().unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// How many of `count` bytes pass, and whether the cut comes after them.
fn pass(budget: &AtomicI64, count: usize) -> (usize, bool) {
    let left = budget.load(SeqCst);
    if left == NEVER {
        return (count, false);
    }
    if left >= count as i64 {
        budget.fetch_sub(count as i64, SeqCst);
        return (count, false);
    }
    // Once.
    budget.store(NEVER, SeqCst);
    (left.max(0) as usize, true)
}

async fn serve(
    faults: Arc<Faults>,
    client: TcpStream,
    target: u16,
    mut epoch: watch::Receiver<u64>,
) {
    epoch.borrow_and_update();
    let Ok(engine) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let _ = (client.set_nodelay(true), engine.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_engine, mut to_engine) = engine.into_split();
    let (mut requests, mut replies) = (vec![0; 65_536], vec![0; 65_536]);
    let (mut held, mut last) = (Vec::new(), Vec::new());
    loop {
        tokio::select! {
            biased;
            _ = epoch.changed() => break,
            read = from_client.read(&mut requests) => {
                let Ok(count @ 1..) = read else { break };
                if faults.hold.load(SeqCst) {
                    held.extend_from_slice(&requests[..count]);
                    continue;
                }
                let delay = *faults.delay_requests.lock().unwrap();
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                let (passed, cut) = pass(&faults.requests, count);
                if to_engine.write_all(&requests[..passed]).await.is_err() {
                    break;
                }
                if cut {
                    faults.cuts.fetch_add(1, SeqCst);
                    break;
                }
            }
            read = from_engine.read(&mut replies) => {
                let Ok(count @ 1..) = read else { break };
                if faults.drop_replies.load(SeqCst) {
                    continue;
                }
                let delay = *faults.delay.lock().unwrap();
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                let (passed, cut) = pass(&faults.replies, count);
                if faults.repeat_reply.swap(false, SeqCst) && to_client.write_all(&last).await.is_err() {
                    break;
                }
                last = replies[..passed].to_vec();
                if to_client.write_all(&last).await.is_err() {
                    break;
                }
                if cut {
                    faults.cuts.fetch_add(1, SeqCst);
                    break;
                }
            }
        }
    }
    if !held.is_empty() {
        // The replica is cut off; its requests arrive later, over this connection.
        faults.held.lock().unwrap().push((held, to_engine));
        drop((from_client, to_client));
        // Keeps the engine from seeing the end of the connection.
        let mut rest = vec![0; 65_536];
        while let Ok(1..) = from_engine.read(&mut rest).await {}
    }
}
