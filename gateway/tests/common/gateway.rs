//! The gateway's own program as a child process.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use super::SOON;
use super::client::{Client, Via};
use super::dir::TempDir;
use super::socket::Socket;
use super::upstream::Upstream;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_barrage-gateway");

/// Ports may be taken between finding them and using them.
const START_TRIES: u32 = 5;

/// A running gateway. It is killed when it is dropped.
pub struct Gateway {
    child: Child,
    log: Option<JoinHandle<String>>,
    pub tcp: SocketAddr,
    pub ws: SocketAddr,
    pub http: SocketAddr,
    pub upstream: SocketAddr,
    /// Services come by this path and not over TCP.
    pub upstream_unix: Option<PathBuf>,
    pub shards: usize,
}

/// Runs a test on a gateway with one shard, and again on one with two.
pub fn on_one_and_two_shards(body: impl Fn(&Gateway)) {
    for cores in ["0", "0-1"] {
        eprintln!("with --cores {cores}");
        body(&Gateway::start(cores, &[]));
    }
}

/// Loopback addresses that nobody listens on. Each has an IP address of this process's own, so that
/// tests which run at the same time do not meet.
pub fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id().to_le_bytes();
    let taken = TAKEN.fetch_add(1, Ordering::Relaxed) as u8;
    let ip = Ipv4Addr::new(127, 1 + process[1] % 200, process[0], 1 + taken % 250);
    let bind = |_| TcpListener::bind((ip, 0)).expect("a loopback port is free");
    let listeners: [TcpListener; N] = std::array::from_fn(bind);
    listeners.map(|listener| listener.local_addr().expect("it is bound"))
}

/// A path for a Unix socket that nobody uses.
pub fn free_path() -> PathBuf {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("barrage-e2e-{}-{taken}.sock", std::process::id()))
}

impl Gateway {
    /// Starts a gateway on these cores and waits until it is ready.
    pub fn start(cores: &str, options: &[&str]) -> Self {
        Self::start_with(cores, options, None)
    }

    /// The same, with the upstream socket on a path.
    pub fn start_with_unix(cores: &str) -> Self {
        Self::start_with_unix_at(cores, free_path())
    }

    /// The same, with the upstream socket on this path.
    pub fn start_with_unix_at(cores: &str, path: PathBuf) -> Self {
        Self::start_with(cores, &[], Some(path))
    }

    /// The same, with a durable history.
    pub fn start_in(data: &TempDir, cores: &str, options: &[&str]) -> Self {
        Self::start(cores, &[&["--data", data.text()], options].concat())
    }

    fn start_with(cores: &str, options: &[&str], unix: Option<PathBuf>) -> Self {
        for _ in 0..START_TRIES {
            match Self::try_start(cores, options, unix.clone()) {
                Ok(gateway) => return gateway,
                Err(log) if log.contains("cannot listen") => eprintln!("once more: {log}"),
                Err(log) => panic!("the gateway did not start:\n{log}"),
            }
        }
        panic!("no free ports");
    }

    fn try_start(
        cores: &str,
        options: &[&str],
        upstream_unix: Option<PathBuf>,
    ) -> Result<Self, String> {
        let [tcp, ws, http, upstream] = free_addresses();
        let upstream_option = match &upstream_unix {
            Some(path) => format!("unix:{}", path.display()),
            None => upstream.to_string(),
        };
        // A file that may not grow ends nobody by a signal, see `limit_files`.
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", PROGRAM])
            .args(["--cores", cores, "--tcp", &tcp.to_string(), "--ws", &ws.to_string()])
            .args(["--http", &http.to_string(), "--upstream", &upstream_option])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program was built");
        let stderr = child.stderr.take().expect("it is piped");
        let log = Some(std::thread::spawn(move || collect(stderr)));
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let lines = lines_of(stdout);
        let shards = if cores.contains('-') { 2 } else { 1 };
        let mut gateway = Self { child, log, tcp, ws, http, upstream, upstream_unix, shards };
        match lines.recv_timeout(SOON) {
            Ok(line) if line == "ready" => Ok(gateway),
            Ok(line) => panic!("the first line is not `ready` but {line:?}"),
            Err(RecvTimeoutError::Disconnected) => Err(gateway.end_of_log()),
            Err(RecvTimeoutError::Timeout) => panic!("not ready within {SOON:?}"),
        }
    }

    pub fn address(&self, via: Via) -> SocketAddr {
        match via {
            Via::Tcp => self.tcp,
            Via::WebSocket => self.ws,
        }
    }

    /// A client that has said HELLO.
    pub fn client(&self, via: Via, user: u64) -> Client {
        Client::come(self.address(via), via, user)
    }

    /// A service that has said HELLO.
    pub fn upstream(&self) -> Upstream {
        Upstream::come(self.upstream_socket())
    }

