//! The publishing side: one connection on which publishes follow each other without waiting.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{FRAME_BYTES_MAX, Fault, Item, Protocol, Step, at_room, http, mqtt, nats, redis};
use crate::exit::TargetLost;
use crate::scenario::Target;
use crate::upstream::UpstreamAddress;

/// How long a server has to take the connection, and to answer the first words.
const GREETING_MAX: Duration = Duration::from_secs(5);
/// Bytes that are kept of what was received.
const RECEIVE_BYTES: usize = 256 * 1024;
const _: () = assert!(2 * FRAME_BYTES_MAX < RECEIVE_BYTES, "half an answer leaves room to read on");

/// What a server says about a publish. Answers come in the order of the publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// It was taken.
    Taken,
    /// It was not, for this reason.
    Refused(&'a str),
}

/// A connection that messages are published on.
///
/// | protocol | a room is | answers |
/// |---|---|---|
/// | MQTT, QoS 0 | the topic `room/N` | none |
/// | NATS | the subject `room.N` | none |
/// | Redis | the channel `room:N` | one for each publish, in order |
/// | ws-raw | a POST to its publish path | one for each publish, in order |
///
/// Without answers a publish is as good as taken when it was written: see [`Upstream::answers`] and
/// [`Upstream::unsent_bytes`].
#[derive(Debug)]
pub struct Upstream {
    socket: Socket,
    speech: Speech,
    /// What has come is at `handled..filled`.
    received: Vec<u8>,
    filled: usize,
    handled: usize,
    unsent: Vec<u8>,
}

#[derive(Debug)]
enum Speech {
    Http { host: String, path: String },
    Mqtt,
    Nats,
    Redis,
}

