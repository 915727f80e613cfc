//! What a machine's facts mean for a campaign. Pure: facts in, findings out.

use std::net::{IpAddr, SocketAddr};

use barrage_sys::RingConfig;
use serde::Serialize;

use super::facts::Facts;
use super::{network, processors};
use crate::sources::Sources;

/// What the kernel keeps for one end of an idle connection, rounded up: both ends and the gateway
/// were measured to take 7.7 KB.
const KERNEL_BYTES_PER_END: u64 = 4096;
/// What the generator keeps for one client at most.
const USER_BYTES_PER_CLIENT: u64 = 256;
/// What a gateway keeps for one connection, rounded up.
const GATEWAY_BYTES_PER_CLIENT: u64 = 512;
/// Share of the available memory that clients may need before there is a warning, in percent.
const MEMORY_WARN_PERCENT: u64 = 75;
/// Data rings that one thread may have before that is worth a warning.
const RINGS_WARN: u64 = 64;
/// Fewer descriptors than this do not make a ring.
const OPEN_FILES_MIN: u64 = 256;
/// What a limit of open files is best raised to.
const OPEN_FILES_WANTED: u64 = 1_048_576;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It may spoil a run.
    Warn,
    /// It would spoil one.
    Bad,
}

impl Level {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at.
    pub what: &'static str,
    /// What was found, and what it means.
    pub says: String,
    /// The command that mends it.
    pub command: Option<String>,
    /// What mends it when no command does.
    pub advice: Option<String>,
}

/// What the campaign will be, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aim {
    /// Clients on this machine.
    pub clients: u32,
    /// Where they connect to.
    pub target: SocketAddr,
    /// Where they come from, if that was said.
    pub sources: Vec<IpAddr>,
}

impl Aim {
    /// Whether the target is on this machine, as far as its address tells.
    pub fn is_local(&self) -> bool {
        self.target.ip().is_loopback()
    }
}

impl Finding {
    /// As it should be.
    pub fn ok(what: &'static str, says: impl Into<String>) -> Self {
        Self { level: Level::Ok, what, says: says.into(), command: None, advice: None }
    }

    /// It may spoil a run.
    pub fn warn(what: &'static str, says: impl Into<String>) -> Self {
        Self { level: Level::Warn, ..Self::ok(what, says) }
    }

    /// It would spoil one.
    pub fn bad(what: &'static str, says: impl Into<String>) -> Self {
        Self { level: Level::Bad, ..Self::ok(what, says) }
    }

    /// What mends it.
    pub fn mend(self, command: impl Into<String>) -> Self {
        Self { command: Some(command.into()), ..self }
    }

