//! The network thread: one ring, all clients.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use barrage_sys::{
    KernelRing, Ring, RingConfig, Waker, open_files_limit, pin_to_core, raise_open_files_limit,
    thread_cpu_time,
};

use crate::clock::{SECOND_NS, now_ns, sleep_precisely};
use crate::fleet::Fleet;
use crate::plan::Plan;
use crate::ramp::Ramp;
use crate::shared::{Shared, write};
use crate::world::World;

/// Receive buffers of one ring, and their size. One holds enough small frames to make an event
/// worth its cost. With too few, receives end for want of a buffer and are asked for again:
/// measured with 2,000 members, 128 took 3.5 % of a core per million deliveries, 512 took 2 %.
const BUFFERS: u16 = 512;
const BUFFER_BYTES: usize = 16 * 1024;
/// The same with more clients than this: there are many rings then, and little comes at a time.
const BUSY_CLIENTS_MAX: u32 = 50_000;
const IDLE_BUFFERS: u16 = 256;
const IDLE_BUFFER_BYTES: usize = 2 * 1024;
const REQUESTS: u32 = 1024;
const COMPLETIONS: u32 = 16 * 1024;
/// Slots of a ring beyond the clients: closed ones come back a little later.
const SLOTS_SPARE: u32 = 64;

/// How long the thread sleeps at most, so that it sees what other threads say.
const NAP: Duration = Duration::from_millis(5);
/// The same while connections wait for their time.
const NAP_RAMP: Duration = Duration::from_millis(1);
/// Every client's turn to ping comes once in this time.
const PING_ROUND_NS: u64 = SECOND_NS;
/// How often somebody looks whether everything has arrived.
const LOOK_NS: u64 = 5_000_000;

/// The network thread's state at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark {
    /// The moment.
    pub at_ns: u64,
    /// Processor time of the thread.
    pub cpu: Duration,
    /// Deliveries, or answered uplinks.
    pub delivered: u64,
    /// Bytes that the gateway has sent.
    pub received_bytes: u64,
}

/// What the network thread has found.
pub struct Outcome {
    /// All counts and latencies.
    pub world: World,
    /// The beginning and the end of what is measured.
    pub marks: [Mark; 2],
    /// The beginning and the end of the ramp.
    pub ramp_marks: [Mark; 2],
    /// How long the ramp took.
    pub ramp_s: f64,
}

impl Outcome {
    /// Deliveries a second while measuring.
    pub fn deliveries_per_s(&self) -> Option<f64> {
        let [from, to] = self.marks;
        per_second(to.delivered - from.delivered, to.at_ns - from.at_ns)
    }

    /// Share of its core that the thread used while measuring.
    pub fn busy(&self) -> Option<f64> {
        busy(self.marks)
    }

    /// Share of its core that the thread used during the ramp.
    pub fn ramp_busy(&self) -> Option<f64> {
        busy(self.ramp_marks)
    }
}

fn per_second(count: u64, ns: u64) -> Option<f64> {
    (ns > 0).then(|| count as f64 * SECOND_NS as f64 / ns as f64)
}

/// Share of a core that a thread used between two marks.
pub fn busy([from, to]: [Mark; 2]) -> Option<f64> {
    per_second((to.cpu - from.cpu).as_nanos() as u64, to.at_ns - from.at_ns)
        .map(|cpu_ns| cpu_ns / SECOND_NS as f64)
}

/// Runs the clients of `plan` on a thread of its own, until the run is drained or stopped. At most
/// so many connect in a second; 0: as fast as it goes.
pub fn spawn(
    plan: Plan,
    connects_per_s: f64,
    shared: Arc<Shared>,
) -> Result<JoinHandle<Result<Outcome>>> {
    let body = move || Network::new(plan, connects_per_s, shared)?.run();
    std::thread::Builder::new()
        .name("network".to_owned())
        .spawn(body)
        .context("cannot start the network thread")
}