/// What a server says to a publisher.
enum Heard<'a> {
    Answer(Answer<'a>),
    /// The first words were taken.
    Ready,
    Say(&'static [u8]),
    Nothing,
}

impl Upstream {
    /// Connects to where messages of `target` are published, which is where its clients connect
    /// unless it is said, and waits until the server has taken the first words.
    pub fn connect(target: &Target) -> Result<Self> {
        let address = match (&target.upstream, target.tcp) {
            (Some(address), _) => address.clone(),
            (None, Some(address)) => UpstreamAddress::Tcp(address),
            (None, None) => {
                bail!("the scenario does not say where to publish: give target.upstream")
            }
        };
        let speech = match target.protocol {
            Protocol::Barrage => bail!("Barrage has an upstream protocol of its own"),
            Protocol::WsRaw => {
                Speech::Http { host: host(&address), path: target.publish_path.clone() }
            }
            Protocol::Mqtt => Speech::Mqtt,
            Protocol::Nats => Speech::Nats,
            Protocol::Redis => Speech::Redis,
        };
        let socket = socket(&address).map_err(|error| {
            TargetLost(format!("cannot connect to publish: is the server on {address}? {error}"))
        })?;
        let (received, unsent) = (vec![0; RECEIVE_BYTES], Vec::new());
        let mut this = Self { socket, speech, received, filled: 0, handled: 0, unsent };
        this.greet().with_context(|| format!("cannot publish to {address}"))?;
        Ok(this)
    }

    /// Whether every publish is answered, in order.
    pub fn answers(&self) -> bool {
        match self.speech {
            Speech::Http { .. } | Speech::Redis => true,
            Speech::Mqtt | Speech::Nats => false,
        }
    }

    /// Queues a publish.
    pub fn publish(&mut self, room: u64, payload: &[u8]) {
        let out = &mut self.unsent;
        match &self.speech {
            Speech::Http { host, path } => http::post(host, &at_room(path, room), payload, out),
            Speech::Mqtt => mqtt::publish(room, payload, out),
            Speech::Nats => nats::publish(room, payload, out),
            Speech::Redis => redis::publish(room, payload, out),
        }
    }

    /// Bytes that wait for the server to read.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent.len()
    }

    /// Sends what is queued, as far as the server takes it.
    pub fn flush(&mut self) -> Result<()> {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match (&self.socket).write(&self.unsent[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(error)),
            }
        }
        self.unsent.drain(..sent);
        Ok(())
    }

    /// Sleeps until the server has said something, takes more, or for `timeout`.
    pub fn wait(&self, timeout: Duration) {
        let time = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let interest =
            if self.unsent.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        // An interrupted wait is a short one.
        let _ = poll(&mut [PollFd::new(&self.socket, interest)], Some(&time));
    }

    /// Hands out the answers that have come. To be called now and then even where publishes are not
    /// answered: servers ask whether anybody is there, and errors come this way. Fails when the
    /// connection has ended.
    pub fn receive(&mut self, sink: &mut dyn FnMut(Answer<'_>)) -> Result<()> {
        self.hear(&mut |heard| match heard {
            Heard::Answer(answer) => sink(answer),
            Heard::Ready | Heard::Say(_) | Heard::Nothing => {}
        })
    }

    fn greet(&mut self) -> Result<()> {
        let mut ready = false;
        match self.speech {
            // Nothing can be said that would not be a publish.
            Speech::Http { .. } => return Ok(()),
            Speech::Mqtt => {
                let name = format!("barrage-loadgen-publisher-{}", std::process::id());
                mqtt::connect(&name, mqtt::NO_KEEP_ALIVE, &mut self.unsent);
            }
            Speech::Nats => nats::connect(&mut self.unsent),
            Speech::Redis => redis::connect(&mut self.unsent),
        }
        let until = Instant::now() + GREETING_MAX;
        while !ready {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let s = GREETING_MAX.as_secs();
                bail!("the server has not answered for {s} s: does it speak this protocol?");
            }
            self.flush()?;
            self.wait(left);
            let mut refused = None;
            self.hear(&mut |heard| match heard {
                Heard::Ready | Heard::Answer(Answer::Taken) => ready = true,
                Heard::Answer(Answer::Refused(why)) => refused = Some(why.to_owned()),
                Heard::Say(_) | Heard::Nothing => {}
            })?;
            if let Some(why) = refused {
                bail!("the server says {why}");
            }
        }
        Ok(())
    }

    fn hear(&mut self, sink: &mut dyn FnMut(Heard<'_>)) -> Result<()> {
        self.read()?;
        while let Some((taken, heard)) = self
            .speech
            .next(&self.received[self.handled..self.filled])
            .map_err(|why| anyhow!(why))?
        {
            if let Heard::Say(bytes) = heard {
                self.unsent.extend_from_slice(bytes);
            }
            sink(heard);
            self.handled += taken;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        self.received.copy_within(self.handled..self.filled, 0);
        self.filled -= std::mem::take(&mut self.handled);
        let result = (&self.socket).read(&mut self.received[self.filled..]);
        self.filled += *result.as_ref().unwrap_or(&0);
        match result {
            Ok(0) => Err(TargetLost("the server closed the publisher's connection".into()).into()),
            Ok(_) => Ok(()),
            Err(error) if is_later(&error) => Ok(()),
            Err(error) => Err(broken(error)),
        }
    }
}

impl Speech {
    /// Takes one thing off the front of `bytes`; nothing while it is not all there.
    fn next<'a>(&self, bytes: &'a [u8]) -> Result<Option<(usize, Heard<'a>)>, Fault> {
        if bytes.is_empty() {
            return Ok(None);
        }
        match self {
            Self::Http { .. } => {
                http::response(bytes)?.map(|response| posted(response, bytes)).transpose()
            }
            Self::Mqtt => Ok(heard(mqtt::next(bytes)?)),
            Self::Nats => Ok(heard(nats::next(bytes)?)),
            Self::Redis => Ok(redis::reply(bytes)?.map(|(taken, reply)| {
                let answer = match reply {
                    redis::Reply::Done => Answer::Taken,
                    redis::Reply::Refused(why) => Answer::Refused(printable(why)),
                };
                (taken, Heard::Answer(answer))
            })),
        }
    }
}

