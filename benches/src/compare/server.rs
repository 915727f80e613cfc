//! The servers: what they are, how they are started and stopped.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use barrage_loadgen::dialect::Protocol;
use clap::ValueEnum;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getrlimit, kill_process, kill_process_group, setrlimit,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// How long a server may take until it accepts connections.
const READY_MAX: Duration = Duration::from_secs(15);
/// How long it may take to end after SIGTERM; then it is killed.
const END_MAX: Duration = Duration::from_secs(20);
const NAP: Duration = Duration::from_millis(20);
/// The one core of every server.
const CORE: usize = 0;
/// Descriptors of a server, at most. nginx sets memory aside for each that it may have, and some
/// machines allow a thousand million.
const FILES_MAX: u64 = 1 << 17;
/// Lines of a log that an error shows.
const LOG_LINES_SHOWN: usize = 5;

/// A server that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// This gateway, its clients over TCP.
    Barrage,
    /// This gateway, its clients over WebSocket.
    BarrageWs,
    /// Eclipse Mosquitto: MQTT 3.1.1, QoS 0.
    Mosquitto,
    /// NATS.
    Nats,
    /// Redis publish and subscribe.
    Redis,
    /// nginx with nchan: WebSocket, published by HTTP.
    Nchan,
}

impl Kind {
    /// All, in the order of the table.
    pub const ALL: [Self; 6] =
        [Self::Barrage, Self::BarrageWs, Self::Mosquitto, Self::Nats, Self::Redis, Self::Nchan];

    /// For people and for files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Barrage => "barrage",
            Self::BarrageWs => "barrage-ws",
            Self::Mosquitto => "mosquitto",
            Self::Nats => "nats",
            Self::Redis => "redis",
            Self::Nchan => "nchan",
        }
    }

    /// What its clients speak.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Barrage | Self::BarrageWs => Protocol::Barrage,
            Self::Mosquitto => Protocol::Mqtt,
            Self::Nats => Protocol::Nats,
            Self::Redis => Protocol::Redis,
            Self::Nchan => Protocol::WsRaw,
        }
    }

    /// Its program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Barrage | Self::BarrageWs => "barrage-gateway",
            Self::Mosquitto => "mosquitto",
            Self::Nats => "nats-server",
            Self::Redis => "redis-server",
            Self::Nchan => "nginx",
        }
    }

    /// Messages that are on their way at any time when it goes as fast as it can: each server has
    /// the window of 64, 256, 1024 and 4096 with which it does the most. A server that writes to a
    /// client once for all that it has read gains by a wide one; mosquitto loses messages with it,
    /// and nchan leaves publishes unanswered.
    pub fn window(self) -> u32 {
        match self {
            Self::Barrage | Self::BarrageWs | Self::Mosquitto | Self::Nchan => 256,
            Self::Nats | Self::Redis => 4096,
        }
    }

    /// What a scenario has to be told about it.
    pub fn settings(self, addresses: &Addresses, pid: u32) -> Vec<String> {
        let protocol = match self {
            Self::Barrage | Self::BarrageWs => "barrage",
            Self::Mosquitto => "mqtt",
            Self::Nats => "nats",
            Self::Redis => "redis",
            Self::Nchan => "ws-raw",
        };
        let Addresses { tcp, ws, upstream, .. } = addresses;
        let mut settings = vec![
            format!("target.protocol={protocol}"),
            format!("target.tcp={tcp}"),
            format!("target.pid={pid}"),
        ];
        let ws_percent = match self {
            Self::Barrage => 0,
            Self::BarrageWs => 100,
            Self::Mosquitto | Self::Nats | Self::Redis | Self::Nchan => return settings,
        };
        settings.extend([
            format!("target.ws={ws}"),
            format!("target.upstream={upstream}"),
            // All are measured the same way, by the process.
            "target.metrics=none".to_owned(),
            format!("clients.ws_percent={ws_percent}"),
        ]);
        settings
    }

    /// The name and the text of its configuration, if it has one.
    fn config(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Barrage | Self::BarrageWs => None,
            Self::Mosquitto => {
                Some(("mosquitto.conf", include_str!("../../compare/mosquitto.conf")))
            }
            Self::Nats => Some(("nats.conf", include_str!("../../compare/nats.conf"))),
            Self::Redis => Some(("redis.conf", include_str!("../../compare/redis.conf"))),
            Self::Nchan => Some(("nginx.conf", include_str!("../../compare/nginx.conf"))),
        }
    }
}

/// Where a server listens. All but Barrage have one listener for everybody, the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For clients.
    pub tcp: SocketAddr,
    /// For clients of Barrage over WebSocket.
    pub ws: SocketAddr,
    /// For those who publish to Barrage.
    pub upstream: SocketAddr,
    /// For those who ask Barrage how it is.
    pub http: SocketAddr,
}

impl Addresses {
    /// Nobody listens on them. Somebody could take one before the server does; it would then say so
    /// and not get ready.
    fn free() -> Result<Self> {
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port");
        // All are held until all are known, so that they differ.
        let listeners = [bind()?, bind()?, bind()?, bind()?];
        let [tcp, ws, upstream, http] = listeners.each_ref().map(TcpListener::local_addr);
        Ok(Self { tcp: tcp?, ws: ws?, upstream: upstream?, http: http? })
    }
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    /// What it is.
    pub kind: Kind,
    /// Where it listens.
    pub addresses: Addresses,
    /// The process that does the work.
    pub pid: u32,
    child: Child,
    directory: PathBuf,
}

