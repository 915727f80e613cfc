//! `agent`: works for the leader of a campaign on another machine.
//!
//! An agent waits for one TCP connection of a leader ([`lead`]), who proves that it knows the same
//! token ([`greet`]), finds out how far the agent's clock is off ([`offset`]), and sends the scenario
//! with the agent's part of the clients. From then on [`words`] are what orders and reports are
//! between threads. The agent ([`serve`]) divides its part among its workers ([`parts`]).

pub mod carried;
pub mod greet;
pub mod lead;
pub mod link;
pub mod offset;
pub mod parts;
pub mod serve;
pub mod words;

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::clock::SECOND_NS;
use crate::exit::{Ended, Exit};
use crate::sources;
use crate::upstream::parse_address;

/// How often a leader pings, at least.
pub const PING_EVERY: Duration = Duration::from_millis(250);
/// How long a leader may get ready after it was greeted.
pub const READY_NS_MAX: u64 = 120 * SECOND_NS;
/// After this much silence the other side is taken to have gone.
pub const SILENCE_NS_MAX: u64 = 4 * SECOND_NS;
const _: () = assert!(
    SILENCE_NS_MAX as u128 >= 8 * PING_EVERY.as_nanos(),
    "some pings may be late before a side is given up"
);

/// How often the agent looks for callers, and whether it is to end.
const ACCEPT_EVERY: Duration = Duration::from_millis(50);
/// Callers who are being greeted at one time; the others are turned away.
const GREETED_MAX: usize = 4;

/// `agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Where to wait for a leader, HOST:PORT.
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub listen: SocketAddr,
    /// What leader and agent both know, or @FILE to take the first line of a file. It never goes
    /// over the wire. Only an agent that listens on a loopback address may do without. What
    /// follows the greeting is not encrypted: use a network of your own.
    #[arg(long, value_name = "T")]
    pub token: Option<String>,
    /// End after one campaign.
    #[arg(long)]
    pub once: bool,
    /// Cores to work on, such as 0-3,6; one worker on each [default: all].
    #[arg(long, value_name = "LIST", value_parser = parse_cores)]
    pub cores: Option<Cores>,
    /// Source addresses of the connections instead of the scenario's: addresses and networks with
    /// commas between.
    #[arg(long, value_name = "LIST", value_parser = parse_sources)]
    pub source: Option<SourceAddresses>,
    /// What it is called in reports [default: the machine's name, and the address and port that the
    /// leader has called].
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// Cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(pub Vec<usize>);

/// Addresses that connections come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceAddresses(pub Vec<IpAddr>);

/// Runs the command.
pub fn run(args: &AgentArgs, stop: &Arc<AtomicBool>) -> Result<Ended> {
    let agent = Arc::new(prepare(args, Arc::clone(stop))?);
    let listener = TcpListener::bind(args.listen)
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    listener.set_nonblocking(true).context("cannot listen without waiting")?;
    let cores = agent.cores.len();
    let address = listener.local_addr()?;
    println!("agent {} listens on {address} with {cores} cores", agent.name_at(address));
    // A reader of a pipe waits for that line.
    std::io::stdout().flush().context("cannot write to stdout")?;
    wait(&agent, &listener);
    Ok(Ended { text: String::new(), exit: Exit::Pass })
}

/// Receives callers until the agent is to end, or has served the one campaign that it was there for.
fn wait(agent: &Arc<Agent>, listener: &TcpListener) {
    while !agent.stop.load(Ordering::Relaxed) && !agent.is_done() {
        match listener.accept() {
            Ok((stream, peer)) => receive(agent, stream, peer),
            // Nobody, or one who has gone again.
            Err(_) => std::thread::sleep(ACCEPT_EVERY),
        }
    }
    // Who is served ends by the same flag, and soon.
    while agent.greeted.load(Ordering::Acquire) > 0 {
        std::thread::sleep(ACCEPT_EVERY);
    }
}

/// What all threads of an agent know.
pub struct Agent {
    /// As it was given.
    name: Option<String>,
    token: String,
    cores: Vec<usize>,
    sources: Option<Vec<IpAddr>>,
    once: bool,
    stop: Arc<AtomicBool>,
    /// Threads that greet or serve.
    greeted: AtomicUsize,
    /// Whether a campaign is being served.
    serving: AtomicBool,
    /// Whether a campaign was served, or is.
    served: AtomicBool,
}

