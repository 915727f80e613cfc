//! An agent serves one leader: its orders go to the workers, what they see goes back.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::agent::link::{self, Reader, Writer};
use crate::agent::parts::{Gather, divide, share, start, translate, translate_interval};
use crate::agent::words::{Begin, Hello, VERSION, Word};
use crate::agent::{Agent, READY_NS_MAX, SILENCE_NS_MAX, greet};
use crate::campaign::target;
use crate::clock::{SECOND_NS, now_ns, run_promptly};
use crate::exit::TargetLost;
use crate::orders::{Order, Report, What};
use crate::procfs;
use crate::scenario::{Scenario, file};
use crate::shared::Shared;
use crate::sources::Sources;
use crate::worker::{self, Job};

/// How long workers may take to end when nobody waits for what they say.
const END_NS_MAX: u64 = 10 * SECOND_NS;
/// How often somebody looks whether they have.
const LOOK: Duration = Duration::from_millis(20);

/// Greets a caller and serves it to the end.
pub fn serve(agent: &Agent, stream: TcpStream, peer: SocketAddr) -> Result<()> {
    stream.set_nonblocking(false).context("cannot wait for what is said")?;
    let (mut reader, writer) = link::open(stream)?;
    if agent.serving.load(Ordering::Acquire) {
        return writer.say(&Word::Busy);
    }
    let name = agent.name_at(writer.local_address()?);
    let hello =
        Hello { version: VERSION, name, cores: agent.cores.len() as u32, nonce: greet::nonce()? };
    greet::admit(&mut reader, &writer, &hello, &agent.token).context("was not let in")?;
    // Of two that came at the same time the second is turned away here.
    if agent.serving.swap(true, Ordering::AcqRel) {
        return writer.say(&Word::Busy);
    }
    eprintln!("agent: {peer} leads");
    let result = lead(agent, reader, &writer);
    agent.serving.store(false, Ordering::Release);
    eprintln!("agent: {peer} has gone");
    result
}

/// Follows the leader until it is content, or has gone.
fn lead(agent: &Agent, reader: Reader, writer: &Writer) -> Result<()> {
    let mut campaign = Campaign { agent, writer: writer.clone(), part: None };
    let (words, said) = channel();
    let listening = writer.clone();
    let result = std::thread::scope(|scope| {
        // Workers are not started by this one: they would have its right to go before others.
        scope.spawn(move || listen(reader, &listening, &words));
        let result = campaign.follow(&said);
        if let Err(error) = &result {
            // The leader may be the one that has gone.
            let _ = writer.say(&Word::Broken(format!("{error:#}")));
        }
        let ended = campaign.end();
        writer.close();
        result.and(ended)
    });
    result.context("the campaign was not led to its end")
}

/// Answers pings, and passes everything else on; the last word may be why there are no more.
fn listen(mut reader: Reader, writer: &Writer, words: &Sender<Result<Word>>) {
    let mut silence_ns_max = READY_NS_MAX;
    // One ping is soon followed by another when the clock is looked at.
    let mut pinged = false;
    loop {
        let heard = if pinged { reader.hear_awake() } else { reader.hear() };
        pinged = matches!(heard, Ok(Some(Word::Ping { .. })));
        let word = match heard {
            Ok(Some(Word::Ping { sent_ns })) => {
                let (heard_ns, answered_ns) = (reader.heard_ns(), now_ns());
                match writer.say(&Word::Pong { sent_ns, heard_ns, answered_ns }) {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                }
            }
            Ok(Some(word)) => {
                // While this one begins, the leader waits for others and says nothing.
                match word {
                    // Workers are busy from now on, and answers that come late would make the
                    // clock's error look larger than it is. Before, a leader on the same core has
                    // to get its turn.
                    Word::Begin(_) => run_promptly(true),
                    _ => silence_ns_max = SILENCE_NS_MAX,
                }
                Ok(word)
            }
            Ok(None) => {
                let silent_ns = now_ns().saturating_sub(reader.heard_ns());
                if silent_ns <= silence_ns_max {
                    continue;
                }
                Err(anyhow!("the leader was silent for {} ms", silent_ns / 1_000_000))
            }
            Err(error) => Err(error),
        };
        let over = word.is_err();
        if words.send(word).is_err() || over {
            return;
        }
    }
}

/// One leader's campaign.
struct Campaign<'a> {
    agent: &'a Agent,
    writer: Writer,
    part: Option<Part>,
}

impl Campaign<'_> {
    /// Does as the leader says, until it says that it was all.
    fn follow(&mut self, said: &Receiver<Result<Word>>) -> Result<()> {
        loop {
            if self.agent.stop.load(Ordering::Relaxed) {
                bail!("the agent was told to end");
            }
            let word = match said.recv_timeout(LOOK) {
                Ok(word) => word?,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => bail!("nobody listens to the leader"),
            };
            match word {
                Word::Begin(begin) if self.part.is_none() => {
                    let scenario = scenario(self.agent, &begin)?;
                    if let Err(TargetLost(why)) = reach(&scenario) {
                        self.writer.say(&Word::Unreachable(why.clone()))?;
                        bail!("the target cannot be reached from here: {why}");
                    }
                    self.part = Some(Part::new(self.agent, &begin, scenario, &self.writer)?);
                    self.writer.say(&Word::Begun)?;
                }
                Word::Order(told) => match &self.part {
                    Some(part) => {
                        // A campaign that was given up before it began is none.
                        self.agent.served.store(true, Ordering::Release);
                        part.order(told.into());
                    }
                    None => bail!("an order came before the campaign"),
                },
                Word::End => return Ok(()),
                other => bail!("a leader does not say {other:?} now"),
            }
        }
    }

    /// Ends what is still going on.
    fn end(&mut self) -> Result<()> {
        self.part.take().map_or(Ok(()), Part::end)
    }
}

