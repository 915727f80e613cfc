//! The proxy's loop: one thread, one epoll instance, every connection through it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use socket2::{Domain, Socket, Type};

use crate::clock::{now_ns, until};
use crate::faults::Faults;
use crate::faults::counts::Counts;
use crate::faults::link::{End, Link, READ_BYTES, Served};
use crate::faults::weather::Weather;
use crate::random::{Random, mix};

/// Connections at one time. More are refused.
const LINKS_MAX: usize = 16 * 1024;
/// Descriptors of a connection: one towards the client, one towards the target.
const LINK_FILES: u64 = 2;
/// Descriptors that are left to everything else. A listener that cannot accept is ready all the time.
const FILES_ASIDE: u64 = 64;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// Events that are taken at once.
const EVENTS_MAX: usize = 1024;
/// How often the loop looks whether it is to stop.
const LOOK_NS: u64 = 20_000_000;
/// What events of the listener are called; a connection's are its number, doubled, and the end.
const LISTENER: u64 = 0;

/// What others tell the loop.
#[derive(Debug, Default)]
pub struct Wishes {
    /// It is to end.
    pub stop: AtomicBool,
    /// Everything is to stall for so long, from now on; 0: nobody wishes that.
    pub stall_ns: AtomicU64,
    /// Every connection is to be reset.
    pub reset_all: AtomicBool,
}

/// The proxy.
pub struct Proxy {
    epoll: rustix::fd::OwnedFd,
    listener: Socket,
    to: SocketAddr,
    faults: Faults,
    seed: u64,
    wishes: Arc<Wishes>,
    weather: Weather,
    random: Random,
    links: BTreeMap<u64, Link>,
    links_max: usize,
    accepted: u64,
    /// When which connection has something to do.
    timers: BTreeSet<(u64, u64)>,
    scratch: Vec<u8>,
    counts: Counts,
}

impl Proxy {
    /// Listens.
    pub fn new(
        listen: SocketAddr,
        to: SocketAddr,
        faults: Faults,
        seed: u64,
        wishes: Arc<Wishes>,
    ) -> Result<Self> {
        let listener = listen_on(listen)
            .with_context(|| format!("cannot listen on {listen}: is something else there?"))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(LISTENER);
        epoll::add(&epoll, &listener, data, epoll::EventFlags::IN)?;
        Ok(Self {
            epoll,
            listener,
            to,
            weather: Weather::new(faults.weather, seed),
            faults,
            seed,
            wishes,
            random: Random::new(mix(seed)),
            links: BTreeMap::new(),
            links_max: links_max(barrage_sys::raise_open_files_limit()),
            accepted: 0,
            timers: BTreeSet::new(),
            scratch: vec![0; READ_BYTES],
            counts: Counts::default(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        let address = self.listener.local_addr()?;
        address.as_socket().ok_or_else(|| io::Error::other("the listener has no IP address"))
    }

    /// Forwards until it is to stop; what it did.
    pub fn run(mut self) -> Result<Counts> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut stalled = false;
        while !self.wishes.stop.load(Ordering::Relaxed) {
            let now = now_ns();
            let sky = self.sky(now);
            let was_stalled = std::mem::replace(&mut stalled, sky.stalled_until_ns.is_some());
            if was_stalled && !stalled {
                let all: Vec<u64> = self.links.keys().copied().collect();
                all.into_iter().for_each(|number| self.serve(number, now));
            }
            if !stalled {
                self.timers_due(now);
            }
            let timer = self.timers.first().filter(|_| !stalled).map(|(at_ns, _)| *at_ns);
            let next = [sky.next_ns, timer].into_iter().flatten().min();
            self.wait(&mut events, next.unwrap_or(u64::MAX).min(now + LOOK_NS))?;
            for event in events.drain(..) {
                self.event(event, stalled);
            }
        }
        Ok(self.counts)
    }

    /// What the weather and others wish; resets are done at once.
    fn sky(&mut self, now: u64) -> super::weather::Sky {
        let stall_ns = self.wishes.stall_ns.swap(0, Ordering::Relaxed);
        if stall_ns > 0 {
            self.weather.stall_now(now, stall_ns);
        }
        if self.weather.waits() && self.messages_come() {
            self.weather.begin(now);
        }
        let sky = self.weather.look(now);
        self.counts.stalls += u64::from(sky.stall_began);
        if self.wishes.reset_all.swap(false, Ordering::Relaxed) || sky.reset_all {
            let all: Vec<u64> = self.links.keys().copied().collect();
            all.into_iter().for_each(|number| self.reset(number));
        }
        for _ in 0..sky.resets {
            let at = self.random.below(self.links.len() as u64) as usize;
            if let Some(&number) = self.links.keys().nth(at) {
                self.reset(number);
            }
        }
        sky
    }

    fn messages_come(&self) -> bool {
        match self.faults.bytes_only {
            true => self.counts.bytes_down > 0,
            false => self.counts.numbered > 0,
        }
    }

    fn reset(&mut self, number: u64) {
        if let Some(link) = self.remove(number) {
            self.counts.resets += 1;
            link.reset();
        }
    }

    fn remove(&mut self, number: u64) -> Option<Link> {
        let link = self.links.remove(&number)?;
        if let Some(at_ns) = link.timer_ns {
            self.timers.remove(&(at_ns, number));
        }
        Some(link)
    }

    /// Serves those whose time has come, each once.
    fn timers_due(&mut self, now: u64) {
        let later = self.timers.split_off(&(now + 1, 0));
        for (_, number) in std::mem::replace(&mut self.timers, later) {
            self.serve(number, now);
        }
    }

    fn wait(&self, events: &mut Vec<epoll::Event>, until_ns: u64) -> Result<()> {
        let left = until(until_ns);
        let time =
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("cannot wait for the sockets"),
        }
    }

    fn event(&mut self, event: epoll::Event, stalled: bool) {
        let (data, flags) = (event.data.u64(), event.flags);
        if data == LISTENER {
            self.accept();
            return;
        }
        let (number, end) = (data / 2, if data % 2 == 0 { End::Client } else { End::Target });
        let broken = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        let readable = flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP | broken);
        let writable = flags.intersects(epoll::EventFlags::OUT | broken);
        if let Some(link) = self.links.get_mut(&number) {
            link.ready(end, readable, writable);
            if !stalled {
                self.serve(number, now_ns());
            }
        }
    }

