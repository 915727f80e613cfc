//! One run of the load generator, with or without a gateway.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::case::{Case, Target, Transport};
use crate::gateway::Gateway;

/// How long a run may take that has a ramp, a hold and a drain of its own limits.
const RUN_MAX: Duration = Duration::from_secs(900);
const NAP: Duration = Duration::from_millis(100);
/// The part of a hold, in its middle, in which the gateway's processor share is taken.
const HOLD_SHARE: f64 = 0.75;

/// What a run has found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The load generator's JSON.
    pub report: Value,
    /// The gateway's share of its core in the middle of the hold.
    pub hold_cpu_pct: Option<f64>,
}

/// Runs `case`; the gateway, if the case needs one, is ready.
pub fn run(program: &Path, case: &Case, gateway: Option<&Gateway>) -> Result<Found> {
    let mut command = Command::new(program);
    command.args(&case.load).args(["--json", "--quiet"]);
    if let (Some(gateway), Some(target)) = (gateway, case.target) {
        command.args(addresses(gateway, target));
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let start = Instant::now();
    let child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
    let mut running = Running(child);
    let mut samples = Vec::new();
    let status = loop {
        if let Some(status) = running.0.try_wait()? {
            break status;
        }
        if start.elapsed() > RUN_MAX {
            bail!("the load generator did not end within {RUN_MAX:?}");
        }
        if let (Some(gateway), Some(_)) = (gateway, case.hold_s) {
            samples.push((start.elapsed().as_secs_f64(), gateway.cpu_s()?));
        }
        std::thread::sleep(NAP);
    };
    let mut text = String::new();
    // The object is shorter than a pipe, so that it was all written before the end.
    running.0.stdout.take().context("stdout is piped")?.read_to_string(&mut text)?;
    // Without an object the run could not be made; with one, it says itself what is wrong.
    let report: Value = serde_json::from_str(text.trim())
        .with_context(|| format!("the load generator ended with {status} and without a report"))?;
    let hold_cpu_pct = case.hold_s.and_then(|hold_s| {
        let ramp_s = report.get("ramp_s")?.as_f64()?;
        let from_s = ramp_s + hold_s * (1.0 - HOLD_SHARE) / 2.0;
        cpu_pct(&samples, from_s, from_s + hold_s * HOLD_SHARE)
    });
    Ok(Found { report, hold_cpu_pct })
}

fn addresses(gateway: &Gateway, target: Target) -> Vec<String> {
    let (option, address) = match target.transport {
        Transport::Tcp => ("--tcp", gateway.tcp),
        Transport::Ws => ("--ws", gateway.ws),
    };
    let mut arguments = vec![
        option.to_owned(),
        address.to_string(),
        "--gateway-pid".to_owned(),
        gateway.pid().to_string(),
        "--metrics".to_owned(),
        gateway.http.to_string(),
    ];
    if target.upstream {
        arguments.extend(["--upstream".to_owned(), gateway.upstream.to_string()]);
    }
    arguments
}

/// The share of a core that was used between two moments, by samples of (seconds, processor
/// seconds). None unless the samples cover them.
fn cpu_pct(samples: &[(f64, f64)], from_s: f64, to_s: f64) -> Option<f64> {
    let at = |moment_s| samples.iter().find(|&&(at_s, _)| at_s >= moment_s);
    let (&(from_s, from_cpu_s), &(to_s, to_cpu_s)) = (at(from_s)?, at(to_s)?);
    (to_s > from_s).then(|| (to_cpu_s - from_cpu_s) / (to_s - from_s) * 100.0)
}

/// A child that is not left behind when something fails.
struct Running(Child);

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
    fn a_share_is_taken_between_two_moments_that_were_seen() {
        let samples = [(0.0, 0.0), (1.0, 1.0), (2.0, 1.1), (3.0, 1.2), (4.0, 2.0)];
        let share = |from_s, to_s| cpu_pct(&samples, from_s, to_s).map(f64::round);
        assert_eq!(share(1.0, 3.0), Some(10.0));
        assert_eq!(share(0.5, 2.5), Some(10.0));
        assert_eq!(share(1.0, 5.0), None);
        assert_eq!(cpu_pct(&[], 0.0, 0.0), None);
    }
}
