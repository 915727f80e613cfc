//! Hosts one shard in a glommio executor: runs it, lets it sleep, and carries what is asked of it.
//!
//! The shard sleeps on its own eventfd, inside its task, and not in glommio's rings. That wakes it
//! sooner, and glommio 0.9 may park although a task is runnable: when its preemption timer goes off
//! before it has run anything, `run_task_queues` says that there was nothing to run. So that timer is
//! out of the way here, and one of our own bounds any park. Other tasks of the executor get their
//! turn at least once in `TURN_MAX` while the shard is busy, and once a tick while it sleeps.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use barrage_sys::KernelRing;
use glommio::{LocalExecutorBuilder, Placement};

use crate::asks::{Ask, Asks};
use crate::limits::DRAIN_MAX;
use crate::shard::{Next, Shard};

/// Memory for glommio's own ring; its files are cold.
const GLOMMIO_IO_BYTES: usize = 64 * 1024;
const GLOMMIO_RING_DEPTH: usize = 16;
/// How long the shard may run before other tasks of its executor get a turn.
const TURN_MAX: Duration = Duration::from_millis(5);
/// The shard yields by itself, so glommio has nothing to preempt.
const PREEMPTION: Duration = Duration::from_secs(3600);
/// The longest that the executor can be parked while the shard has work.
const PARK_MAX: Duration = Duration::from_millis(5);
/// Steps between two looks at what others ask.
const ASK_STEPS: u32 = 64;

/// The least time between two warnings of one shard.
const WARN_EVERY: Duration = Duration::from_secs(5);

/// Runs shards on threads of their own, each pinned to its core, until they are drained.
/// `epoch` is where the gateway's clock starts, the same for all shards.
pub fn spawn<F>(core: usize, epoch: Instant, asks: Asks, make: F) -> Result<Running>
where
    F: FnOnce() -> Result<Shard<KernelRing>> + Send + 'static,
{
    let (started, has_started) = crossbeam_channel::bounded(1);
    let thread = LocalExecutorBuilder::new(Placement::Fixed(core))
        .name(&format!("shard-{core}"))
        .io_memory(GLOMMIO_IO_BYTES)
        .ring_depth(GLOMMIO_RING_DEPTH)
        .preempt_timer(PREEMPTION)
        .spawn(move || async move {
            match make() {
                Ok(shard) => {
                    // Nobody waits for the answer when the start has failed elsewhere.
                    let _ = started.send(Ok(()));
                    let bound = glommio::spawn_local(async {
                        loop {
                            glommio::timer::sleep(PARK_MAX).await;
                        }
                    });
                    Host { asks, shard, epoch, drain_until: None, warned: None }.run().await;
                    bound.cancel().await;
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        })
        .map_err(|error| anyhow::anyhow!("starting a shard on core {core}: {error}"))?;
    has_started.recv().context("a shard ended while it started")??;
    Ok(Running(thread))
}

/// A shard's thread.
pub struct Running(glommio::ExecutorJoinHandle<()>);

impl Running {
    /// Waits for the shard to end.
    pub fn join(self) -> Result<()> {
        self.0.join().map_err(|error| anyhow::anyhow!("a shard has failed: {error}"))
    }
}

struct Host {
    /// Goes first: a shard that only frees its memory is not stuck.
    asks: Asks,
    shard: Shard<KernelRing>,
    epoch: Instant,
    drain_until: Option<Instant>,
    warned: Option<Instant>,
}

impl Host {
    async fn run(mut self) {
        let mut steps = 0u32;
        let mut turn = Instant::now();
        loop {
            let now = Instant::now();
            let next =
                self.shard.step(now.saturating_duration_since(self.epoch).as_micros() as u64);
            steps = steps.wrapping_add(1);
            if next != Next::Again || steps.is_multiple_of(ASK_STEPS) {
                self.answer(now);
            }
            if let Some(trouble) = self.shard.take_trouble() {
                self.warn(now, &trouble);
            }
            if self.is_over(now) {
                return;
            }
            if let Next::Sleep(us) = next {
                let asks = &self.asks;
                self.shard.sleep(Duration::from_micros(us), || asks.is_empty());
            }
            if now - turn >= TURN_MAX {
                glommio::executor().yield_task_queue_now().await;
                turn = now;
            }
        }
    }

    /// Warns, but not so often that the log is all that is heard.
    fn warn(&mut self, now: Instant, trouble: &str) {
        if self.warned.is_none_or(|warned| now - warned >= WARN_EVERY) {
            self.warned = Some(now);
            tracing::warn!("{trouble}");
        }
    }

    fn answer(&mut self, now: Instant) {
        self.asks.turn(now);
        while let Some(ask) = self.asks.next() {
            match ask {
                Ask::Metrics(to) => {
                    let mut metrics = self.shard.metrics();
                    metrics.rings = self.shard.rings() as u64;
                    // Who has asked may have stopped waiting.
                    let _ = to.send(metrics);
                }
                Ask::Rules(rules) => self.shard.set_rules(rules),
                Ask::Drain => {
                    self.shard.drain();
                    self.drain_until.get_or_insert(now + DRAIN_MAX);
                }
            }
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.shard.is_drained() || self.drain_until.is_some_and(|until| now >= until)
    }
}
