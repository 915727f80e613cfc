//! `limit`: what one core of this machine can send at all, one `send(2)` per delivery.
//!
//! A sending thread in a plain loop, and a receiving thread that only counts bytes. No gateway can
//! do better than this without putting several messages into one send.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use barrage_sys::{
    Event, KernelRing, Ring, Waker, cores_online, pin_to_core, raise_open_files_limit,
    thread_cpu_time,
};
use barrage_wire::server::MESSAGE_OVERHEAD_BYTES;
use rustix::net::{SendFlags, send};
use socket2::{Domain, Socket, Type};

use crate::cli::LimitArgs;
use crate::clock::{SECOND_NS, now_ns, seconds_ns};
use crate::network::{Mark, busy, join, ring_config};
use crate::procfs;
use crate::report::Report;
use crate::run::core_or_default;
use crate::sources::Sources;
use crate::verdict::{self, Facts};

/// Descriptors that are not accepted sockets.
const OTHER_FILES: u64 = 64;
const BACKLOG: i32 = 4096;
/// Connections being made at any time.
const IN_FLIGHT_MAX: u32 = 256;
/// How long all connections may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(60);
/// How long one send may wait for a receiver.
const SEND_MAX: Duration = Duration::from_secs(1);
/// How long the last bytes may take.
const DRAIN_MAX_NS: u64 = 10 * SECOND_NS;
/// Sends between two looks at the clock.
const SENDS_PER_LOOK: usize = 64;
const NAP: Duration = Duration::from_millis(5);

/// What the sender tells the receiver when it is done; `OPEN` before.
type TotalBytes = Arc<AtomicU64>;
const OPEN: u64 = u64::MAX;

/// What the sender has done.
struct Sent {
    sends: u64,
    bytes: u64,
    from_ns: u64,
    to_ns: u64,
    cpu: Duration,
}

/// Runs the command.
pub fn run(args: &LimitArgs, stop: &Arc<AtomicBool>) -> Result<Report> {
    let files = raise_open_files_limit();
    if u64::from(args.members) + OTHER_FILES > files {
        bail!(
            "--members {} needs as many descriptors, and `ulimit -Hn` allows {files}: ask for \
             fewer, or raise it",
            args.members
        );
    }
    let core = core_or_default(args.core);
    let shared = core == Some(args.sender_core);
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    listener.listen(BACKLOG)?;
    let target = listener.local_addr()?.as_socket().context("a TCP listener has an address")?;
    let sources = Sources::plan(&[], target, args.members, procfs::local_ports()?)?;
    let total: TotalBytes = Arc::new(AtomicU64::new(OPEN));
    let receiver = Receiver { target, sources, members: args.members, core };
    let receiver = receiver.spawn(Arc::clone(&total), Arc::clone(stop))?;
    let sender = Sender { args, listener, stop };
    let sent = sender.run_on_thread(&receiver);
    // The receiver must not wait for a sender that has failed.
    total.store(sent.as_ref().map_or(0, |sent| sent.bytes), Ordering::Release);
    let received = join(receiver);
    let sent = sent?;
    Ok(report(args, &sent, received?, stop.load(Ordering::Relaxed), shared))
}

fn report(
    args: &LimitArgs,
    sent: &Sent,
    (bytes, marks): (u64, [Mark; 2]),
    stopped: bool,
    shared: bool,
) -> Report {
    let seconds = (sent.to_ns - sent.from_ns) as f64 / SECOND_NS as f64;
    let delivered = bytes / frame_bytes(args) as u64;
    let busy = busy(marks);
    let cpu_s = sent.cpu.as_secs_f64();
    let facts = Facts { busy, stopped, ..Facts::default() };
    let mut reasons = verdict::reasons(&facts);
    if shared {
        reasons.push("sender and receiver share a core: give two with --core".to_owned());
    }
    Report {
        command: "limit",
        transport: Some("tcp"),
        members: args.members.into(),
        rate: Some(0.0),
        size: Some(args.size),
        secs: args.secs,
        offered: Some(sent.sends),
        published: Some(sent.sends),
        expected: Some(sent.sends),
        delivered: Some(delivered),
        unexplained: Some(sent.sends.saturating_sub(delivered)),
        duplicate: Some(delivered.saturating_sub(sent.sends)),
        deliveries_per_s: Some(delivered as f64 / seconds),
        sends_per_s: Some(sent.sends as f64 / seconds),
        gateway_cpu_s: Some(cpu_s),
        deliveries_per_gateway_cpu_s: (cpu_s > 0.0).then(|| sent.sends as f64 / cpu_s),
        loadgen_cpu_pct: busy.map(|busy| busy * 100.0),
        connected: Some(args.members.into()),
        valid: reasons.is_empty(),
        invalid_reasons: reasons,
        ..Report::default()
    }
}

/// What a room message with such a payload takes on the wire.
fn frame_bytes(args: &LimitArgs) -> usize {
    args.size + MESSAGE_OVERHEAD_BYTES
}

