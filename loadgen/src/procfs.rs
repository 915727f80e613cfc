//! What `/proc` says: processor time and memory of processes, memory of the machine, ports.

use anyhow::{Context, Result, bail};

/// Processor seconds that all threads of `pid` have used, user and system.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = read_of(pid, "stat")?;
    // The name in parentheses may hold spaces; what follows it does not.
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |index: usize| -> Result<u64> {
        let field = fields.get(index).context("the line is too short")?;
        Ok(field.parse()?)
    };
    // utime and stime are fields 14 and 15; the state, first after the name, is field 3.
    let ticks = ticks(11).and_then(|user| Ok(user + ticks(12)?));
    let ticks = ticks.with_context(|| format!("/proc/{pid}/stat is not as proc(5) says"))?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Resident bytes of `pid`.
pub fn rss_bytes(pid: u32) -> Result<u64> {
    // The roll-up is exact; `status` may be some pages per thread behind, and is always readable.
    match read_of(pid, "smaps_rollup") {
        Ok(text) => kib_of(&text, "Rss:").context("smaps_rollup has no Rss line"),
        Err(_) => kib_of(&read_of(pid, "status")?, "VmRSS:").context("status has no VmRSS line"),
    }
}

/// Resident bytes of this process.
pub fn own_rss_bytes() -> Result<u64> {
    rss_bytes(std::process::id())
}

/// Bytes of memory that the machine could still give.
pub fn available_bytes() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    kib_of(&text, "MemAvailable:").context("/proc/meminfo has no MemAvailable line")
}

/// How many local ports one address has for outgoing connections.
pub fn local_ports() -> Result<u32> {
    let path = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let bounds: Vec<u32> = text.split_whitespace().flat_map(str::parse).collect();
    let [low, high] = bounds[..] else { bail!("{path} says {text:?}, not two ports") };
    Ok(high.saturating_sub(low) + 1)
}

/// Nanoseconds that the calling thread was ready to run and waited for a core, since it began; none
/// where the kernel does not count them.
pub fn thread_waited_ns() -> Option<u64> {
    waited_ns(&std::fs::read_to_string("/proc/thread-self/schedstat").ok()?)
}

/// The second number: the first is the time on a core, the third how often it got one.
fn waited_ns(text: &str) -> Option<u64> {
    text.split_whitespace().nth(1)?.parse().ok()
}

fn read_of(pid: u32, file: &str) -> Result<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| {
        format!("cannot read /proc/{pid}/{file}: is {pid} the target's process id, and yours?")
    })
}

/// The value of the line that starts with `key`, in bytes.
fn kib_of(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        assert!(cpu_seconds(pid).unwrap() >= 0.0);
        assert!(rss_bytes(pid).unwrap() > 100_000);
        assert!(available_bytes().unwrap() > 1_000_000);
        assert!(local_ports().unwrap() > 100);
        assert!(thread_waited_ns() <= thread_waited_ns(), "it only rises");
        let error = cpu_seconds(u32::MAX).unwrap_err().to_string();
        assert!(error.contains("process id"), "{error}");
    }

    #[test]
    fn waiting_is_the_second_number() {
        assert_eq!(waited_ns("1036452887 468680 21\n"), Some(468_680));
        assert_eq!(waited_ns("1036452887\n"), None);
    }
}