impl Agent {
    /// What it is called by a leader who has called this address of it.
    fn name_at(&self, address: SocketAddr) -> String {
        self.name.clone().unwrap_or_else(|| default_name(address))
    }

    fn is_done(&self) -> bool {
        self.once && self.served.load(Ordering::Acquire)
    }
}

fn prepare(args: &AgentArgs, stop: Arc<AtomicBool>) -> Result<Agent> {
    let token = match &args.token {
        Some(given) => greet::token(given)?,
        None if args.listen.ip().is_loopback() => String::new(),
        None => bail!(
            "whoever reaches {} could make this machine attack others: give --token, or listen on \
             a loopback address",
            args.listen
        ),
    };
    if token.is_empty() && !args.listen.ip().is_loopback() {
        bail!("an empty --token keeps nobody out: give a long random one");
    }
    let online = barrage_sys::cores_online();
    let cores = args.cores.as_ref().map_or_else(|| online.clone(), |cores| cores.0.clone());
    if let Some(core) = cores.iter().find(|core| !online.contains(core)) {
        bail!("this process may not run on core {core}, but on {online:?}: see --cores");
    }
    if let Some(name) = &args.name {
        greet::check_name(name).context("--name")?;
    }
    Ok(Agent {
        name: args.name.clone(),
        token,
        cores,
        sources: args.source.as_ref().map(|list| list.0.clone()),
        once: args.once,
        stop,
        greeted: AtomicUsize::new(0),
        serving: AtomicBool::new(false),
        served: AtomicBool::new(false),
    })
}

/// Characters of a machine's name that a default name has.
const HOST_CHARS_MAX: usize = 48;
/// Characters of an address and a port, and what stands between, at most.
const ADDRESS_CHARS_MAX: usize = "-ffff-ffff-ffff-ffff-ffff-ffff-ffff-ffff-65535".len();
const _: () = assert!(
    HOST_CHARS_MAX + ADDRESS_CHARS_MAX <= words::NAME_BYTES_MAX,
    "every default name is a name"
);

/// Machines that were copied from each other have the same name: the address tells them apart.
fn default_name(address: SocketAddr) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host: String = host.chars().take(HOST_CHARS_MAX).collect();
    let (ip, port) = (address.ip().to_canonical(), address.port());
    let name = match ip.is_loopback() || ip.is_unspecified() {
        true => format!("{host}-{port}"),
        false => format!("{host}-{ip}-{port}"),
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    name.chars().map(plain).collect()
}

/// Lets a thread of its own greet a caller.
fn receive(agent: &Arc<Agent>, stream: TcpStream, peer: SocketAddr) {
    if agent.greeted.fetch_add(1, Ordering::AcqRel) >= GREETED_MAX {
        agent.greeted.fetch_sub(1, Ordering::AcqRel);
        return;
    }
    let theirs = Arc::clone(agent);
    let body = move || {
        if let Err(error) = serve::serve(&theirs, stream, peer) {
            eprintln!("agent: {peer}: {error:#}");
        }
        theirs.greeted.fetch_sub(1, Ordering::AcqRel);
    };
    if std::thread::Builder::new().name("leader".to_owned()).spawn(body).is_err() {
        agent.greeted.fetch_sub(1, Ordering::AcqRel);
    }
}

fn parse_sources(text: &str) -> Result<SourceAddresses, String> {
    sources::parse_list(text).map(SourceAddresses)
}

/// Cores that a machine may have, as far as lists of them go.
const CORES_MAX: usize = 4096;

fn parse_cores(text: &str) -> Result<Cores, String> {
    let number = |text: &str| {
        let core: Option<usize> = text.trim().parse().ok().filter(|core| *core < CORES_MAX);
        core.ok_or(format!("{text:?} is no core: give a list such as 0-3,6"))
    };
    let mut cores = Vec::new();
    for item in text.split(',') {
        match item.split_once('-') {
            Some((first, last)) => cores.extend(number(first)?..=number(last)?),
            None => cores.push(number(item)?),
        }
    }
    cores.sort_unstable();
    cores.dedup();
    if cores.is_empty() {
        return Err(format!("{text:?} names no core: give a list such as 0-3,6"));
    }
    Ok(Cores(cores))
}

#[cfg(test)]
mod tests;
