//! The target seen from outside: processor time, memory, and what its metrics say.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::clock::now_ns;
use crate::exit::TargetLost;
use crate::procfs;
use crate::record::kept::TargetSample;

/// The counter of sends on `/metrics`.
const SENDS: &str = "barrage_sends_total";
const CONNECTIONS: &str = "barrage_connections";
/// What Prometheus' own client libraries call these.
const CPU_SECONDS: &str = "process_cpu_seconds_total";
const RESIDENT_BYTES: &str = "process_resident_memory_bytes";
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

    /// Everything that can be seen now; what is seen of the process itself goes before what it says.
    /// An error when its metrics were named and do not answer.
    pub fn look(&self) -> Result<TargetSample> {
        let text = self.metrics.map(page).transpose()?;
        let tells = |name| text.as_deref().and_then(|text| counter(text, name));
        let own_cpu_s = self.pid.and_then(|pid| procfs::cpu_seconds(pid).ok());
        Ok(TargetSample {
            at_ns: now_ns(),
            cpu_s: own_cpu_s.or_else(|| tells(CPU_SECONDS)),
            rss_bytes: self.rss_bytes().or_else(|| Some(tells(RESIDENT_BYTES)? as u64)),
            connections: tells(CONNECTIONS).map(|connections| connections as u64),
            sends: tells(SENDS),
        })
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
    Ok(counter(&page(address)?, SENDS))
}

/// What `/metrics` says.
fn page(address: SocketAddr) -> Result<String> {
    let lost = |error| TargetLost(format!("{address} takes no connection: {error}"));
    let mut stream = TcpStream::connect_timeout(&address, SCRAPE_MAX).map_err(lost)?;
    stream.set_read_timeout(Some(SCRAPE_MAX))?;
    stream.set_write_timeout(Some(SCRAPE_MAX))?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut text = Vec::new();
    stream.take(SCRAPE_BYTES_MAX).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let status = text.lines().next().unwrap_or_default();
    if !status.contains(" 200") {
        bail!("the answer is {status:?}");
    }
    Ok(text)
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
    fn a_look_takes_everything_from_one_page() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let gateway = Gateway { pid: None, metrics: Some(listener.local_addr().unwrap()) };
        let page = "HTTP/1.1 200 OK\r\n\r\nprocess_cpu_seconds_total 1.5\n\
                    process_resident_memory_bytes 4096\nbarrage_connections{core=\"0\"} 7\n";
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 10]).unwrap();
            stream.write_all(page.as_bytes()).unwrap();
            // The rest of the request is read, so that closing does not reset the connection.
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let sample = gateway.look().unwrap();
        server.join().unwrap();
        assert_eq!((sample.cpu_s, sample.rss_bytes), (Some(1.5), Some(4096)));
        assert_eq!((sample.connections, sample.sends), (Some(7), None));
        let error = gateway.check().expect_err("nobody listens any more");
        assert!(error.is::<TargetLost>(), "{error:#}");
    }

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