    /// A connection to the upstream socket on which nothing was said.
    pub fn upstream_socket(&self) -> Socket {
        match &self.upstream_unix {
            Some(path) => Socket::unix(path),
            None => Socket::tcp(self.upstream),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("the gateway runs");
    }

    /// Stops the whole process where it is, or lets it go on.
    pub fn set_stopped(&self, stopped: bool) {
        let signal = if stopped { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(&self.child), signal).expect("the gateway runs");
    }

    /// Kills it with SIGKILL.
    pub fn kill(mut self) {
        self.kill_now();
    }

    /// The same, where it is to be replaced.
    pub fn kill_now(&mut self) {
        self.assert_alive();
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is our child");
    }

    /// Sends SIGTERM, and waits until everything has ended in order.
    pub fn end(mut self) {
        self.terminate();
        let status = self.wait(Instant::now() + 2 * SOON);
        assert!(status.success(), "ended with {status}:\n{}", self.end_of_log());
    }

    /// Lets its files grow no further than to so many bytes, or again without a bound: a disk that is
    /// full, without one.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let limit = Rlimit { current: bytes, ..getrlimit(Resource::Fsize) };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Fsize, limit).expect("it is ours");
    }

    /// Lets it have so many descriptors.
    pub fn limit_descriptors(&self, count: u64) {
        let limit = Rlimit { current: Some(count), ..getrlimit(Resource::Nofile) };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Nofile, limit).expect("it is ours");
    }

    /// Waits for the process to end.
    pub fn wait(&mut self, until: Instant) -> ExitStatus {
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(Instant::now() < until, "the gateway does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Panics if the process has ended.
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().expect("it is our child") {
            panic!("the gateway has ended with {status}:\n{}", self.end_of_log());
        }
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::HUP).expect("the gateway runs");
    }

    /// A page of the HTTP port: status and body. `None` when nobody answers.
    pub fn page(&self, path: &str) -> Option<(u16, String)> {
        self.request("GET", path)
    }

    /// The answer to a POST: status and body.
    pub fn post(&self, path: &str) -> (u16, String) {
        self.request("POST", path).expect("the HTTP port answers")
    }

    fn request(&self, method: &str, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.http, SOON).ok()?;
        stream.set_read_timeout(Some(SOON)).ok()?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\
             Content-Length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }

    /// All metrics, summed over the cores.
    pub fn metrics(&self) -> HashMap<String, u64> {
        let (status, text) = self.page("/metrics").expect("the HTTP port answers");
        assert_eq!(status, 200);
        let mut sums = HashMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').expect("a name and a value");
            let name = series.split('{').next().expect("a name");
            // Only seconds are not whole.
            let value: f64 = value.parse().expect("a number");
            *sums.entry(name.to_owned()).or_default() += value as u64;
        }
        sums
    }

    /// One metric, without its prefix.
    pub fn metric(&self, name: &str) -> u64 {
        let all = self.metrics();
        *all.get(&format!("barrage_{name}")).unwrap_or_else(|| panic!("no metric {name}"))
    }

    /// One metric of one category.
    pub fn category_metric(&self, name: &str, category: &str) -> u64 {
        let (_, text) = self.page("/metrics").expect("the HTTP port answers");
        let name = format!("barrage_category_{name}_total{{");
        let category = format!("category=\"{category}\"}}");
        let mine = text.lines().filter(|line| line.starts_with(&name) && line.contains(&category));
        let values = mine.map(|line| line.rsplit(' ').next().and_then(|value| value.parse().ok()));
        values.map(|value: Option<u64>| value.expect("a number")).sum()
    }

    /// Waits until a metric is what it should be.
    pub fn until_metric(&self, name: &str, is: impl Fn(u64) -> bool) -> u64 {
        let until = Instant::now() + SOON;
        loop {
            let value = self.metric(name);
            if is(value) {
                return value;
            }
            assert!(Instant::now() < until, "{name} stays {value}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Resident memory in bytes.
    pub fn rss_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("the gateway runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has memory");
        let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("one");
        kib * 1024
    }

    /// What was logged, once the process has ended.
    pub fn end_of_log(&mut self) -> String {
        self.log.take().map_or_else(String::new, |log| log.join().expect("a log of text"))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let ended = self.child.try_wait().ok().flatten();
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            match ended {
                Some(status) => eprintln!("the gateway had ended with {status}; its log:"),
                None => eprintln!("the gateway was running; its log:"),
            }
            eprintln!("{}", self.end_of_log());
        }
        if let Some(path) = &self.upstream_unix {
            // The gateway removes it when it ends by itself.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Runs the program until it ends by itself: its status, stdout and stderr.
pub fn run(options: &[&str]) -> (ExitStatus, String, String) {
    let mut child = Command::new(PROGRAM)
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program was built");
    let stderr = child.stderr.take().expect("it is piped");
    let log = std::thread::spawn(move || collect(stderr));
    let until = Instant::now() + SOON;
    let status = loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            break status;
        }
        if Instant::now() >= until {
            // It may end at this very moment.
            let _ = child.kill();
            let _ = child.wait();
            panic!("{options:?}: it runs, and should have refused to");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut stdout = String::new();
    let mut pipe = child.stdout.take().expect("it is piped");
    pipe.read_to_string(&mut stdout).expect("text");
    (status, stdout, log.join().expect("text"))
}

fn collect(mut stderr: ChildStderr) -> String {
    let mut bytes = Vec::new();
    // What was logged until the process ended is what there is.
    let _ = stderr.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn lines_of(stdout: impl BufRead + Send + 'static) -> Receiver<String> {
    let (to, lines) = channel();
    std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
