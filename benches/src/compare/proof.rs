//! One message through a server, before anything is measured: a server that was set up wrong is
//! found at once, and is not taken for a bad one.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use barrage_loadgen::dialect::{Dialect, DialectState, Fault, Heard, Upstream};
use barrage_loadgen::scenario::{Target, file};

use super::case::Case;
use super::server::Server;

/// How long all of it may take.
const PROOF_MAX: Duration = Duration::from_secs(10);
const READ_MAX: Duration = Duration::from_millis(20);
/// A room that no campaign uses.
const ROOM: u64 = 999_999_999;

/// Subscribes, publishes every byte there is, and waits for it. Barrage has tests of its own.
pub fn prove(server: &Server) -> Result<()> {
    let path = Case::Paced.file();
    let path = path.to_str().context("the scenario's path is no text")?;
    let target = file::load(path, &server.settings())?.scenario.target;
    let Some(dialect) = Dialect::of(&target) else { return Ok(()) };
    let name = server.kind.name();
    one_message(&dialect, &target, server).with_context(|| format!("{name} does not work"))
}

#[derive(Default)]
struct Ear {
    ready: bool,
    messages: Vec<Vec<u8>>,
    say: Vec<u8>,
}

impl Heard for Ear {
    fn ready(&mut self) {
        self.ready = true;
    }
    fn message(&mut self, payload: &[u8]) -> Result<(), Fault> {
        self.messages.push(payload.to_vec());
        Ok(())
    }
    fn say(&mut self, bytes: &[u8]) {
        self.say.extend_from_slice(bytes);
    }
}

fn one_message(dialect: &Dialect, target: &Target, server: &Server) -> Result<()> {
    let payload: Vec<u8> = (0..=255).collect();
    let mut socket = TcpStream::connect(server.addresses.tcp)?;
    socket.set_read_timeout(Some(READ_MAX))?;
    let mut ear = Ear::default();
    dialect.hello(0, ROOM, &mut ear.say);
    let (mut state, mut partial, mut upstream) = (DialectState::default(), Vec::new(), None);
    let deadline = Instant::now() + PROOF_MAX;
    while ear.messages.is_empty() {
        if Instant::now() > deadline {
            let what = if ear.ready { "the message" } else { "the subscription's confirmation" };
            bail!("{what} does not come");
        }
        socket.write_all(&std::mem::take(&mut ear.say))?;
        let mut bytes = [0; 4096];
        let count = match socket.read(&mut bytes) {
            Ok(0) => bail!("it closes the subscriber's connection"),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
            Err(error) => return Err(error).context("the subscriber's connection broke"),
        };
        dialect
            .feed(&mut state, &mut partial, &bytes[..count], &mut ear)
            .map_err(|fault| anyhow!(fault))?;
        if ear.ready && upstream.is_none() {
            let mut publisher = Upstream::connect(target)?;
            publisher.publish(ROOM, &payload);
            publisher.flush()?;
            upstream = Some(publisher);
        }
    }
    if ear.messages != [payload] {
        bail!("the message that comes is another one than was sent");
    }
    answered(upstream, deadline)
}

/// Waits for the answer to the one publish, if there is to be one.
fn answered(upstream: Option<Upstream>, deadline: Instant) -> Result<()> {
    let Some(mut upstream) = upstream.filter(Upstream::answers) else { return Ok(()) };
    let mut answers = 0;
    while answers == 0 {
        if Instant::now() > deadline {
            bail!("the publish is not answered");
        }
        upstream.wait(READ_MAX);
        upstream.receive(&mut |_| answers += 1)?;
    }
    Ok(())
}
