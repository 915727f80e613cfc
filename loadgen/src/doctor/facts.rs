//! What this machine and process are: read here, judged in [`mod@super::judge`].

use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use barrage_sys::{
    KernelRing, RingConfig, Waker, cores_online, kernel_release, open_files_limit, run_on_time,
};
use rustix::process::{Resource, getrlimit};

use crate::procfs;

/// How long the processors are watched to see what else runs.
const WATCHED: Duration = Duration::from_millis(400);
/// A ring just to see whether there can be one.
const RING_TRIED: RingConfig = RingConfig {
    slots: 16,
    connections: 16,
    requests: 16,
    completions: 64,
    buffers: 16,
    buffer_bytes: 1024,
};

/// Everything that the doctor looks at. What could not be read is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Soft limit of open files.
    pub open_files_soft: u64,
    /// Hard limit of open files: the program raises the soft one to it.
    pub open_files_hard: u64,
    /// `fs.nr_open`: as high as a hard limit can be.
    pub nr_open: Option<u64>,
    /// `fs.file-max`.
    pub file_max: Option<u64>,
    /// Files that the whole system has open.
    pub files_open: Option<u64>,
    /// Local ports for outgoing connections.
    pub ports: Option<(u32, u32)>,
    /// `net.ipv4.tcp_tw_reuse`.
    pub tw_reuse: Option<u64>,
    /// `net.core.somaxconn`.
    pub somaxconn: Option<u64>,
    /// `net.ipv4.tcp_max_syn_backlog`.
    pub syn_backlog: Option<u64>,
    /// `net.core.netdev_max_backlog`.
    pub netdev_backlog: Option<u64>,
    /// `net.ipv4.tcp_mem` in pages: low, pressure, high.
    pub tcp_mem_pages: Option<[u64; 3]>,
    /// `net.ipv4.tcp_rmem`: least, usual, most.
    pub tcp_rmem: Option<[u64; 3]>,
    /// `net.ipv4.tcp_wmem`: least, usual, most.
    pub tcp_wmem: Option<[u64; 3]>,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Limit of locked memory; none: no limit.
    pub locked_bytes: Option<u64>,
    /// Whether the process is the superuser's.
    pub is_root: bool,
    /// Bytes of memory that could still be given.
    pub available_bytes: Option<u64>,
    /// Frequency governors in use.
    pub governors: Vec<String>,
    /// Cores that the process may run on.
    pub cores: Vec<usize>,
    /// Cores that are the same core in hardware, as lists.
    pub siblings: Vec<String>,
    /// Mean number of threads that wanted to run in the last minute.
    pub load: Option<f64>,
    /// What all processors were busy with a moment ago, in cores.
    pub busy_cores: Option<f64>,
    /// What the host took from them, in percent of their time.
    pub steal_percent: Option<f64>,
    /// What the kernel reads its time from.
    pub clocksource: Option<String>,
    /// Whether a thread may go before all ordinary ones.
    pub may_be_prompt: bool,
    /// Why there can be no ring, if so.
    pub ring_trouble: Option<String>,
    /// `kernel.io_uring_disabled`.
    pub io_uring_disabled: Option<u64>,
    /// The kernel.
    pub kernel: String,
    /// The mode of transparent huge pages.
    pub huge_pages: Option<String>,
    /// Connections that are tracked, and at most.
    pub conntrack: Option<(u64, u64)>,
    /// Mitigations that are in force.
    pub mitigations: Vec<String>,
    /// Interfaces that are up, without loopback.
    pub interfaces: Vec<Interface>,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its driver; none: it is virtual.
    pub driver: Option<String>,
    /// Megabits a second.
    pub mbit_per_s: Option<u64>,
    /// Queues for what comes.
    pub receive_queues: usize,
    /// Queues for what goes.
    pub send_queues: usize,
}

impl Facts {
    /// Reads them. Takes a moment, in which the processors are watched.
    pub fn read() -> Self {
        let files = getrlimit(Resource::Nofile);
        let (busy_cores, steal_percent) = watch_processors();
        Self {
            open_files_soft: open_files_limit(),
            open_files_hard: files.maximum.unwrap_or(u64::MAX),
            nr_open: sysctl("fs/nr_open"),
            file_max: sysctl("fs/file-max"),
            files_open: sysctl("fs/file-nr"),
            ports: sysctls("net/ipv4/ip_local_port_range").map(|[low, high]| (low, high)),
            tw_reuse: sysctl("net/ipv4/tcp_tw_reuse"),
            somaxconn: sysctl("net/core/somaxconn"),
            syn_backlog: sysctl("net/ipv4/tcp_max_syn_backlog"),
            netdev_backlog: sysctl("net/core/netdev_max_backlog"),
            tcp_mem_pages: sysctls("net/ipv4/tcp_mem"),
            tcp_rmem: sysctls("net/ipv4/tcp_rmem"),
            tcp_wmem: sysctls("net/ipv4/tcp_wmem"),
            page_bytes: rustix::param::page_size() as u64,
            locked_bytes: getrlimit(Resource::Memlock).current,
            is_root: rustix::process::geteuid().is_root(),
            available_bytes: procfs::available_bytes().ok(),
            governors: governors(),
            cores: cores_online(),
            siblings: siblings(),
            load: word("/proc/loadavg", 0),
            busy_cores,
            steal_percent,
            clocksource: text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            may_be_prompt: may_be_prompt(),
            ring_trouble: ring_trouble(),
            io_uring_disabled: sysctl("kernel/io_uring_disabled"),
            kernel: kernel_release(),
            huge_pages: text("/sys/kernel/mm/transparent_hugepage/enabled").and_then(chosen),
            conntrack: sysctl("net/netfilter/nf_conntrack_count")
                .zip(sysctl("net/netfilter/nf_conntrack_max")),
            mitigations: mitigations(),
            interfaces: interfaces(),
        }
    }
}

