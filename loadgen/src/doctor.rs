//! `doctor`: what of this machine would spoil a campaign, and how to mend it.

pub mod facts;
pub mod judge;
mod network;
mod processors;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::exit::{Ended, Exit};
use crate::scenario::file;

use facts::Facts;
use judge::{Aim, Finding, Level, judge};

/// A target on this machine, for who does not name one.
const TARGET_LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7400);
/// The most clients of a run.
const CLIENTS_MAX: i64 = 4_000_000;

/// `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Clients that this machine is to have [default: the scenario's, or 100,000 at a target on this
    /// machine].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    pub clients: Option<u32>,
    /// Look with the eyes of this scenario: a file, or one of the library.
    #[arg(long, value_name = "SCENARIO")]
    pub scenario: Option<String>,
    /// Print a shell script that mends what commands can mend, until the next start of the machine.
    #[arg(long, conflicts_with = "json")]
    pub fix_script: bool,
    /// One JSON object on stdout instead of lines for people.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(args: &DoctorArgs, _stop: &Arc<AtomicBool>) -> Result<Ended> {
    let aim = aim(args)?;
    let findings = judge(&Facts::read(), &aim);
    let text = if args.json {
        json_text(&findings, &aim)
    } else if args.fix_script {
        script(&findings)
    } else {
        lines(&findings, &aim)
    };
    let exit = if worst(&findings) == Level::Bad { Exit::Invalid } else { Exit::Pass };
    Ok(Ended { text, exit })
}

const CLIENTS_DEFAULT: u32 = 100_000;

fn aim(args: &DoctorArgs) -> Result<Aim> {
    let Some(name) = &args.scenario else {
        let clients = args.clients.unwrap_or(CLIENTS_DEFAULT);
        return Ok(Aim { clients, target: TARGET_LOCAL, sources: Vec::new() });
    };
    let scenario = file::load(name, &[])?.scenario;
    let target = scenario.target.tcp.or(scenario.target.ws).unwrap_or(TARGET_LOCAL);
    let clients = args.clients.unwrap_or(scenario.clients.count);
    Ok(Aim { clients, target, sources: scenario.clients.sources })
}

fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

fn lines(findings: &[Finding], aim: &Aim) -> String {
    let mut text = format!("{} clients at {}\n\n", aim.clients, aim.target);
    for finding in findings {
        let Finding { level, what, says, command, advice } = finding;
        let _ = writeln!(text, "{:<5} {what}: {says}", level.name());
        if let Some(mend) = command.as_ref().or(advice.as_ref()) {
            let _ = writeln!(text, "      mend: {mend}");
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (warned, bad) = (count(Level::Warn), count(Level::Bad));
    let says = match worst(findings) {
        Level::Ok => "nothing here would spoil it".to_owned(),
        Level::Warn => format!("{warned} may spoil it"),
        Level::Bad => format!("{bad} would spoil it, {warned} more may"),
    };
    let _ = writeln!(text, "\n{says}");
    text
}

fn json_text(findings: &[Finding], aim: &Aim) -> String {
    let object = json!({
        "clients": aim.clients,
        "target": aim.target,
        "worst": worst(findings),
        "findings": findings,
    });
    format!("{object}\n")
}

fn script(findings: &[Finding]) -> String {
    let mut text = "#!/bin/sh\n# Run it as root. Limits (ulimit) hold in this shell alone: use \
                    `. FILE`.\n"
        .to_owned();
    for finding in findings.iter().filter(|finding| finding.level > Level::Ok) {
        let Finding { what, says, command, advice, .. } = finding;
        let _ = writeln!(text, "\n# {what}: {says}");
        match (command, advice) {
            (Some(command), _) => text += command,
            (None, Some(advice)) => text += &format!("# No command does it: {advice}"),
            (None, None) => {}
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("one", "fine"),
            Finding::warn("two", "so so").mend("sysctl -w a=1"),
            Finding::bad("three", "no good").advise("buy another"),
        ]
    }

    #[test]
    fn every_mend_is_told() {
        let aim = Aim { clients: 5, target: TARGET_LOCAL, sources: Vec::new() };
        let text = lines(&findings(), &aim);
        assert!(text.contains("warn  two: so so\n      mend: sysctl -w a=1\n"), "{text}");
        assert!(text.contains("bad   three: no good\n      mend: buy another\n"), "{text}");
        assert!(text.ends_with("1 would spoil it, 1 more may\n"), "{text}");
        let script = script(&findings());
        assert!(script.contains("\nsysctl -w a=1\n") && !script.contains("fine"), "{script}");
        assert!(script.contains("# No command does it: buy another\n"), "{script}");
        let json: serde_json::Value =
            serde_json::from_str(&json_text(&findings(), &aim)).expect("it is JSON");
        assert_eq!((&json["worst"], &json["clients"]), (&json!("bad"), &json!(5)));
    }
}
