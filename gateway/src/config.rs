//! What the operator can say: a file, and flags that win over it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use serde::Deserialize;

use crate::limits::{
    CLIENT_FRAMES_PER_SECOND_DEFAULT, CONNECTIONS_DEFAULT, SERVICES_PER_SHARD_MAX, SHARDS_MAX,
};

/// Barrage, the live-room message gateway: holds the connections and fans messages out.
///
/// Without any option it serves on loopback addresses, on all cores, in open development mode: a
/// client's token is `open:<user id>`, an upstream's is `open`.
#[derive(Debug, Default, Parser)]
#[command(name = "barrage-gateway", version, max_term_width = 100)]
pub struct Flags {
    /// A TOML file with the same names as the long options (`cores = "0-1"`); options win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the built-in policy as a commented file to begin with, and end
    #[arg(long)]
    pub print_policy: bool,
    #[command(flatten)]
    pub settings: Settings,
}

/// Everything that can be set. What is not set has a default.
#[derive(Clone, Debug, Default, Deserialize, Parser)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Settings {
    /// Cores to use, one shard each: `0`, `0-3`, `0,2,4-7` [default: all]
    #[arg(long, value_name = "LIST")]
    pub cores: Option<Cores>,
    /// Where clients connect over TCP [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDR")]
    pub tcp: Option<SocketAddr>,
    /// Where clients connect over WebSocket [default: 127.0.0.1:7401]
    #[arg(long, value_name = "ADDR")]
    pub ws: Option<SocketAddr>,
    /// Where upstream services connect: an address, or unix:PATH [default: 127.0.0.1:7402]
    #[arg(long, value_name = "ADDR|unix:PATH")]
    pub upstream: Option<UpstreamAddr>,
    /// Where /healthz and /metrics are served [default: 127.0.0.1:7403]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// The directory of the durable history, inboxes, bans and mutes, which is made when it is not
    /// there; `none` keeps everything in memory [default: none]
    #[arg(long, value_name = "DIR|none")]
    pub data: Option<String>,
    /// Begin an empty history where the one in the directory is gone or cannot be read; what is left
    /// of it is moved aside [default: end with an error]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub accept_lost_history: Option<bool>,
    /// A TOML file with categories, limits, quotas and word lists; SIGHUP or POST /policy/reload
    /// reads it again [default: built in; --print-policy shows it]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Clients of all cores together; each core takes an equal part. Services have places of their
    /// own, 512 on each core [default: 2000000]
    #[arg(long, value_name = "N")]
    pub connections: Option<u32>,
    /// Frames that one client may send in a second [default: 1000]
    #[arg(long, value_name = "N")]
    pub client_frames_per_second: Option<u32>,
    /// The share of its core that one room's fan-out may use: less gives fuller sends, lower CPU
    /// and higher latency [default: 1.0]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub pace: Option<f64>,
    /// Messages of a room that one send may carry; 1 measures the cost of a send [default: all
    /// that wait]
    #[arg(long, value_name = "N")]
    pub frames_per_send: Option<u16>,
    /// How log lines look [default: human]
    #[arg(long, value_name = "FORMAT")]
    pub log: Option<LogFormat>,
}

/// How log lines look. What is logged is set by the variable BARRAGE_LOG, such as `debug`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Human,
    /// One object per line.
    Json,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub cores: Vec<usize>,
    pub tcp: SocketAddr,
    pub ws: SocketAddr,
    pub upstream: UpstreamAddr,
    pub http: SocketAddr,
    pub connections: u32,
    pub client_frames_per_second: u32,
    pub pace_percent: u32,
    pub frames_per_send: u16,
    pub log: LogFormat,
    /// None: nothing outlives the process.
    pub data: Option<PathBuf>,
    pub accept_lost_history: bool,
    /// None: the built-in policy.
    pub policy: Option<PathBuf>,
}

impl Config {
    /// Reads the file that the flags name, if any, and checks everything.
    pub fn load(flags: Flags) -> Result<Self> {
        let file = match &flags.config {
            None => Settings::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("reading the configuration {}", path.display()))?;
                toml::from_str(&text)
                    .with_context(|| format!("in the configuration {}", path.display()))?
            }
        };
        Self::check(flags.settings.or(file))
    }

    fn check(settings: Settings) -> Result<Self> {
        let data = settings.data.filter(|data| data != "none").map(PathBuf::from);
        ensure!(
            data.as_ref().is_none_or(|data| !data.as_os_str().is_empty()),
            "--data: say a directory, or `none`"
        );
        let online = barrage_sys::cores_online();
        let cores = settings.cores.map_or_else(|| online.clone(), |cores| cores.0);
        if let Some(missing) = cores.iter().find(|core| !online.contains(core)) {
            bail!("--cores names core {missing}; this process may use {online:?}");
        }
        let loopback = |port| SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port);
        let config = Self {
            cores,
            tcp: settings.tcp.unwrap_or_else(|| loopback(7400)),
            ws: settings.ws.unwrap_or_else(|| loopback(7401)),
            upstream: settings.upstream.unwrap_or_else(|| UpstreamAddr::Tcp(loopback(7402))),
            http: settings.http.unwrap_or_else(|| loopback(7403)),
            connections: settings.connections.unwrap_or(CONNECTIONS_DEFAULT),
            client_frames_per_second: settings
                .client_frames_per_second
                .unwrap_or(CLIENT_FRAMES_PER_SECOND_DEFAULT),
            pace_percent: (settings.pace.map_or(Ok(1.0), in_share)? * 100.0).round() as u32,
            frames_per_send: settings.frames_per_send.unwrap_or(u16::MAX),
            log: settings.log.unwrap_or(LogFormat::Human),
            data,
            accept_lost_history: settings.accept_lost_history.unwrap_or(false),
            policy: settings.policy,
        };
        ensure!(config.cores.len() <= SHARDS_MAX, "--cores: at most {SHARDS_MAX}");
        let connections = 1..=100_000_000;
        ensure!(
            connections.contains(&config.connections),
            "--connections: between 1 and 100000000"
        );
        ensure!(config.frames_per_send > 0, "--frames-per-send must be at least 1");
        let frames = config.client_frames_per_second;
        ensure!((1..=60_000).contains(&frames), "--client-frames-per-second: between 1 and 60000");
        config.check_open_mode()?;
        Ok(config)
    }

    /// Without a token key everybody is who they say, so nobody from outside may ask.
    fn check_open_mode(&self) -> Result<()> {
        let upstream = match &self.upstream {
            UpstreamAddr::Tcp(address) => Some(*address),
            UpstreamAddr::Unix(_) => None,
        };
        let all = [
            ("--tcp", Some(self.tcp)),
            ("--ws", Some(self.ws)),
            ("--upstream", upstream),
            ("--http", Some(self.http)),
        ];
        for (flag, address) in all {
            if let Some(address) = address
                && !address.ip().is_loopback()
            {
                bail!(
                    "{flag} {address}: there is no token key, so this is the open development mode, \
                     which serves loopback addresses only (127.0.0.1, [::1])"
                );
            }
        }
        Ok(())
    }
}