struct Sender<'a> {
    args: &'a LimitArgs,
    listener: Socket,
    stop: &'a Arc<AtomicBool>,
}

impl Sender<'_> {
    fn run_on_thread<T>(&self, receiver: &JoinHandle<T>) -> Result<Sent> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| self.run(receiver));
            thread.join().unwrap_or_else(|_| bail!("the sending thread has panicked"))
        })
    }

    fn run<T>(&self, receiver: &JoinHandle<T>) -> Result<Sent> {
        let core = self.args.sender_core;
        pin_to_core(core)
            .with_context(|| format!("cannot run on core {core}: see --sender-core"))?;
        let sockets = self.accept(receiver)?;
        let frame = vec![0x5a; frame_bytes(self.args)];
        let (mut sends, mut bytes) = (0, 0);
        let (from_ns, cpu) = (now_ns(), thread_cpu_time());
        let to_ns = from_ns + seconds_ns(self.args.secs);
        'time: loop {
            for sockets in sockets.chunks(SENDS_PER_LOOK) {
                if now_ns() >= to_ns || self.stop.load(Ordering::Relaxed) {
                    break 'time;
                }
                for socket in sockets {
                    let count = send(socket, &frame, SendFlags::NOSIGNAL)
                        .context("a receiver takes nothing any more")?;
                    sends += 1;
                    bytes += count as u64;
                }
            }
        }
        let cpu = thread_cpu_time() - cpu;
        Ok(Sent { sends, bytes, from_ns, to_ns: now_ns(), cpu })
    }

    fn accept<T>(&self, receiver: &JoinHandle<T>) -> Result<Vec<TcpStream>> {
        let until_ns = now_ns() + CONNECT_MAX.as_nanos() as u64;
        self.listener.set_nonblocking(true)?;
        let mut sockets = Vec::new();
        while sockets.len() < self.args.members as usize {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    socket.set_nonblocking(false)?;
                    socket.set_tcp_nodelay(true)?;
                    socket.set_write_timeout(Some(SEND_MAX))?;
                    sockets.push(socket.into());
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    let given_up = receiver.is_finished() || now_ns() > until_ns;
                    if given_up || self.stop.load(Ordering::Relaxed) {
                        bail!("{} of {} connections were made", sockets.len(), self.args.members);
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error).context("cannot accept a connection"),
            }
        }
        Ok(sockets)
    }
}

struct Receiver {
    target: SocketAddr,
    sources: Sources,
    members: u32,
    core: Option<usize>,
}

/// Bytes received, and the receiver's state at the first byte and at the last.
type Received = (u64, [Mark; 2]);

impl Receiver {
    fn spawn(
        self,
        total: TotalBytes,
        stop: Arc<AtomicBool>,
    ) -> Result<JoinHandle<Result<Received>>> {
        std::thread::Builder::new()
            .name("network".to_owned())
            .spawn(move || self.run(&total, &stop))
            .context("cannot start the network thread")
    }

    fn run(&self, total: &AtomicU64, stop: &AtomicBool) -> Result<Received> {
        if let Some(core) = self.core.filter(|core| cores_online().contains(core)) {
            pin_to_core(core).with_context(|| format!("cannot run on core {core}: see --core"))?;
        }
        let mut ring = KernelRing::new(ring_config(self.members), Waker::new()?)?;
        let (mut begun, mut connected, mut ended, mut bytes) = (0, 0, 0, 0);
        let mut marks = [Mark::default(); 2];
        let mut deadline_ns = OPEN;
        loop {
            let before = bytes;
            let reaped = ring.reap(&mut |event| match event {
                Event::Received { bytes: came, .. } => bytes += came.len() as u64,
                Event::Connected { .. } => connected += 1,
                Event::Ended { .. } => ended += 1,
                Event::Accepted { .. } | Event::Sent { .. } | Event::Closed { .. } => {}
            });
            while begun < self.members && begun - connected < IN_FLIGHT_MAX && ended == 0 {
                ring.connect(self.sources.of(begun), self.target).context("cannot connect")?;
                begun += 1;
            }
            if before == 0 && bytes > 0 {
                marks[0] = mark(bytes);
            }
            let total = total.load(Ordering::Acquire);
            if total != OPEN {
                deadline_ns = deadline_ns.min(now_ns() + DRAIN_MAX_NS);
                if marks[1].at_ns == 0 {
                    marks[1] = mark(bytes);
                }
            }
            let failed = ended > 0 && connected < self.members;
            let stopped = stop.load(Ordering::Relaxed) && connected < self.members;
            if bytes >= total || now_ns() > deadline_ns || failed || stopped {
                return Ok((bytes, if marks[0].at_ns == 0 { [marks[1]; 2] } else { marks }));
            }
            ring.submit();
            if reaped == 0 {
                ring.wait(NAP, || true);
            }
        }
    }
}

fn mark(delivered: u64) -> Mark {
    Mark { at_ns: now_ns(), cpu: thread_cpu_time(), delivered, received_bytes: 0 }
}