fn text(path: impl AsRef<Path>) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn word<T: FromStr>(path: impl AsRef<Path>, at: usize) -> Option<T> {
    text(path)?.split_whitespace().nth(at)?.parse().ok()
}

fn sysctl<T: FromStr>(name: &str) -> Option<T> {
    word(Path::new("/proc/sys").join(name), 0)
}

fn sysctls<T: FromStr, const N: usize>(name: &str) -> Option<[T; N]> {
    let text = text(Path::new("/proc/sys").join(name))?;
    let values: Vec<T> = text.split_whitespace().flat_map(str::parse).collect();
    values.try_into().ok()
}

/// The one of several that stands in brackets.
fn chosen(text: String) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names.dedup();
    names
}

/// The names in a directory of the kernel's.
fn names(path: &str) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    sorted(entries.filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

fn of_each_core(file: &str) -> Vec<String> {
    let of = |core| text(format!("/sys/devices/system/cpu/cpu{core}/{file}"));
    sorted(cores_online().into_iter().filter_map(of).collect())
}

fn governors() -> Vec<String> {
    of_each_core("cpufreq/scaling_governor")
}

fn siblings() -> Vec<String> {
    let mut lists = of_each_core("topology/thread_siblings_list");
    lists.retain(|list| list.contains([',', '-']));
    lists
}

fn mitigations() -> Vec<String> {
    let root = "/sys/devices/system/cpu/vulnerabilities";
    let in_force = |name: String| {
        let state = text(format!("{root}/{name}"))?;
        state.starts_with("Mitigation").then_some(name)
    };
    names(root).into_iter().filter_map(in_force).collect()
}

/// What all processors together did so far, in ticks: everything, idleness, what the host took.
fn processor_ticks() -> Option<[u64; 3]> {
    let stat = text("/proc/stat")?;
    let ticks: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).flat_map(str::parse).collect();
    let at = |index: usize| ticks.get(index).copied().unwrap_or(0);
    // user nice system idle iowait irq softirq steal; what guests use is in user.
    Some([ticks.iter().take(8).sum(), at(3) + at(4), at(7)])
}

fn watch_processors() -> (Option<f64>, Option<f64>) {
    let before = processor_ticks();
    thread::sleep(WATCHED);
    let Some((before, after)) = before.zip(processor_ticks()) else { return (None, None) };
    let [all, idle, stolen] = [0, 1, 2].map(|k| after[k].saturating_sub(before[k]) as f64);
    if all == 0.0 {
        return (None, None);
    }
    let cores = names("/sys/devices/system/cpu")
        .iter()
        .filter(|name| name.strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok()))
        .count();
    (Some((all - idle) / all * cores as f64), Some(stolen / all * 100.0))
}

/// Tried on a thread of its own, which keeps the right to itself.
fn may_be_prompt() -> bool {
    thread::spawn(run_on_time).join().unwrap_or(false)
}

fn ring_trouble() -> Option<String> {
    let waker = match Waker::new() {
        Ok(waker) => waker,
        Err(error) => return Some(format!("no eventfd: {error}")),
    };
    KernelRing::new(RING_TRIED, waker).err().map(|error| error.to_string())
}

fn interfaces() -> Vec<Interface> {
    names("/sys/class/net").into_iter().filter_map(interface).collect()
}

fn interface(name: String) -> Option<Interface> {
    let root = format!("/sys/class/net/{name}");
    if name == "lo" || text(format!("{root}/operstate"))? != "up" {
        return None;
    }
    let driver = fs::read_link(format!("{root}/device/driver")).ok();
    let queues = names(&format!("{root}/queues"));
    let count = |prefix| queues.iter().filter(|queue| queue.starts_with(prefix)).count();
    Some(Interface {
        driver: driver.and_then(|path| Some(path.file_name()?.to_str()?.to_owned())),
        mbit_per_s: word(format!("{root}/speed"), 0),
        receive_queues: count("rx-"),
        send_queues: count("tx-"),
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_read() {
        let facts = Facts::read();
        assert!(facts.open_files_soft <= facts.open_files_hard, "{facts:?}");
        assert!(!facts.cores.is_empty() && facts.page_bytes >= 4096, "{facts:?}");
        let (low, high) = facts.ports.expect("Linux has a range of ports");
        assert!(low < high, "{facts:?}");
        assert!(facts.busy_cores.is_some_and(|busy| busy >= 0.0), "{facts:?}");
    }

    #[test]
    fn the_one_in_brackets_is_chosen() {
        assert_eq!(chosen("always [madvise] never".to_owned()).as_deref(), Some("madvise"));
        assert_eq!(chosen("none".to_owned()), None);
    }
}