/// What an answer to a POST says.
fn posted(response: http::Response, bytes: &[u8]) -> Result<(usize, Heard<'_>), Fault> {
    let line = bytes.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let answer = match response.status {
        // Provisional: the answer is still to come.
        100..=199 => return Ok((response.whole, Heard::Nothing)),
        200..=299 => Answer::Taken,
        _ => Answer::Refused(printable(line)),
    };
    if response.last {
        return Err(format!(
            "the server closes the publisher's connection after {}: let it keep connections for \
             any number of requests (nginx: keepalive_requests)",
            nats::shown(line)
        ));
    }
    Ok((response.whole, Heard::Answer(answer)))
}

/// What a frame says to a publisher, in protocols without answers.
fn heard(step: Step<'_>) -> Option<(usize, Heard<'_>)> {
    let Step::Whole(taken, item) = step else { return None };
    let heard = match item {
        Item::Ready | Item::Connected => Heard::Ready,
        Item::Say(bytes) => Heard::Say(bytes),
        Item::Message(_) | Item::Fragment(..) | Item::WsPing(_) | Item::Nothing => Heard::Nothing,
    };
    Some((taken, heard))
}

fn printable(text: &[u8]) -> &str {
    std::str::from_utf8(text).unwrap_or("something that is no text")
}

/// What an HTTP request says about the server.
fn host(address: &UpstreamAddress) -> String {
    match address {
        UpstreamAddress::Tcp(address) => address.to_string(),
        UpstreamAddress::Unix(_) => "localhost".to_owned(),
    }
}