    /// What mends it, in words.
    pub fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

/// What the facts mean for what is to be done.
pub fn judge(facts: &Facts, aim: &Aim) -> Vec<Finding> {
    let mut findings = vec![ring(facts), open_files(facts, aim)];
    findings.extend(system_files(facts, aim));
    findings.push(ports(facts, aim));
    findings.extend(memory(facts, aim));
    findings.push(locked_memory(facts, aim));
    network::judge(facts, aim, &mut findings);
    processors::judge(facts, aim, &mut findings);
    findings
}

fn ring(facts: &Facts) -> Finding {
    let what = "io_uring";
    match &facts.ring_trouble {
        None => Finding::ok(
            what,
            format!("works on Linux {} ({})", facts.kernel, barrage_sys::FEATURES),
        ),
        Some(trouble) => {
            let finding = Finding::bad(what, format!("Linux {}: {trouble}", facts.kernel));
            match facts.io_uring_disabled {
                Some(1..) => finding.mend("sysctl -w kernel.io_uring_disabled=0"),
                _ => finding.advise("use Linux 6.1 or newer, outside of a strict container"),
            }
        }
    }
}

fn open_files(facts: &Facts, aim: &Aim) -> Finding {
    let what = "open files";
    let hard = facts.open_files_hard;
    let wanted = facts.nr_open.map_or(OPEN_FILES_WANTED, |most| most.min(OPEN_FILES_WANTED));
    let mend = format!("ulimit -Hn {wanted} && ulimit -n {wanted}");
    if hard < OPEN_FILES_MIN {
        return Finding::bad(what, format!("a hard limit of {hard} is too low for one data ring"))
            .mend(mend);
    }
    let slots = u64::from(RingConfig::slots_under(hard));
    let rings = u64::from(aim.clients).div_ceil(slots).max(1);
    let says = format!(
        "{} soft, {hard} hard: the soft one is raised to the hard one, and clients are direct \
         descriptors, {slots} to a ring: {} clients need {rings}",
        facts.open_files_soft, aim.clients
    );
    if rings > RINGS_WARN {
        return Finding::warn(what, format!("{says}; every look goes through all of them"))
            .mend(mend);
    }
    Finding::ok(what, says)
}

fn system_files(facts: &Facts, aim: &Aim) -> Option<Finding> {
    let what = "files of the system";
    let (most, open) = (facts.file_max?, facts.files_open?);
    let ends = if aim.is_local() { 2 } else { 1 };
    let needed = open.saturating_add(u64::from(aim.clients) * ends);
    let says = format!("fs.file-max is {most}, {open} are open, the campaign makes it {needed}");
    let mend = format!("sysctl -w fs.file-max={}", needed.saturating_mul(2));
    Some(if needed <= most {
        Finding::ok(what, says)
    } else if facts.is_root {
        Finding::warn(what, format!("{says}; the superuser may exceed it")).mend(mend)
    } else {
        Finding::bad(what, says).mend(mend)
    })
}

fn ports(facts: &Facts, aim: &Aim) -> Finding {
    let what = "ports and addresses";
    let Some((low, high)) = facts.ports else {
        return Finding::warn(what, "net.ipv4.ip_local_port_range cannot be read");
    };
    let count = high.saturating_sub(low) + 1;
    match Sources::plan(&aim.sources, aim.target, aim.clients, count) {
        Ok(_) => Finding::ok(
            what,
            format!("{low} to {high}, {count} ports for each source address: enough"),
        ),
        Err(error) => {
            let finding = Finding::bad(what, error.to_string());
            if count < 50_000 {
                finding.mend("sysctl -w net.ipv4.ip_local_port_range='1024 65535'")
            } else {
                finding.advise("add addresses: ip addr add ADDRESS/PREFIX dev INTERFACE")
            }
        }
    }
}

fn memory(facts: &Facts, aim: &Aim) -> Option<Finding> {
    let what = "memory";
    let available = facts.available_bytes?;
    let mut each = KERNEL_BYTES_PER_END + USER_BYTES_PER_CLIENT;
    if aim.is_local() {
        each += KERNEL_BYTES_PER_END + GATEWAY_BYTES_PER_CLIENT;
    }
    let needed = u64::from(aim.clients) * each;
    let says = format!(
        "{} of {} MiB that are available, at {each} B for each client{}",
        needed >> 20,
        available >> 20,
        if aim.is_local() { " with the target's side of it" } else { "" }
    );
    Some(if needed > available {
        let fit = available / each;
        Finding::bad(what, says).advise(format!("take at most {fit} clients, or more machines"))
    } else if needed > available / 100 * MEMORY_WARN_PERCENT {
        Finding::warn(what, says).advise("end other programs, or take fewer clients")
    } else {
        Finding::ok(what, says)
    })
}

fn locked_memory(facts: &Facts, aim: &Aim) -> Finding {
    let what = "locked memory";
    let Some(limit) = facts.locked_bytes else { return Finding::ok(what, "no limit") };
    let says = format!("ulimit -l is {} KiB", limit >> 10);
    if facts.is_root {
        return Finding::ok(what, format!("{says}; the superuser is not bound by it"));
    }
    let one = crate::network::ring_config(aim.clients).ring_bytes() as u64;
    if limit < one {
        return Finding::warn(what, format!("{says}, and one data ring may need {}", one >> 10))
            .mend("ulimit -l unlimited");
    }
    Finding::ok(what, says)
}

#[cfg(test)]
mod tests;
