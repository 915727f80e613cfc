//! The gateway seen from outside: processor time, memory, and what its metrics say.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::procfs;

/// The counter of sends on `/metrics`.
const SENDS: &str = "barrage_sends_total";
const SCRAPE_MAX: Duration = Duration::from_secs(2);
const SCRAPE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Where to look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gateway {
    /// Its process.
    pub pid: Option<u32>,
    /// Its HTTP listener.
    pub metrics: Option<SocketAddr>,
}

/// What was seen at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Processor seconds so far.
    pub cpu_s: Option<f64>,
    /// Sends so far.
    pub sends: Option<f64>,
}

impl Gateway {
    /// Fails when something that was named cannot be looked at, so that nobody waits for nothing.
    pub fn check(&self) -> Result<()> {
        if let Some(pid) = self.pid {
            procfs::cpu_seconds(pid)?;
            procfs::rss_bytes(pid)?;
        }
        if let Some(address) = self.metrics {
            scrape(address).with_context(|| format!("cannot read http://{address}/metrics"))?;
        }
        Ok(())
    }

    /// Looks now.
    pub fn sample(&self) -> Sample {
        Sample {
            cpu_s: self.pid.and_then(|pid| procfs::cpu_seconds(pid).ok()),
            sends: self.metrics.and_then(|address| scrape(address).ok().flatten()),
        }
    }

    /// Resident bytes now.
    pub fn rss_bytes(&self) -> Option<u64> {
        self.pid.and_then(|pid| procfs::rss_bytes(pid).ok())
    }
}

impl Sample {
    /// What was used between an earlier sample and this one.
    pub fn since(self, earlier: Self) -> Self {
        let minus = |now: Option<f64>, then: Option<f64>| Some(now? - then?);
        Self { cpu_s: minus(self.cpu_s, earlier.cpu_s), sends: minus(self.sends, earlier.sends) }
    }
}

/// The sends that `/metrics` tells; none when it does not.
fn scrape(address: SocketAddr) -> Result<Option<f64>> {
    let mut stream = TcpStream::connect_timeout(&address, SCRAPE_MAX)?;
    stream.set_read_timeout(Some(SCRAPE_MAX))?;
    stream.set_write_timeout(Some(SCRAPE_MAX))?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut text = Vec::new();
    stream.take(SCRAPE_BYTES_MAX).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let status = text.lines().next().unwrap_or_default();
    if !status.contains(" 200") {
        bail!("the answer is {status:?}");
    }
    Ok(counter(&text, SENDS))
}

/// A counter of Prometheus' text format, added up over its labels.
fn counter(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.split_whitespace().next()?.parse::<f64>().ok()
    });
    values.reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_added_up_over_its_labels() {
        let text = "HTTP/1.1 200 OK\r\n\r\n# TYPE barrage_sends_total counter\n\
                    barrage_sends_total{core=\"0\"} 40\nbarrage_sends_total{core=\"1\"} 2.5\n\
                    barrage_sends_total_other 9\n";
        assert_eq!(counter(text, SENDS), Some(42.5));
        assert_eq!(counter("barrage_sends_total 7\n", SENDS), Some(7.0));
        assert_eq!(counter("something 7\n", SENDS), None);
    }
}
