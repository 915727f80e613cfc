//! Where and when a figure was measured: the machine, the commit and the time.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

/// The machine that everything runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The processor's model.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Descriptors that a process may have, if they are limited.
    pub files_max: Option<u64>,
}

impl Machine {
    /// This one; what the kernel does not tell is `unknown` or 0.
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let unknown = || "unknown".to_owned();
        let memory = value(&read("/proc/meminfo"), "MemTotal");
        let kib = memory.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
        Self {
            cpu: value(&read("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: if kernel.is_empty() { unknown() } else { kernel },
            memory_bytes: kib.unwrap_or(0) * 1024,
            files_max: getrlimit(Resource::Nofile).maximum,
        }
    }

    /// For the results file.
    pub fn json(&self) -> Value {
        json!({
            "cpu": self.cpu,
            "cores": self.cores,
            "kernel": self.kernel,
            "memory_bytes": self.memory_bytes,
            "files_max": self.files_max,
        })
    }

    /// For people.
    pub fn line(&self, commit: &str) -> String {
        let Self { cpu, cores, kernel, memory_bytes, files_max } = self;
        let gib = *memory_bytes as f64 / f64::from(1 << 30);
        let files = files_max.map_or("unlimited".to_owned(), |files| files.to_string());
        format!(
            "{cpu}, {cores} cores, Linux {kernel}, {gib:.1} GiB, nofile {files}, commit {commit}"
        )
    }
}

/// The commit that `directory` is at, or `unknown`.
pub fn commit(directory: &Path) -> String {
    let mut git = Command::new("git");
    git.arg("-C").arg(directory).args(["rev-parse", "--short", "HEAD"]).stderr(Stdio::null());
    let text = git.output().ok().filter(|output| output.status.success());
    let text = text.and_then(|output| String::from_utf8(output.stdout).ok());
    text.map_or("unknown".to_owned(), |text| text.trim().to_owned())
}

/// Now, as `2025-01-31T12:34:56Z`.
pub fn now() -> String {
    utc(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs())
}

/// A count of seconds since 1970 as a date and a time.
pub fn utc(unix_s: u64) -> String {
    let (day_s, mut days) = (unix_s % 86_400, unix_s / 86_400);
    let leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (day_s / 3600, day_s / 60 % 60, day_s % 60);
    format!("{year}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        let check = |unix_s, text| assert_eq!(utc(unix_s), text);
        check(0, "1970-01-01T00:00:00Z");
        check(951_782_400, "2000-02-29T00:00:00Z");
        check(951_868_799, "2000-02-29T23:59:59Z");
        check(1_735_689_599, "2024-12-31T23:59:59Z");
    }

    #[test]
    fn this_machine_is_known() {
        let machine = Machine::here();
        assert!(machine.cores > 0 && machine.memory_bytes > 0);
        assert!(machine.line("abc").ends_with("commit abc"));
        assert_eq!(commit(Path::new("/nowhere/at/all")), "unknown");
    }
}
