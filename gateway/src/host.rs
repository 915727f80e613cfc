//! Hosts one shard in a glommio executor: runs it, lets it sleep, and carries what is asked of it.
//!
//! The shard sleeps on its own eventfd, inside its task, and not in glommio's rings: an executor
//! that parked thousands of times a second was seen to miss a wake-up for good about once in 50,000
//! sleeps (glommio 0.9, Linux 6.18). Other tasks get their turn after every sleep, and at least once
//! a tick.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use barrage_sys::{KernelRing, Waker};
use crossbeam_channel::{Receiver, Sender};
use glommio::{LocalExecutorBuilder, Placement};

use crate::limits::DRAIN_MAX;
use crate::metrics::Metrics;
use crate::shard::{Next, Shard};

/// Memory for glommio's own ring; its files are cold.
const GLOMMIO_IO_BYTES: usize = 64 * 1024;
const GLOMMIO_RING_DEPTH: usize = 16;
/// How long the shard may run before other tasks of its executor get a turn.
const TURN_MAX: Duration = Duration::from_millis(1);
/// Steps between two looks at what others ask.
const ASK_STEPS: u32 = 64;

/// What the control thread can ask of a shard.
pub enum Ask {
    /// Its numbers.
    Metrics(Sender<Metrics>),
    /// To say goodbye to everybody, and to end.
    Drain,
}

/// How the control thread reaches a shard.
#[derive(Clone)]
pub struct Handle {
    /// The core.
    pub core: usize,
    asks: Sender<Ask>,
    waker: Waker,
}

impl Handle {
    /// A handle of the shard on `core`, and the other end of it.
    pub fn new(core: usize, waker: Waker) -> (Self, Receiver<Ask>) {
        let (asks, receiver) = crossbeam_channel::bounded(16);
        (Self { core, asks, waker }, receiver)
    }

    /// Asks; false when the shard has ended, or when it has not looked for long.
    pub fn ask(&self, ask: Ask) -> bool {
        let asked = self.asks.try_send(ask).is_ok();
        self.waker.signal();
        asked
    }
}

/// Runs shards on threads of their own, each pinned to its core, until they are drained.
pub fn spawn<F>(core: usize, asks: Receiver<Ask>, make: F) -> Result<Running>
where
    F: FnOnce() -> Result<Shard<KernelRing>> + Send + 'static,
{
    let (started, has_started) = crossbeam_channel::bounded(1);
    let thread = LocalExecutorBuilder::new(Placement::Fixed(core))
        .name(&format!("shard-{core}"))
        .io_memory(GLOMMIO_IO_BYTES)
        .ring_depth(GLOMMIO_RING_DEPTH)
        .preempt_timer(TURN_MAX)
        .spawn(move || async move {
            match make() {
                Ok(shard) => {
                    // Nobody waits for the answer when the start has failed elsewhere.
                    let _ = started.send(Ok(()));
                    Host { shard, asks, drain_until: None }.run().await;
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        })
        .map_err(|error| anyhow::anyhow!("starting a shard on core {core}: {error}"))?;
    has_started.recv().context("a shard ended while it started")??;
    Ok(Running(Arc::new(thread)))
}

/// A shard's thread.
pub struct Running(Arc<glommio::ExecutorJoinHandle<()>>);

impl Running {
    /// Waits for the shard to end.
    pub fn join(self) -> Result<()> {
        let thread = Arc::into_inner(self.0).context("a shard is joined once")?;
        thread.join().map_err(|error| anyhow::anyhow!("a shard has failed: {error}"))
    }
}

struct Host {
    shard: Shard<KernelRing>,
    asks: Receiver<Ask>,
    drain_until: Option<Instant>,
}

impl Host {
    async fn run(mut self) {
        let mut turn = Instant::now();
        let mut steps = 0u32;
        loop {
            let now = Instant::now();
            let next = self.shard.step(now_us(now));
            steps = steps.wrapping_add(1);
            if next != Next::Again || steps.is_multiple_of(ASK_STEPS) {
                self.answer();
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

    fn answer(&mut self) {
        while let Ok(ask) = self.asks.try_recv() {
            match ask {
                Ask::Metrics(to) => {
                    let mut metrics = self.shard.metrics();
                    metrics.rings = self.shard.rings() as u64;
                    // Who has asked may have stopped waiting.
                    let _ = to.try_send(metrics);
                }
                Ask::Drain => {
                    self.shard.drain();
                    self.drain_until.get_or_insert_with(|| Instant::now() + DRAIN_MAX);
                }
            }
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.shard.is_drained() || self.drain_until.is_some_and(|until| now >= until)
    }
}

/// Microseconds on the gateway's clock: the system's monotonic one, the same for all shards.
fn now_us(now: Instant) -> u64 {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    now.saturating_duration_since(*START.get_or_init(|| now)).as_micros() as u64
}
