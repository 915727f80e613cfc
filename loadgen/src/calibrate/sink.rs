//! The sink: a minimal server in this process, on a thread and a core of its own. It greets whoever
//! connects and sends one room's messages on time, each encoded once.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use barrage_sys::{
    ConnId, Event, KernelRing, Listener, Ring, SendSlice, Waker, pin_to_core,
    raise_open_files_limit, thread_cpu_time,
};

use super::replies::{Peer, put_message};
use crate::clock::{SECOND_NS, now_ns, run_promptly, sleep_precisely, until};
use crate::network::ring_config;
use crate::record::{Times, no_times};

/// How long the thread sleeps at most, so that it hears what it is told.
const NAP: Duration = Duration::from_millis(2);
/// Sends that may wait at one client; with more, clients do not follow, and playing ends.
const PENDING_MAX: usize = 64;
/// Batches that are sent before clients are looked at again.
const BATCHES_MAX: u32 = 4;
const NS_PER_US: u64 = 1000;

/// Messages to be sent to every member.
#[derive(Clone, Copy, Debug)]
pub struct Play {
    /// Messages in a second.
    pub per_s: f64,
    /// How many go out as one send, and with that one after the other at once.
    pub batch: u32,
    /// Bytes of a payload.
    pub size: usize,
    /// The beginning …
    pub from_ns: u64,
    /// … and the end.
    pub to_ns: u64,
}

/// What came of playing.
#[derive(Clone, Debug)]
pub struct Played {
    /// The last message's number.
    pub last_seq: u64,
    /// Messages that were due.
    pub due: u64,
    /// Messages that were sent.
    pub sent: u64,
    /// Actual minus intended time of sending, of each batch, in microseconds.
    pub lag: Times,
    /// Share of its core that the sink used meanwhile.
    pub busy: f64,
    /// Whether it ended early because clients did not follow.
    pub overrun: bool,
}

/// A sink that runs until it is dropped.
pub struct Sink {
    /// Where it listens.
    pub address: SocketAddr,
    plays: Option<Sender<Play>>,
    played: Receiver<Played>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Sink {
    /// Starts one for so many clients.
    pub fn start(clients: u32, core: Option<usize>) -> Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = Listener::tcp(any).context("the sink cannot listen")?;
        let address = listener.address().context("a TCP listener has an address")?;
        let ((plays, to_play), (played, heard)) = (channel(), channel());
        let body = move || Server::new(clients, core, listener)?.run(&to_play, &played);
        let thread = std::thread::Builder::new().name("sink".to_owned()).spawn(body)?;
        Ok(Self { address, plays: Some(plays), played: heard, thread: Some(thread) })
    }

    /// Begins to play.
    pub fn play(&self, play: Play) -> Result<()> {
        let sent = self.plays.as_ref().map(|plays| plays.send(play));
        sent.and_then(Result::ok).context("the sink has ended")
    }

    /// Waits for the end of what is played.
    pub fn played(&self, within: Duration) -> Result<Played> {
        self.played.recv_timeout(within).context("the sink does not end")
    }

    /// Ends it; an error says why it had ended before.
    pub fn end(mut self) -> Result<()> {
        self.plays = None;
        let thread = self.thread.take().context("it ends once")?;
        thread.join().map_err(|_| anyhow!("the sink has panicked; that is a bug"))?
    }
}

/// A client's connection.
struct Conn {
    id: ConnId,
    peer: Peer,
    sending: bool,
    pending: VecDeque<SendSlice>,
}

/// What is being played.
struct Playing {
    play: Play,
    played: Played,
    began_ns: u64,
    began_cpu: Duration,
}

struct Server {
    ring: KernelRing,
    /// By ring and slot.
    conns: Vec<Vec<Option<Conn>>>,
    sends: Vec<(ConnId, SendSlice)>,
    closes: Vec<ConnId>,
    seq: u64,
    playing: Option<Playing>,
    overrun: bool,
}

impl Server {
    fn new(clients: u32, core: Option<usize>, listener: Listener) -> Result<Self> {
        if let Some(core) = core {
            pin_to_core(core).with_context(|| format!("the sink cannot run on core {core}"))?;
        }
        sleep_precisely();
        run_promptly(false);
        raise_open_files_limit();
        let waker = Waker::new().context("cannot make an eventfd")?;
        let mut ring = KernelRing::new(ring_config(clients), waker)?;
        ring.listen(listener);
        Ok(Self {
            ring,
            conns: Vec::new(),
            sends: Vec::new(),
            closes: Vec::new(),
            seq: 0,
            playing: None,
            overrun: false,
        })
    }