impl Settings {
    /// These settings, and those of `other` where these say nothing.
    fn or(self, other: Self) -> Self {
        Self {
            cores: self.cores.or(other.cores),
            tcp: self.tcp.or(other.tcp),
            ws: self.ws.or(other.ws),
            upstream: self.upstream.or(other.upstream),
            http: self.http.or(other.http),
            data: self.data.or(other.data),
            accept_lost_history: self.accept_lost_history.or(other.accept_lost_history),
            policy: self.policy.or(other.policy),
            connections: self.connections.or(other.connections),
            client_frames_per_second: self
                .client_frames_per_second
                .or(other.client_frames_per_second),
            pace: self.pace.or(other.pace),
            frames_per_send: self.frames_per_send.or(other.frames_per_send),
            log: self.log.or(other.log),
        }
    }
}

/// Where upstream services connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamAddr {
    /// Over TCP.
    Tcp(SocketAddr),
    /// On this machine.
    Unix(PathBuf),
}

impl FromStr for UpstreamAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("a path must follow `unix:`".to_owned()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| {
                format!("`{text}` is neither an address like 127.0.0.1:7402 nor unix:PATH")
            }),
        }
    }
}

impl<'de> Deserialize<'de> for UpstreamAddr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A list of cores, such as `0,2,4-7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(pub Vec<usize>);

impl FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let core: Option<usize> = text.trim().parse().ok();
            core.filter(|core| *core < 4096)
                .ok_or_else(|| format!("`{text}` is not a core; say for example 0-3 or 0,2"))
        };
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("`{part}` ends before it starts"));
            }
            cores.extend(first..=last);
        }
        cores.sort_unstable();
        if let Some(pair) = cores.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("core {} is named twice", pair[0]));
        }
        Ok(Self(cores))
    }
}

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    in_share(share).map_err(|error| error.to_string())
}

fn in_share(share: f64) -> Result<f64> {
    ensure!((0.01..=1.0).contains(&share), "a share is between 0.01 and 1.0, not {share}");
    Ok(share)
}

const _: () = assert!(SERVICES_PER_SHARD_MAX == 512, "--help says so");

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(toml: &str) -> Result<Config> {
        Config::check(toml::from_str(toml)?)
    }

    #[test]
    fn flags_win_over_the_file_and_defaults_fill_the_rest() {
        let file: Settings = toml::from_str("cores = \"0\"\nconnections = 7\npace = 0.5").unwrap();
        let flags = Flags::try_parse_from(["barrage-gateway", "--connections", "9"]).unwrap();
        let config = Config::check(flags.settings.or(file)).unwrap();
        assert_eq!((config.connections, config.pace_percent), (9, 50));
        assert_eq!(config.cores, [0]);
        assert_eq!(config.tcp.port(), 7400);
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_to_do() {
        let check = |toml: &str, says: &str| {
            let error = format!("{:#}", settings(toml).expect_err("a bad configuration"));
            assert!(error.contains(says), "{toml:?} gave {error:?}");
        };
        check("tcp = \"0.0.0.0:7400\"", "loopback addresses only");
        check("http = \"10.0.0.1:80\"", "loopback addresses only");
        check("cores = \"4095\"", "core 4095");
        check("cores = \"3-1\"", "ends before it starts");
        check("pace = 2.0", "between 0.01 and 1.0");
        check("data = \"\"", "say a directory");
        check("upstream = \"unix:\"", "a path must follow");
        check("tpc = \"127.0.0.1:1\"", "unknown field `tpc`");
        check("connections = 0", "between 1 and");
    }

    #[test]
    fn lists_of_cores_are_read() {
        let cores = |text: &str| text.parse::<Cores>().map(|cores| cores.0).ok();
        assert_eq!(cores("0"), Some(vec![0]));
        assert_eq!(cores("2,0-1"), Some(vec![0, 1, 2]));
        assert_eq!(cores("1,1"), None);
        assert_eq!(cores("0-3,2"), None);
        assert_eq!(cores("a"), None);
        assert_eq!(cores("-1"), None);
    }
}
