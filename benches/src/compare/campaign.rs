//! All the runs: every server through every campaign, in turns.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::case::{Case, Scale};
use super::proof;
use super::run::{About, Run, summary};
use super::server::{Kind, Server};
use super::table;

/// How long a campaign may take beside what it measures: ramps and drains have limits of their own.
const RUN_MAX: Duration = Duration::from_secs(300);
/// How long the load generator may take to report after it was told to end.
const STOP_MAX: Duration = Duration::from_secs(30);
const NAP: Duration = Duration::from_millis(100);

/// What to run, and with what.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The servers with their programs.
    pub servers: Vec<(Kind, PathBuf)>,
    /// What they are put through.
    pub cases: Vec<Case>,
    /// How often.
    pub repeats: u32,
    /// How big.
    pub scale: Scale,
    /// The load generator.
    pub loadgen: PathBuf,
    /// Where servers may write.
    pub directory: PathBuf,
    /// Where each run is added to.
    pub results: Option<PathBuf>,
    /// What is the same for all runs.
    pub about: About,
}

/// What has come of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Every run that was made.
    pub runs: Vec<Run>,
    /// Runs that could not be made, and why.
    pub failures: Vec<String>,
}

impl Campaign {
    /// Runs everything until it is done or `stop` is set. What fails is said and does not keep the
    /// rest from running.
    pub fn run(&self, stop: &Arc<AtomicBool>) -> Outcome {
        let mut outcome = Outcome::default();
        for (case, repeat, nth) in order(&self.cases, self.servers.len(), self.repeats) {
            if stop.load(Ordering::Relaxed) {
                outcome.failures.push("stopped early: the rest".to_owned());
                break;
            }
            let (kind, program) = &self.servers[nth];
            let name = format!("{} {}, repeat {repeat}", kind.name(), case.name());
            eprintln!("{name} of {}: running", self.repeats);
            let found = self.one(*kind, program.clone(), case, repeat, stop);
            match found.and_then(|run| self.keep(&run).map(|()| run)) {
                Ok(run) => {
                    eprintln!("  {}", table::progress(&run));
                    outcome.runs.push(run);
                }
                Err(error) => {
                    eprintln!("{name}: {error:#}");
                    outcome.failures.push(format!("{name}: {error:#}"));
                }
            }
        }
        outcome
    }

    fn one(
        &self,
        kind: Kind,
        program: PathBuf,
        case: Case,
        repeat: u32,
        stop: &AtomicBool,
    ) -> Result<Run> {
        let directory = format!("{}-{}-{repeat}", kind.name(), case.name());
        let mut server = Server::start(kind, &program, self.directory.join(directory))?;
        proof::prove(&server)?;
        let (before, mut most) = (server.rss_bytes(), None);
        let said = self.drive(&server, case, stop, &mut || most = most.max(server.rss_bytes()))?;
        if stop.load(Ordering::Relaxed) {
            // Half a run is no figure of a table.
            bail!("stopped early");
        }
        let growth = before.zip(most).map(|(before, most)| most.saturating_sub(before));
        let summary = summary(&said).context("the load generator's report is not as expected")?;
        let gone = server.gone();
        let ended = match gone {
            Some(why) => Some(why),
            None => server.end().err().map(|error| format!("{error:#}")),
        };
        Ok(Run {
            kind,
            case,
            repeat,
            summary,
            rss_growth_bytes: growth,
            rss_most_bytes: most,
            server_fault: ended,
        })
    }

    /// Runs the load generator and reads what it says; looks at something now and then meanwhile.
    fn drive(
        &self,
        server: &Server,
        case: Case,
        stop: &AtomicBool,
        look: &mut dyn FnMut(),
    ) -> Result<Value> {
        let mut command = Command::new(&self.loadgen);
        command.arg("run").arg(case.file()).args(["--json", "--quiet", "--out", "none"]);
        for setting in case.settings(&self.scale, server.kind).iter().chain(&server.settings()) {
            command.args(["--set", setting]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let child =
            command.spawn().with_context(|| format!("starting {}", self.loadgen.display()))?;
        let mut running = Running(child);
        let stdout = reader(running.0.stdout.take().context("stdout is piped")?);
        let stderr = reader(running.0.stderr.take().context("stderr is piped")?);
        let max = RUN_MAX + Duration::from_secs_f64(self.scale.secs);
        let status = running.wait(stop, max, look)?;
        let (said, complaint) = (stdout.join(), stderr.join());
        let text = |read: std::thread::Result<String>| read.unwrap_or_default();
        let (said, complaint) = (text(said), text(complaint));
        // Whatever comes of a campaign, it has a report; without one it could not be made.
        serde_json::from_str(said.trim()).with_context(|| {
            format!(
                "the load generator ended with {status} and without a report: {}",
                complaint.trim()
            )
        })
    }

    fn keep(&self, run: &Run) -> Result<()> {
        let Some(path) = &self.results else { return Ok(()) };
        let line = run.json(&self.about, &self.scale);
        let file = OpenOptions::new().create(true).append(true).open(path);
        let mut file = file.with_context(|| format!("opening {}", path.display()))?;
        // One write, so that two campaigns do not mix within a line.
        file.write_all(format!("{line}\n").as_bytes())
            .with_context(|| format!("writing {}", path.display()))
    }
}

/// Which campaign, which repeat, and which server by its place. The servers take turns, so that a
/// machine that gets slower does so for all of them, and another one begins each time.
fn order(cases: &[Case], servers: usize, repeats: u32) -> Vec<(Case, u32, usize)> {
    let mut order = Vec::new();
    for repeat in 1..=repeats {
        for (at, &case) in cases.iter().enumerate() {
            let first = repeat as usize - 1 + at;
            let turns = (0..servers).map(|turn| (case, repeat, (first + turn) % servers));
            order.extend(turns);
        }
    }
    order
}

/// Reads to the end, so that nobody waits for a full pipe.
fn reader(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until then is all that there is.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A child that is not left behind when something fails.
struct Running(Child);

impl Running {
    /// Waits for its end; asks for it when `stop` is set, and is patient no longer than `max`.
    fn wait(
        &mut self,
        stop: &AtomicBool,
        max: Duration,
        look: &mut dyn FnMut(),
    ) -> Result<ExitStatus> {
        let (mut deadline, mut asked) = (Instant::now() + max, false);
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            look();
            if Instant::now() > deadline {
                bail!("the load generator did not end in time");
            }
            if stop.load(Ordering::Relaxed) && !asked {
                kill_process(Pid::from_child(&self.0), Signal::INT).context("sending SIGINT")?;
                (deadline, asked) = (Instant::now() + STOP_MAX, true);
            }
            std::thread::sleep(NAP);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            // Both fail only when it has ended after all.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_take_turns_and_another_one_begins_each_time() {
        let order = order(&[Case::Flood, Case::Idle], 3, 2);
        let places = |case, repeat| -> Vec<usize> {
            let own = order.iter().filter(|run| run.0 == case && run.1 == repeat);
            own.map(|run| run.2).collect()
        };
        assert_eq!(order.len(), 12);
        assert_eq!(places(Case::Flood, 1), [0, 1, 2]);
        assert_eq!(places(Case::Idle, 1), [1, 2, 0]);
        assert_eq!(places(Case::Flood, 2), [1, 2, 0]);
        assert_eq!(places(Case::Idle, 2), [2, 0, 1]);
    }
}
