//! The leader's side of an agent: it looks like a worker.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::agent::link::{self, Reader, Writer};
use crate::agent::offset::{Drift, Estimate, RoundTrip, Rounds};
use crate::agent::words::{Begin, Word};
use crate::agent::{PING_EVERY, SILENCE_NS_MAX, greet};
use crate::clock::{SECOND_NS, now_ns};
use crate::exit::TargetLost;
use crate::orders::{Order, Report, What};
use crate::record::kept::Clock;
use crate::scenario::file::Loaded;
use crate::worker::Job;

/// How long an agent may take to answer a call.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long one round trip may take while nothing else goes on.
const ROUND_MAX: Duration = Duration::from_secs(2);
/// Round trips before a campaign.
const ROUNDS_FIRST: u32 = 200;
/// Round trips of one look while it goes on, one after the other, of which the quickest counts.
const ROUNDS_LOOK: u32 = 16;
/// How often it is looked at while it goes on.
const LOOK_EVERY_NS: u64 = SECOND_NS;
/// How long an agent may take to begin: it tries to reach the target.
const BEGIN_MAX: Duration = Duration::from_secs(10);

/// An agent that knows us and waits.
pub struct Remote {
    address: String,
    name: String,
    cores: u32,
    reader: Reader,
    writer: Writer,
    clock: RemoteClock,
}

/// An agent's clock, to be asked at any time, also while the agent works and after that.
#[derive(Clone, Debug)]
pub struct RemoteClock {
    agent: String,
    drift: Arc<Mutex<Drift>>,
}

impl RemoteClock {
    /// What is known of it by now.
    pub fn now(&self) -> Clock {
        let drift = self.drift.lock().unwrap_or_else(PoisonError::into_inner);
        // What is added to the agent's times, to make them ours.
        let offset_ns = drift.used_ns.wrapping_neg();
        Clock { agent: self.agent.clone(), offset_ns, error_ns: drift.error_ns }
    }

    fn change(&self, change: impl FnOnce(&mut Drift)) {
        change(&mut self.drift.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Remote {
    /// Calls the agent at `address` (HOST:PORT), shows it `token` (or the one in a file, `@FILE`),
    /// and measures its clock.
    pub fn connect(address: &str, token: &str) -> Result<Self> {
        Self::connect_now(address, token).with_context(|| format!("agent {address}"))
    }

    fn connect_now(address: &str, token: &str) -> Result<Self> {
        let token = greet::token(token)?;
        let stream = call(address)?;
        let (mut reader, writer) = link::open(stream)?;
        let hello = greet::approach(&mut reader, &writer, &token)?;
        let drift = Drift::new(measure(&mut reader, &writer, ROUNDS_FIRST)?);
        let clock = RemoteClock { agent: hello.name.clone(), drift: Arc::new(Mutex::new(drift)) };
        let (name, cores) = (hello.name, hello.cores);
        Ok(Self { address: address.to_owned(), name, cores, reader, writer, clock })
    }

    /// What it calls itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// On how many cores it works.
    pub fn cores(&self) -> u32 {
        self.cores
    }

    /// What is known of its clock by now.
    pub fn clock(&self) -> Clock {
        self.clock.now()
    }

    /// Its clock, to be asked again at the end: a clock that runs away is known only then.
    pub fn watched_clock(&self) -> RemoteClock {
        self.clock.clone()
    }

    /// Gives it its part, and waits until it works on that; an error says why it cannot.
    fn begin(&mut self, begin: Begin) -> Result<()> {
        self.writer.say(&Word::Begin(Box::new(begin)))?;
        match self.reader.expect(BEGIN_MAX)? {
            Word::Begun => Ok(()),
            Word::Unreachable(why) => Err(TargetLost(format!("from its machine {why}")).into()),
            Word::Broken(why) => bail!("{why}"),
            _ => bail!("it does not begin as an agent does"),
        }
    }

    /// Measures its clock again: some time may have passed since it was called.
    fn refresh(&mut self) -> Result<i64> {
        let drift = Drift::new(measure(&mut self.reader, &self.writer, ROUNDS_FIRST)?);
        self.clock.change(|known| *known = drift);
        Ok(drift.used_ns)
    }
}

/// Lets an agent do what `job` says, as [`crate::worker::spawn`] does with a thread. Its workers
/// report under `job.source` and a name of their own; the job's core and clock are the agent's.
pub fn spawn(
    mut remote: Remote,
    loaded: &Loaded,
    job: Job,
    orders: Receiver<Order>,
    reports: Sender<Report>,
) -> Result<JoinHandle<()>> {
    let clock_offset_ns = remote.refresh().with_context(|| format!("agent {}", remote.address))?;
    let begin = Begin {
        text: loaded.text.clone(),
        origin: loaded.origin.clone(),
        settings: loaded.settings.clone(),
        source: job.source.clone(),
        first: job.first,
        count: job.count,
        clock_offset_ns,
    };
    remote.begin(begin).with_context(|| format!("agent {}", remote.address))?;
    let Remote { address, reader, writer, clock, .. } = remote;
    let over = Arc::new(AtomicBool::new(false));
    let (worker, phases) = (job.worker, job.scenario.phases.len());
    let hearing = Hearing {
        worker,
        reader,
        writer: writer.clone(),
        clock,
        rounds: Rounds::default(),
        looked_ns: now_ns(),
        reports,
        phases,
        address,
    };
    let speaker = (writer, Arc::clone(&over));
    std::thread::Builder::new()
        .name(format!("agent-{}", job.worker))
        .spawn(move || {
            let (writer, over) = speaker;
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    hearing.hear();
                    over.store(true, Ordering::Release);
                });
                speak(&writer, &orders, &over);
            });
        })
        .context("cannot start a thread for an agent")
}

