//! A gateway of our own: started on free ports, ended by SIGTERM, and killed if anything fails.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::case::Target;

/// How long a gateway may take until it is ready.
const READY_MAX: Duration = Duration::from_secs(30);
/// How long it may take to end; a million connections are closed meanwhile.
const DRAIN_MAX: Duration = Duration::from_secs(180);
const NAP: Duration = Duration::from_millis(20);
/// Lines of the log that an error shows.
const LOG_LINES_SHOWN: usize = 5;

/// A running gateway. Dropping it kills it.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    /// Where clients connect over TCP.
    pub tcp: SocketAddr,
    /// Where clients connect over WebSocket.
    pub ws: SocketAddr,
    /// Where upstreams connect.
    pub upstream: SocketAddr,
    /// Where its metrics are.
    pub http: SocketAddr,
    /// Where its log goes.
    pub log: PathBuf,
}

impl Gateway {
    /// Starts `program` on core 0 and on, as `target` says, and waits until it is ready. What it
    /// keeps goes to `data`, if it is to keep something.
    pub fn start(program: &Path, target: Target, data: &Path, log: PathBuf) -> Result<Self> {
        let [tcp, ws, upstream, http] = free_addresses()?;
        let stderr = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut command = Command::new(program);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let last_core = target.cores.min(cores) - 1;
        command.arg("--cores").arg(format!("0-{last_core}")).args(target.options);
        if target.data {
            command.arg("--data").arg(data);
        }
        for (option, address) in
            [("--tcp", tcp), ("--ws", ws), ("--upstream", upstream), ("--http", http)]
        {
            command.arg(option).arg(address.to_string());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let mut gateway = Self { child, tcp, ws, upstream, http, log };
        gateway.wait_until_ready()?;
        Ok(gateway)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Processor seconds that it has used.
    pub fn cpu_s(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.pid());
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let ticks = cpu_ticks(&text).with_context(|| format!("{path} is not as proc(5) says"))?;
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Ends it as an operator would, and fails unless it ends well.
    pub fn end(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("sending SIGTERM")?;
        let deadline = Instant::now() + DRAIN_MAX;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the gateway ended with {status}; {}", self.log_tail());
                return Ok(());
            }
            std::thread::sleep(NAP);
        }
        bail!("the gateway did not end within {DRAIN_MAX:?} of SIGTERM; {}", self.log_tail());
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let stdout = self.child.stdout.take().context("stdout is piped")?;
        let (sender, receiver) = mpsc::channel();
        // Ends with the child at the latest, because the pipe does.
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            // Nobody listens any more when the wait is over.
            let _ = sender.send(read.map(|_| line));
        });
        match receiver.recv_timeout(READY_MAX) {
            Ok(Ok(line)) if line.trim() == "ready" => Ok(()),
            Ok(_) => bail!("the gateway did not say `ready`; {}", self.log_tail()),
            Err(_) => bail!("the gateway was not ready in {READY_MAX:?}; {}", self.log_tail()),
        }
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        format!("its log, {}, ends with\n{}", self.log.display(), tail.join("\n"))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let ended: std::io::Result<Option<ExitStatus>> = self.child.try_wait();
        if !matches!(ended, Ok(Some(_))) {
            // Both fail only when it has ended after all.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Addresses that nobody listens on. Somebody could take one before the gateway does; it would then
/// say so and not get ready.
fn free_addresses() -> Result<[SocketAddr; 4]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port");
    // All are held until all are known, so that they differ.
    let listeners = [bind()?, bind()?, bind()?, bind()?];
    let [a, b, c, d] = listeners.each_ref().map(TcpListener::local_addr);
    Ok([a?, b?, c?, d?])
}

/// User and system time in the text of `/proc/PID/stat`.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name in parentheses may hold spaces; what follows it starts with field 3.
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace().skip(11);
    let (user, system) = (fields.next()?, fields.next()?);
    Some(user.parse::<u64>().ok()? + system.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Transport;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 40 2 0 0 20";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn free_addresses_differ() {
        let mut all = free_addresses().unwrap().to_vec();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn a_program_that_never_gets_ready_is_an_error_with_its_log() {
        let log = std::env::temp_dir().join(format!("barrage-true-{}.log", std::process::id()));
        let (options, transport, data) = (&[][..], Transport::Tcp, false);
        let target = Target { options, cores: 1, data, transport, upstream: false };
        let path = Path::new("/bin/true");
        let error = Gateway::start(path, target, &log, log.clone()).unwrap_err();
        assert!(error.to_string().contains("did not say `ready`"), "{error:#}");
        std::fs::remove_file(log).unwrap();
    }
}