fn socket(address: &UpstreamAddress) -> io::Result<Socket> {
    let (domain, remote) = match address {
        UpstreamAddress::Tcp(address) => (Domain::for_address(*address), (*address).into()),
        UpstreamAddress::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
    };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.connect_timeout(&remote, GREETING_MAX)?;
    if domain != Domain::UNIX {
        socket.set_tcp_nodelay(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn broken(error: io::Error) -> anyhow::Error {
    TargetLost(format!("the publisher's connection broke: {error}")).into()
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;
    use crate::scenario::Target;

    /// Plays a server for one connection: reads until it has heard the first of each pair, and says
    /// the second; then closes. What it heard beyond is returned.
    fn server(script: &'static [(&[u8], &[u8])]) -> (UpstreamAddress, JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let address = UpstreamAddress::Tcp(listener.local_addr().expect("it is bound"));
        let play = move || {
            let (mut socket, _) = listener.accept().expect("somebody connects");
            socket.set_read_timeout(Some(GREETING_MAX)).expect("it is open");
            let mut heard = Vec::new();
            for (wanted, answer) in script {
                let ends = |heard: &[u8]| {
                    heard.windows(wanted.len().max(1)).position(|part| part == *wanted)
                };
                let mut byte = [0; 4096];
                while !wanted.is_empty() && ends(&heard).is_none() {
                    match socket.read(&mut byte).expect("it can be read") {
                        0 => return heard,
                        count => heard.extend_from_slice(&byte[..count]),
                    }
                }
                if let Some(at) = ends(&heard) {
                    heard.drain(..at + wanted.len());
                }
                socket.write_all(answer).expect("it can be written");
            }
            socket.shutdown(std::net::Shutdown::Write).expect("it is open");
            // What was not read would reset the connection, and take the answers with it.
            let _ = socket.read_to_end(&mut heard);
            heard
        };
        (address, std::thread::spawn(play))
    }

    fn target(protocol: Protocol, upstream: UpstreamAddress) -> Target {
        Target {
            protocol,
            tcp: None,
            ws: None,
            upstream: Some(upstream),
            metrics: None,
            pid: None,
            app: 1,
            subscribe_path: String::new(),
            publish_path: "/pub/{room}".to_owned(),
        }
    }

    /// Publishes three messages and collects what is said about them, and how the connection ended.
    fn publish(
        protocol: Protocol,
        script: &'static [(&[u8], &[u8])],
    ) -> (Vec<Option<String>>, String) {
        let (address, server) = server(script);
        let mut upstream = match Upstream::connect(&target(protocol, address)) {
            Ok(upstream) => upstream,
            Err(error) => return (Vec::new(), format!("{error:#}")),
        };
        for payload in [&b"one"[..], b"\r\n", b"three"] {
            upstream.publish(7, payload);
        }
        let mut said = Vec::new();
        let until = Instant::now() + 2 * GREETING_MAX;
        let end = loop {
            assert!(Instant::now() < until, "the server ends the connection");
            let heard = upstream.flush().and_then(|()| {
                upstream.wait(Duration::from_secs(1));
                upstream.receive(&mut |answer| {
                    said.push(match answer {
                        Answer::Taken => None,
                        Answer::Refused(why) => Some(why.to_owned()),
                    });
                })
            });
            if let Err(error) = heard {
                break format!("{error:#}");
            }
        };
        drop(upstream);
        server.join().expect("the server plays to its end");
        (said, end)
    }

    const CLOSED: &str = "the server closed the publisher's connection";

    #[test]
    fn redis_answers_each_publish_in_order() {
        let (said, end) = publish(
            Protocol::Redis,
            &[
                (b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"),
                (b"$6\r\nroom:7\r\n$3\r\none\r\n", b":12"),
                (b"$2\r\n\r\n\r\n", b"\r\n-OOM command not allowed\r\n:0\r\n"),
            ],
        );
        assert_eq!(said, [None, Some("OOM command not allowed".to_owned()), None]);
        assert_eq!(end, CLOSED);
    }

    #[test]
    fn posts_are_answered_in_order_whatever_their_bodies() {
        let (said, end) = publish(
            Protocol::WsRaw,
            &[
                (b"POST /pub/7 HTTP/1.1\r\n", b"HTTP/1.1 201 Created\r\nContent-Le"),
                (b"\r\n\r\none", b"ngth: 4\r\n\r\nbodyHTTP/1.1 403 Forbidden\r\n"),
                (
                    b"Content-Length: 2\r\n\r\n\r\n",
                    b"Transfer-Encoding: chunked\r\n\r\n3\r\nnay\r\n0\r\n\r\n",
                ),
                (b"three", b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"),
            ],
        );
        assert_eq!(said, [None, Some("HTTP/1.1 403 Forbidden".to_owned()), None]);
        assert_eq!(end, CLOSED);
    }

    #[test]
    fn a_server_that_keeps_no_connections_is_told_how_to() {
        const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        let (said, end) = publish(Protocol::WsRaw, &[(b"one", ANSWER)]);
        assert!(said.is_empty() && end.contains("keepalive_requests"), "{end}");
    }

    #[test]
    fn without_answers_pings_are_still_answered_and_errors_told() {
        let (said, end) = publish(
            Protocol::Nats,
            &[
                (b"", b"INFO {}\r\n"),
                (b"PING\r\n", b"PONG\r\nPING\r\n"),
                (b"PONG\r\n", b""),
                (b"PUB room.7 5\r\nthree\r\n", b"-ERR 'Stale Connection'\r\n"),
            ],
        );
        assert!(said.is_empty() && end.contains("Stale Connection"), "{end}");
        let (said, end) = publish(
            Protocol::Mqtt,
            &[(b"MQTT", &[0x20, 2, 0, 0]), (b"\x30\x0d\0\x06room/7three", b"")],
        );
        assert!(said.is_empty() && end == CLOSED, "{end}");
    }

    #[test]
    fn a_server_that_refuses_the_publisher_says_why() {
        let check = |protocol, script, part: &str| {
            let (said, end) = publish(protocol, script);
            assert!(said.is_empty() && end.contains(part), "{end}");
        };
        check(Protocol::Mqtt, &[(b"MQTT", &[0x20, 2, 0, 5])], "allow_anonymous");
        check(Protocol::Redis, &[(b"PING", b"-NOAUTH no\r\n")], "NOAUTH no");
        check(Protocol::Nats, &[(b"", b"-ERR 'no'\r\n")], "'no'");
        check(Protocol::Nats, &[(b"", b"")], CLOSED);
    }

    #[test]
    fn nobody_there_is_a_lost_target() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let address = UpstreamAddress::Tcp(listener.local_addr().expect("it is bound"));
        drop(listener);
        let error = Upstream::connect(&target(Protocol::Redis, address)).expect_err("it is gone");
        assert!(error.downcast_ref::<TargetLost>().is_some(), "{error:#}");
    }
}