    fn run(mut self, to_play: &Receiver<Play>, played: &Sender<Played>) -> Result<()> {
        loop {
            let reaped = self.reap();
            self.flush();
            match to_play.try_recv() {
                Ok(play) => self.begin(play),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
            if let Some(done) = self.advance() {
                // Whoever does not wait for it has given up.
                let _ = played.send(done);
            }
            self.ring.submit();
            if reaped == 0 {
                let nap = self.next_due_ns().map_or(NAP, |due_ns| until(due_ns).min(NAP));
                self.ring.wait(nap, || true);
            }
            self.ring.tick();
        }
    }

    fn reap(&mut self) -> usize {
        let Self { ring, conns, sends, closes, seq, overrun: _, playing: _ } = self;
        ring.reap(&mut |event| match event {
            Event::Accepted { conn, .. } => {
                let peer = Peer::default();
                let new = Conn { id: conn, peer, sending: false, pending: VecDeque::new() };
                *place(conns, conn) = Some(new);
            }
            Event::Received { conn, bytes } => {
                let Some(found) = find(conns, conn) else { return };
                let mut out = Vec::new();
                match found.peer.feed(bytes, *seq, &mut out) {
                    Ok(()) if out.is_empty() => {}
                    Ok(()) => found.send(SendSlice::from_vec(out), sends),
                    Err(_) => closes.push(conn),
                }
            }
            Event::Sent { conn, slice, result } => {
                let Some(found) = find(conns, conn) else { return };
                match result {
                    Ok(count) => found.sent(&slice.skip(count), sends),
                    // The end is told by an event of its own.
                    Err(_) => found.pending.clear(),
                }
            }
            Event::Ended { conn, .. } => closes.push(conn),
            Event::Closed { .. } | Event::Connected { .. } => {}
        })
    }

    fn flush(&mut self) {
        for (conn, slice) in self.sends.drain(..) {
            self.ring.send(conn, slice);
        }
        for conn in self.closes.drain(..) {
            if find(&mut self.conns, conn).is_some() {
                *place(&mut self.conns, conn) = None;
                self.ring.close(conn);
            }
        }
    }

    fn begin(&mut self, play: Play) {
        self.overrun = false;
        let (last_seq, due, sent, busy, overrun) = (self.seq, 0, 0, 0.0, false);
        let played = Played { last_seq, due, sent, lag: no_times(), busy, overrun };
        let (began_ns, began_cpu) = (now_ns(), thread_cpu_time());
        self.playing = Some(Playing { play, played, began_ns, began_cpu });
    }

    fn next_due_ns(&self) -> Option<u64> {
        self.playing.as_ref().map(Playing::next_due_ns)
    }

    /// Sends what is due; says what came of it at the end.
    fn advance(&mut self) -> Option<Played> {
        for _ in 0..BATCHES_MAX {
            let playing = self.playing.as_mut()?;
            let (due_ns, now_ns) = (playing.next_due_ns(), now_ns());
            let over = due_ns == playing.play.to_ns && now_ns >= due_ns;
            if over || now_ns >= playing.end_ns() || self.overrun {
                let playing = self.playing.take()?;
                return Some(playing.end(self.seq, self.overrun));
            }
            if now_ns < due_ns {
                return None;
            }
            let bytes = playing.batch(&mut self.seq, due_ns, now_ns);
            self.fan_out(&SendSlice::from_vec(bytes));
        }
        None
    }

    fn fan_out(&mut self, slice: &SendSlice) {
        for conn in self.conns.iter_mut().flatten().flatten() {
            if conn.peer.joined {
                conn.send(slice.clone(), &mut self.sends);
                self.overrun |= conn.pending.len() > PENDING_MAX;
            }
        }
        self.flush();
    }
}

impl Conn {
    fn send(&mut self, slice: SendSlice, sends: &mut Vec<(ConnId, SendSlice)>) {
        if self.sending {
            self.pending.push_back(slice);
        } else {
            self.sending = true;
            sends.push((self.id, slice));
        }
    }

    fn sent(&mut self, rest: &SendSlice, sends: &mut Vec<(ConnId, SendSlice)>) {
        let next = if rest.is_empty() { self.pending.pop_front() } else { Some(rest.clone()) };
        self.sending = next.is_some();
        sends.extend(next.map(|slice| (self.id, slice)));
    }
}

impl Playing {
    /// When something is to be done: to send, or to end.
    fn next_due_ns(&self) -> u64 {
        let seconds = self.played.sent as f64 / self.play.per_s;
        (self.play.from_ns + (seconds * SECOND_NS as f64) as u64).min(self.play.to_ns)
    }

    /// A sink that is late for longer than it was to play gives up.
    fn end_ns(&self) -> u64 {
        self.play.to_ns + (self.play.to_ns - self.play.from_ns)
    }

    fn batch(&mut self, seq: &mut u64, due_ns: u64, now_ns: u64) -> Vec<u8> {
        let lag_us = now_ns.saturating_sub(due_ns) / NS_PER_US;
        self.played.lag.saturating_record(lag_us);
        let mut payload = vec![b'x'; self.play.size];
        let mut bytes = Vec::with_capacity(self.play.batch as usize * (payload.len() + 32));
        for _ in 0..self.play.batch {
            *seq += 1;
            let lag_us = u32::try_from(lag_us).unwrap_or(u32::MAX);
            put_message(&mut bytes, *seq, due_ns, lag_us, &mut payload);
        }
        self.played.sent += u64::from(self.play.batch);
        bytes
    }