/// Passes orders on, and pings, until the agent has said its last word.
fn speak(writer: &Writer, orders: &Receiver<Order>, over: &AtomicBool) {
    while !over.load(Ordering::Acquire) {
        let said = match orders.recv_timeout(PING_EVERY) {
            Ok(order) => writer.say(&Word::Order(order.into())),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => break,
        };
        // When it cannot be said, the one who hears says why.
        if said.and_then(|()| writer.say(&Word::Ping { sent_ns: now_ns() })).is_err() {
            break;
        }
    }
    let _ = writer.say(&Word::End);
    writer.close();
}

/// What comes from an agent.
struct Hearing {
    worker: usize,
    reader: Reader,
    writer: Writer,
    clock: RemoteClock,
    /// The look at its clock that is going on.
    rounds: Rounds,
    /// When the clock was looked at last.
    looked_ns: u64,
    reports: Sender<Report>,
    phases: usize,
    address: String,
}

impl Hearing {
    /// Passes on what the agent says, up to its last word.
    fn hear(mut self) {
        crate::clock::run_promptly(true);
        let what = match self.hear_all() {
            Ok(last) => last,
            Err(error) => What::Broken(format!("the agent at {}: {error:#}", self.address)),
        };
        // A leader that has gone does not need it.
        let _ = self.reports.send(Report { worker: self.worker, what });
    }

    fn hear_all(&mut self) -> Result<What> {
        loop {
            let heard = match self.rounds.count {
                0 => self.reader.hear()?,
                _ => self.reader.hear_awake()?,
            };
            let what = match heard {
                Some(Word::Pong { sent_ns, heard_ns, answered_ns }) => {
                    let back_ns = self.reader.heard_ns();
                    self.look(RoundTrip { sent_ns, heard_ns, answered_ns, back_ns })?;
                    continue;
                }
                Some(Word::Interval(carried)) => {
                    What::Interval(Box::new(carried.interval(self.phases)?))
                }
                Some(Word::Ramped) => What::Ramped,
                Some(Word::Returned) => What::Returned,
                Some(Word::Finished(books)) => {
                    // An agent that has gone by now has said everything else.
                    if let Ok(last) = measure(&mut self.reader, &self.writer, ROUNDS_LOOK) {
                        self.clock.change(|drift| drift.look(last));
                    }
                    return Ok(What::Finished(books));
                }
                Some(Word::Lost(why)) => {
                    return Ok(What::Lost(format!("the agent at {}: {why}", self.address)));
                }
                Some(Word::Broken(why)) => bail!("{why}"),
                Some(other) => bail!("it said what an agent does not say: {other:?}"),
                None => {
                    let silent_ns = now_ns().saturating_sub(self.reader.heard_ns());
                    if silent_ns > SILENCE_NS_MAX {
                        bail!("nothing was heard of it for {} ms", silent_ns / 1_000_000);
                    }
                    continue;
                }
            };
            if self.reports.send(Report { worker: self.worker, what }).is_err() {
                bail!("the leader has gone");
            }
        }
    }

    /// One more round trip. When it is time to look at the clock, others follow it at once: then
    /// nobody has to wake up, and the bound is narrow.
    fn look(&mut self, round: RoundTrip) -> Result<()> {
        let is_time = round.back_ns.saturating_sub(self.looked_ns) >= LOOK_EVERY_NS;
        if self.rounds.count == 0 && !is_time {
            return Ok(());
        }
        self.rounds.add(round);
        if self.rounds.count > 0 && self.rounds.count < ROUNDS_LOOK {
            return self.writer.say(&Word::Ping { sent_ns: now_ns() });
        }
        if let Some(best) = std::mem::take(&mut self.rounds).best {
            self.clock.change(|drift| drift.look(best));
            self.looked_ns = round.back_ns;
        }
        Ok(())
    }
}

fn call(address: &str) -> Result<TcpStream> {
    let mut found = address
        .to_socket_addrs()
        .with_context(|| format!("{address} is not HOST:PORT, or its name is not known"))?;
    let first = found.next().ok_or_else(|| anyhow!("{address} has no address"))?;
    TcpStream::connect_timeout(&first, CONNECT_MAX)
        .map_err(|error| anyhow!("{error}: is `barrage-loadgen agent --listen` running there?"))
}

/// So many round trips, one after the other.
fn measure(reader: &mut Reader, writer: &Writer, rounds_max: u32) -> Result<Estimate> {
    let mut rounds = Rounds::default();
    for _ in 0..rounds_max {
        writer.say(&Word::Ping { sent_ns: now_ns() })?;
        let Word::Pong { sent_ns, heard_ns, answered_ns } = reader.expect(ROUND_MAX)? else {
            bail!("it does not say what time it is");
        };
        let back_ns = reader.heard_ns();
        rounds.add(RoundTrip { sent_ns, heard_ns, answered_ns, back_ns });
    }
    rounds.best.context("what it says of its time cannot be")
}
