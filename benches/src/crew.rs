//! Threads that live as long as a comparison, so that starting them is not measured. Each has a core of its
//! own, if there are enough: two threads on the same core do not contend.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Receives the number of the thread.
pub(crate) type Job = Arc<dyn Fn(usize) -> Duration + Send + Sync>;

pub(crate) struct Crew {
    to: Vec<Sender<Job>>,
    from: Receiver<Duration>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    pub(crate) fn new(size: usize) -> Self {
        let start = Arc::new(Barrier::new(size));
        let (done, from) = channel();
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let core =
            |number: usize| cores.get(number).copied().filter(|_| size > 1 && size <= cores.len());
        let (to, threads) = (0..size)
            .map(|number| {
                let (to, jobs) = channel::<Job>();
                let (start, done) = (Arc::clone(&start), done.clone());
                let core = core(number);
                let work = move || {
                    if let Some(core) = core {
                        core_affinity::set_for_current(core);
                    }
                    for job in jobs {
                        start.wait();
                        let took = job(number);
                        drop(job);
                        done.send(took).expect("the crew waits");
                    }
                };
                (to, thread::spawn(work))
            })
            .unzip();
        Self { to, from, threads }
    }

    /// Runs the job on all threads together. Returns the mean of their measurements.
    pub(crate) fn run(&self, job: &Job) -> Duration {
        for to in &self.to {
            to.send(Arc::clone(job)).expect("the thread waits");
        }
        let total: Duration = self.from.iter().take(self.to.len()).sum();
        total / self.to.len() as u32
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.to.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