    fn serve(&mut self, number: u64, now: u64) {
        let Some(link) = self.links.get_mut(&number) else { return };
        match link.serve(now, &self.faults, &mut self.scratch, &mut self.counts) {
            Ok(Served::Goes(timer_ns)) => {
                let before_ns = std::mem::replace(&mut link.timer_ns, timer_ns);
                if before_ns != timer_ns {
                    before_ns.map(|at_ns| self.timers.remove(&(at_ns, number)));
                }
                timer_ns.map(|at_ns| self.timers.insert((at_ns, number)));
            }
            Ok(Served::Ended) => drop(self.remove(number)),
            // Who broke one end is seen as a reset at the other.
            Err(error) => {
                self.counts.refused += u64::from(error.kind() == io::ErrorKind::ConnectionRefused);
                if let Some(link) = self.remove(number) {
                    link.reset();
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((client, _)) = self.listener.accept() {
            self.counts.connections += 1;
            self.accepted += 1;
            let number = self.accepted;
            if self.links.len() >= self.links_max || self.connect(client, number).is_err() {
                self.counts.refused += 1;
            }
        }
    }

    fn connect(&mut self, client: Socket, number: u64) -> io::Result<()> {
        client.set_nonblocking(true)?;
        client.set_tcp_nodelay(true)?;
        let target = Socket::new(Domain::for_address(self.to), Type::STREAM, None)?;
        target.set_nonblocking(true)?;
        target.set_tcp_nodelay(true)?;
        match target.connect(&self.to.into()) {
            Err(error) if error.raw_os_error() != Some(EINPROGRESS) => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let interest = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &client, epoll::EventData::new_u64(number * 2), interest)?;
        epoll::add(&self.epoll, &target, epoll::EventData::new_u64(number * 2 + 1), interest)?;
        self.links.insert(number, Link::new(client, target, self.seed, number));
        Ok(())
    }
}

/// How many connections so many descriptors make.
fn links_max(files: u64) -> usize {
    let links = files.saturating_sub(FILES_ASIDE) / LINK_FILES;
    usize::try_from(links).unwrap_or(usize::MAX).min(LINKS_MAX)
}

/// The answer of a connect that goes on in the background.
const EINPROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();

fn listen_on(address: SocketAddr) -> io::Result<Socket> {
    let listener = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    listener.set_reuse_address(true)?;
    listener.bind(&address.into())?;
    listener.listen(BACKLOG)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::faults::{Config, spawn};

    /// How long anything may take on a busy machine.
    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_stall_holds_back_what_clients_say_too() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let to = listener.local_addr().expect("it is bound");
        let listen = "127.0.0.1:0".parse().expect("an address");
        let faults = Faults { bytes_only: true, ..Faults::default() };
        let proxy = spawn(Config { listen, to, faults, seed: 1 }).expect("a free port");
        let mut client = TcpStream::connect(proxy.address).expect("the proxy listens");
        let (mut target, _) = listener.accept().expect("the proxy connects");
        target.set_read_timeout(Some(SOON)).expect("it is longer than nothing");
        let mut way = || {
            let from = Instant::now();
            client.write_all(b"!").expect("the proxy reads");
            target.read_exact(&mut [0]).expect("the proxy writes");
            from.elapsed()
        };
        way();
        proxy.stall(Duration::from_secs(1));
        let from = Instant::now();
        // Some get through before the proxy hears of it.
        while way() < Duration::from_millis(500) {
            assert!(from.elapsed() < SOON, "nothing is held back");
        }
        assert_eq!(proxy.stop().expect("it ends in order").stalls, 1);
    }

    #[test]
    fn connections_are_no_more_than_descriptors_for_both_ends() {
        assert_eq!([0, 64, 1024, u64::MAX].map(links_max), [0, 0, 480, LINKS_MAX]);
    }
}