/// Waits for a thread's result.
pub fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread has panicked; that is a bug of barrage-loadgen"))?
}

/// Rings for so many clients.
pub fn ring_config(clients: u32) -> RingConfig {
    let (buffers, buffer_bytes) = if clients <= BUSY_CLIENTS_MAX {
        (BUFFERS, BUFFER_BYTES)
    } else {
        (IDLE_BUFFERS, IDLE_BUFFER_BYTES)
    };
    RingConfig {
        slots: RingConfig::slots_under(open_files_limit()).min(clients + SLOTS_SPARE),
        connections: clients + SLOTS_SPARE,
        requests: REQUESTS,
        completions: COMPLETIONS,
        buffers,
        buffer_bytes,
    }
}

/// The rings and the clients, and what has to be done for them again and again.
pub struct Engine {
    /// The rings.
    pub ring: KernelRing,
    /// The clients.
    pub fleet: Fleet,
    pinged_ns: u64,
}

impl Engine {
    /// For the calling thread, which from now on runs on the core of the plan.
    pub fn new(plan: Plan) -> Result<Self> {
        if let Some(core) = plan.core {
            pin_to_core(core).with_context(|| format!("cannot run on core {core}: see --core"))?;
        }
        sleep_precisely();
        raise_open_files_limit();
        let waker = Waker::new().context("cannot make an eventfd")?;
        let mut config = ring_config(plan.clients);
        if plan.returns {
            // A client may be back before its last connection is forgotten.
            config.connections = config.connections.saturating_add(plan.clients / 4);
        }
        let ring = KernelRing::new(config, waker)?;
        let mut fleet = Fleet::new(Arc::new(plan));
        fleet.world.now_ns = now_ns();
        Ok(Self { ring, pinged_ns: fleet.world.now_ns, fleet })
    }

    /// Takes in what has happened; says how many events that were.
    pub fn hear(&mut self) -> usize {
        let fleet = &mut self.fleet;
        let delivered = fleet.world.tally.delivered;
        let reaped = self.ring.reap(&mut |event| {
            fleet.world.now_ns = now_ns();
            fleet.on(event);
        });
        let world = &mut fleet.world;
        if world.tally.delivered > delivered {
            world.last_delivery_ns = world.now_ns;
        }
        world.now_ns = now_ns();
        if world.windowed {
            fleet.survey();
        }
        reaped
    }

    /// Lets those clients ping whose turn it is.
    pub fn ping(&mut self) {
        let now_ns = self.fleet.world.now_ns;
        let clients = self.fleet.begun() as u64;
        let turns = (now_ns - self.pinged_ns).min(PING_ROUND_NS) * clients / PING_ROUND_NS;
        if turns > 0 {
            self.pinged_ns = now_ns;
            self.fleet.ping_some(turns as usize);
        }
    }

    /// Hands over what the clients want.
    pub fn say(&mut self) {
        self.fleet.flush(&mut self.ring);
        self.ring.submit();
    }

    /// Sleeps until something has happened, or for a little while.
    pub fn rest(&mut self, ramping: bool) {
        let nap = if ramping { NAP_RAMP } else { NAP };
        self.ring.wait(nap, || true);
    }
}

/// The thread of a command that measures one thing.
struct Network {
    engine: Engine,
    ramp: Ramp,
    shared: Arc<Shared>,
    marks: [Mark; 2],
    ramp_marks: [Mark; 2],
    looked_ns: u64,
    uplinking: bool,
}

impl Network {
    fn new(plan: Plan, connects_per_s: f64, shared: Arc<Shared>) -> Result<Self> {
        let clients = plan.clients.into();
        // Who keeps to no schedule keeps to a window.
        let windowed = !plan.paced;
        let mut engine = Engine::new(plan)?;
        engine.fleet.world.windowed = windowed;
        let now_ns = engine.fleet.world.now_ns;
        let mut this = Self {
            engine,
            ramp: Ramp::new(now_ns, 0, clients, connects_per_s),
            shared,
            marks: [Mark::default(); 2],
            ramp_marks: [Mark::default(); 2],
            looked_ns: now_ns,
            uplinking: false,
        };
        this.ramp_marks[0] = this.mark();
        Ok(this)
    }