    fn end(self, last_seq: u64, overrun: bool) -> Played {
        let Self { play, played, began_ns, began_cpu } = self;
        let elapsed_ns = now_ns().saturating_sub(began_ns).max(1);
        let cpu_ns = (thread_cpu_time() - began_cpu).as_nanos() as f64;
        let span_s = (play.to_ns - play.from_ns) as f64 / SECOND_NS as f64;
        Played {
            last_seq,
            due: (span_s * play.per_s) as u64,
            busy: cpu_ns / elapsed_ns as f64,
            overrun,
            ..played
        }
    }
}

/// Where a connection's state is, or will be.
fn place(conns: &mut Vec<Vec<Option<Conn>>>, id: ConnId) -> &mut Option<Conn> {
    if conns.len() <= id.ring() {
        conns.resize_with(id.ring() + 1, Vec::new);
    }
    let slots = &mut conns[id.ring()];
    if slots.len() <= id.slot() {
        slots.resize_with(id.slot() + 1, || None);
    }
    &mut slots[id.slot()]
}

/// The state of a connection; none when its slot has another by now.
fn find(conns: &mut [Vec<Option<Conn>>], id: ConnId) -> Option<&mut Conn> {
    conns.get_mut(id.ring())?.get_mut(id.slot())?.as_mut().filter(|conn| conn.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::Stamp;
    use barrage_wire::client::{Cursor, Platform};
    use barrage_wire::limits::{PROTOCOL_VERSION, SERVER_BODY_BYTES_MAX};
    use barrage_wire::{ClientFrame, List, ServerFrame, Text, frame};
    use std::io::{Read, Write};
    use std::net::TcpStream;

    /// What a client hears: the stamps of messages, by number.
    fn listen(address: SocketAddr, count: usize, joined: &Sender<()>) -> Vec<(u64, Stamp)> {
        let mut stream = TcpStream::connect(address).unwrap();
        let (version, resume, token) = (PROTOCOL_VERSION, List::new(&[]), Text("open:1"));
        let (app, device, platform) = (1, 7, Platform::Bot);
        let hello = ClientFrame::Hello { version, app, device, platform, resume, token };
        let cursor = Cursor { room: 1, epoch: 0, seq: 0 };
        let join = ClientFrame::Join { request: 1, cursor };
        stream.write_all(&[hello.to_vec(), join.to_vec()].concat()).unwrap();
        let (mut bytes, mut heard) = (Vec::new(), Vec::new());
        let mut chunk = [0; 4096];
        while heard.len() < count {
            let read = stream.read(&mut chunk).unwrap();
            assert!(read > 0, "the sink has closed the connection");
            bytes.extend_from_slice(&chunk[..read]);
            let mut rest = bytes.as_slice();
            while let Some(raw) = frame::split(&mut rest, SERVER_BODY_BYTES_MAX).unwrap() {
                match ServerFrame::decode(raw).unwrap() {
                    ServerFrame::Joined { .. } => joined.send(()).unwrap(),
                    ServerFrame::Message { seq, payload, .. } => {
                        heard.push((seq, Stamp::read(payload.0).unwrap()));
                    }
                    _ => {}
                }
            }
            bytes = rest.to_vec();
        }
        heard
    }

    #[test]
    fn every_member_hears_every_message_in_order() {
        let sink = Sink::start(10, None).unwrap();
        let (joined, joins) = channel();
        let clients: Vec<_> = (0..3)
            .map(|_| {
                let (address, joined) = (sink.address, joined.clone());
                std::thread::spawn(move || listen(address, 60, &joined))
            })
            .collect();
        (0..3).for_each(|_| joins.recv().unwrap());
        let from_ns = now_ns();
        let to_ns = from_ns + SECOND_NS / 10;
        sink.play(Play { per_s: 600.0, batch: 3, size: 32, from_ns, to_ns }).unwrap();
        let played = sink.played(Duration::from_secs(10)).unwrap();
        assert_eq!((played.sent, played.due, played.last_seq), (60, 60, 60), "{played:?}");
        assert!(!played.overrun && played.lag.len() == 20, "{played:?}");
        for client in clients {
            let heard = client.join().unwrap();
            let numbers: Vec<u64> = heard.iter().map(|(seq, _)| *seq).collect();
            assert_eq!(numbers, (1..=60).collect::<Vec<_>>());
            for (seq, stamp) in heard {
                assert_eq!(u64::from(stamp.index), seq);
                let due_ns = from_ns + (seq - 1) / 3 * (SECOND_NS / 200);
                assert!(stamp.intended_ns.abs_diff(due_ns) <= 1, "{stamp:?}");
            }
        }
        sink.end().unwrap();
    }
}