impl Server {
    /// Starts `program` on one core, with everything that it writes in `directory`, and waits until
    /// it accepts connections.
    pub fn start(kind: Kind, program: &Path, directory: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("creating {}", directory.display()))?;
        let addresses = Addresses::free()?;
        let mut command = command(kind, program, &directory, &addresses)?;
        let log = File::create(directory.join("log")).context("creating the server's log")?;
        let both = log.try_clone().context("the server's log")?;
        // A group of its own, so that Ctrl-C is ours to handle.
        command.stdin(Stdio::null()).stdout(both).stderr(log).process_group(0);
        allow_files().context("raising the limit of open files")?;
        let child = on_core(|| command.spawn())
            .with_context(|| format!("starting {}", program.display()))?;
        let pid = child.id();
        let mut this = Self { kind, addresses, pid, child, directory };
        this.wait_until_ready()?;
        this.pid = this.working_pid().unwrap_or(this.pid);
        Ok(this)
    }

    /// What a scenario has to be told about it.
    pub fn settings(&self) -> Vec<String> {
        self.kind.settings(&self.addresses, self.pid)
    }

    /// Its resident memory; none when it has ended.
    pub fn rss_bytes(&self) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.pid)).ok()?;
        let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }

    /// Whether it has ended, though nobody asked it to, and what its log says.
    pub fn gone(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(format!("{} ended with {status}; {}", self.kind.name(), self.log_tail()))
    }

    /// Ends it, by SIGTERM and if need be by SIGKILL; says when it needed that.
    pub fn end(mut self) -> Result<()> {
        let name = self.kind.name();
        if let Some(why) = self.gone() {
            bail!("{why}");
        }
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("sending SIGTERM")?;
        let deadline = Instant::now() + END_MAX;
        while Instant::now() < deadline {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(NAP);
        }
        bail!("{name} did not end within {END_MAX:?} of SIGTERM and is killed")
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_MAX;
        let Addresses { tcp, ws, upstream, http } = self.addresses;
        let all = match self.kind {
            Kind::Barrage | Kind::BarrageWs => vec![tcp, ws, upstream, http],
            Kind::Mosquitto | Kind::Nats | Kind::Redis | Kind::Nchan => vec![tcp],
        };
        let open = |address| TcpStream::connect_timeout(address, NAP).is_ok();
        // nginx listens before its worker is there.
        while !all.iter().all(open) || self.working_pid().is_none() {
            if let Some(why) = self.gone() {
                bail!("{why}");
            }
            if Instant::now() > deadline {
                let name = self.kind.name();
                bail!("{name} takes no connection for {READY_MAX:?}; {}", self.log_tail());
            }
            std::thread::sleep(NAP);
        }
        Ok(())
    }

    /// nginx works in a child of the process that was started; the others do it themselves.
    fn working_pid(&self) -> Option<u32> {
        let own = self.child.id();
        match self.kind {
            Kind::Nchan => {
                let path = format!("/proc/{own}/task/{own}/children");
                std::fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
            }
            Kind::Barrage | Kind::BarrageWs | Kind::Mosquitto | Kind::Nats | Kind::Redis => {
                Some(own)
            }
        }
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        format!("its log ends with\n{}", tail.join("\n"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            // Both fail only when it has ended after all. What it has started, such as nginx's
            // worker, is in its group and would go on without it.
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
        // What is left behind is in the directory for temporary files.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// What to start, with its configuration written.
fn command(kind: Kind, program: &Path, directory: &Path, addresses: &Addresses) -> Result<Command> {
    let mut command = Command::new(program);
    let Some((name, text)) = kind.config() else {
        command.args(["--cores", &CORE.to_string()]);
        let Addresses { tcp, ws, upstream, http } = addresses;
        for (option, address) in
            [("--tcp", tcp), ("--ws", ws), ("--upstream", upstream), ("--http", http)]
        {
            command.arg(option).arg(address.to_string());
        }
        return Ok(command);
    };
    let path = directory.join(name);
    std::fs::write(&path, filled(text, directory, addresses.tcp.port()))
        .with_context(|| format!("writing {}", path.display()))?;
    match kind {
        Kind::Barrage | Kind::BarrageWs => {}
        Kind::Redis => {
            command.arg(path);
        }
        Kind::Mosquitto => {
            command.arg("-c").arg(path);
        }
        Kind::Nats => {
            // One core, like everybody.
            command.arg("-c").arg(path).env("GOMAXPROCS", "1");
        }
        Kind::Nchan => {
            command.arg("-p").arg(directory).arg("-c").arg(path).args(["-e", "stderr"]);
        }
    }
    Ok(command)
}

/// A configuration for this machine.
fn filled(text: &str, directory: &Path, port: u16) -> String {
    let files = files_max();
    let user = match rustix::process::geteuid().is_root() {
        true => "root".to_owned(),
        false => "nobody".to_owned(),
    };
    text.replace("{port}", &port.to_string())
        .replace("{directory}", &directory.display().to_string())
        .replace("{modules}", super::install::NGINX_MODULES)
        .replace("{files}", &files.to_string())
        .replace("{connections}", &files.saturating_mul(2).to_string())
        .replace("{user}", &user)
}

fn files_max() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(FILES_MAX).min(FILES_MAX)
}

/// Lets what is started have as many descriptors as may be: not every server asks for them itself.
fn allow_files() -> std::io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < files_max()) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(files_max()), maximum })?;
    }
    Ok(())
}

/// Runs `start` on the servers' core; what it starts stays there.
fn on_core<T>(start: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
    let before = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    one.set(CORE);
    sched_setaffinity(None, &one)?;
    let started = start();
    sched_setaffinity(None, &before)?;
    started
}