    fn run(mut self) -> Result<Outcome> {
        loop {
            let reaped = self.engine.hear();
            let began = self.ramp()?;
            self.engine.ping();
            self.follow_span();
            if let Some(errand) = self.shared.errand() {
                self.engine.fleet.run_errand(errand);
            }
            self.engine.say();
            self.tell();
            if self.over() {
                break;
            }
            if reaped == 0 && !began {
                self.engine.rest(!self.ramp.ended());
            }
        }
        self.end()
    }

    fn ramp(&mut self) -> Result<bool> {
        if self.ramp.ended() {
            return Ok(false);
        }
        let Engine { ring, fleet, .. } = &mut self.engine;
        let began = self.ramp.advance(fleet.world.now_ns, ring, fleet)?;
        if self.ramp.ended() {
            self.ramp_marks[1] = self.mark();
            self.shared.set_ramped();
        }
        Ok(began)
    }

    /// Notices when the measured time begins and ends.
    fn follow_span(&mut self) {
        let Some(span) = self.shared.span() else { return };
        let now_ns = self.engine.fleet.world.now_ns;
        self.engine.fleet.world.from_ns = span.from_ns;
        self.engine.fleet.world.to_ns = if self.shared.stopped() { 0 } else { span.to_ns };
        if !self.uplinking && now_ns >= span.start_ns {
            self.uplinking = true;
            self.engine.fleet.begin_uplinks();
        }
        if self.marks[0].at_ns == 0 && now_ns >= span.from_ns {
            self.marks[0] = self.mark();
        }
        if self.marks[1].at_ns == 0 && (now_ns >= span.to_ns || self.shared.stopped()) {
            self.marks[1] = self.mark();
        }
    }

    fn mark(&self) -> Mark {
        let world = &self.engine.fleet.world;
        Mark {
            at_ns: now_ns(),
            cpu: thread_cpu_time(),
            delivered: world.tally.delivered + world.uplinks.answered,
            received_bytes: world.received_bytes,
        }
    }

    /// Lets the other threads see how far things are.
    fn tell(&self) {
        let world = &self.engine.fleet.world;
        write(&self.shared.ready, world.counts.ready);
        write(&self.shared.failed, world.counts.failed);
        write(&self.shared.lost, world.counts.lost);
        write(&self.shared.delivered, world.tally.delivered + world.uplinks.answered);
        write(&self.shared.progress, world.progress());
        write(&self.shared.joined, world.errands.joined);
        write(&self.shared.left, world.errands.left);
        write(&self.shared.errands_refused, world.errands.refused);
    }

    fn over(&mut self) -> bool {
        if self.shared.stopped() && !self.ramp.ended() {
            return true;
        }
        let Some((last_seqs, time_left)) = self.shared.draining() else { return false };
        if !time_left {
            return true;
        }
        let now_ns = self.engine.fleet.world.now_ns;
        if now_ns - self.looked_ns < LOOK_NS {
            return false;
        }
        self.looked_ns = now_ns;
        self.engine.fleet.is_complete(last_seqs)
    }

    fn end(mut self) -> Result<Outcome> {
        if self.marks[0].at_ns == 0 {
            // Stopped before it was time: nothing was measured.
            self.marks[1] = self.marks[0];
        } else if self.marks[1].at_ns == 0 {
            self.marks[1] = self.mark();
        }
        let last_seqs = self.shared.draining().map_or(&[][..], |(last_seqs, _)| last_seqs);
        self.engine.fleet.finish(last_seqs);
        Ok(Outcome {
            ramp_s: self.ramp.seconds(),
            world: self.engine.fleet.world,
            marks: self.marks,
            ramp_marks: self.ramp_marks,
        })
    }
}