/// What the agent is to do, with its own addresses.
fn scenario(agent: &Agent, begin: &Begin) -> Result<Scenario> {
    let loaded = file::parse(&begin.text, &begin.origin, &begin.settings)
        .context("the leader's scenario cannot be read here")?;
    let mut scenario = loaded.scenario;
    if begin.first.checked_add(begin.count).is_none_or(|end| end > scenario.clients.count) {
        let (first, count, all) = (begin.first, begin.count, scenario.clients.count);
        bail!("{count} clients from {first} on are not a part of {all}");
    }
    if let Some(sources) = &agent.sources {
        scenario.clients.sources = sources.clone();
    }
    let absent = |source: &IpAddr| TcpListener::bind((*source, 0)).is_err();
    if let Some(source) = scenario.clients.sources.iter().copied().find(absent) {
        bail!(
            "connections are to come from {source}, which is not an address of the agent's \
             machine: start that agent with --source and its own"
        );
    }
    // All workers share the ports of the same addresses.
    let Scenario { target, clients, .. } = &scenario;
    if let Some(address) = target.tcp.or(target.ws) {
        Sources::plan(&clients.sources, address, begin.count, procfs::local_ports()?)?;
    }
    Ok(scenario)
}

/// Whether the clients' doors of the target can be reached from here. Only the leader publishes.
fn reach(scenario: &Scenario) -> Result<(), TargetLost> {
    let mut clients = scenario.clone();
    clients.target.upstream = None;
    target::reach(&clients)
}

/// The agent's part, while its workers work.
struct Part {
    orders: Vec<Sender<Order>>,
    clock_offset_ns: i64,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Part {
    fn new(agent: &Agent, begin: &Begin, scenario: Scenario, writer: &Writer) -> Result<Self> {
        let scenario = Arc::new(scenario);
        // Nobody is there to do nothing.
        let workers = (agent.cores.len() as u32).min(begin.count).max(1);
        let (reports, reported) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let clock_offset_ns = begin.clock_offset_ns;
        let mut part = Self { orders: Vec::new(), clock_offset_ns, stop, threads: Vec::new() };
        for at in 0..workers {
            let job = Job {
                scenario: Arc::clone(&scenario),
                worker: at as usize,
                source: format!("{}-worker-{at}", begin.source),
                first: begin.first + start(begin.count, at, workers),
                count: share(begin.count, at, workers),
                core: agent.cores.get(at as usize).copied(),
                clock_offset_ns,
            };
            if let Err(error) = part.hire(job, &reports) {
                part.end()?;
                return Err(error.context("a worker cannot be started"));
            }
        }
        let (bridge, gather) = (writer.clone(), Gather::new(workers));
        let body = move || pass_on(gather, &reported, &bridge, clock_offset_ns);
        part.threads.push(std::thread::Builder::new().name("reports".to_owned()).spawn(body)?);
        Ok(part)
    }

    fn hire(&mut self, job: Job, reports: &Sender<Report>) -> Result<()> {
        let (orders, ordered) = channel();
        let shared = Shared::new(Arc::clone(&self.stop));
        self.threads.push(worker::spawn(job, shared, ordered, reports.clone())?);
        self.orders.push(orders);
        Ok(())
    }

    fn order(&self, order: Order) {
        let order = translate(order, self.clock_offset_ns);
        let workers = self.orders.len() as u32;
        for (at, orders) in (0..).zip(&self.orders) {
            // One that has ended has said why, and the leader was told.
            let _ = orders.send(divide(&order, at, workers));
        }
    }

    fn end(self) -> Result<()> {
        self.order(Order::Stop);
        self.stop.store(true, Ordering::Relaxed);
        drop(self.orders);
        let until_ns = now_ns() + END_NS_MAX;
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            if now_ns() > until_ns {
                bail!("workers do not end; their clients may still be connected");
            }
            std::thread::sleep(LOOK);
        }
        for thread in self.threads {
            if thread.join().is_err() {
                bail!("a worker has panicked; that is a bug of barrage-loadgen");
            }
        }
        Ok(())
    }
}

/// Tells the leader what workers say, until the last of them has gone.
fn pass_on(mut gather: Gather, reported: &Receiver<Report>, writer: &Writer, clock_offset_ns: i64) {
    let (mut listened, mut said_last) = (true, false);
    loop {
        let mut what = match reported.recv_timeout(link::WRITE_MAX) {
            Ok(report) => report.what,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if let What::Interval(interval) = &mut what {
            translate_interval(interval, clock_offset_ns.wrapping_neg());
        }
        if let Some(word) = gather.hear(what) {
            // When the leader has gone, who listens to it notices, too, and ends the workers.
            listened = listened && writer.say(&word).is_ok();
            said_last |= matches!(word, Word::Finished(_) | Word::Lost(_) | Word::Broken(_));
        }
    }
    if listened && !said_last {
        // The leader would wait for ever.
        let _ = writer.say(&Word::Broken("a worker has ended without a word".to_owned()));
    }
}
