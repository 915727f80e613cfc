//! One `io_uring` with its table of direct descriptors: what is in flight on each, and what the
//! kernel says of it.

use std::collections::VecDeque;
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use socket2::{SockAddr, SockAddrStorage};
use thiserror::Error;

use crate::buffers::{BUFFER_GROUP, Buffers};
use crate::kernel_ring::RingConfig;
use crate::ring::{ConnId, Event, Peer};
use crate::segment::SendSlice;

/// Accepts in flight per listener; each has an address of its own to be written to.
pub(crate) const ACCEPTS_IN_FLIGHT: usize = 64;
/// Completions taken off a ring at a time.
const REAP_BATCH: usize = 256;
/// Completions taken off a ring before the others get their turn.
const REAP_MAX: usize = 4 * REAP_BATCH;
/// Receives told in one reaping; a batch that has begun is told to its end.
pub const RECEIVES_MAX: usize = REAP_BATCH / 2;
const GENERATION_BITS: u32 = 24;

/// What a kernel has on which a ring could be made, for the operator to see.
pub const FEATURES: &str = "SINGLE_ISSUER, DEFER_TASKRUN, TASKRUN_FLAG, direct accept, multishot \
                            receive, buffer rings, direct descriptors";

/// Why a ring could not be made, in words for the operator.
#[derive(Debug, Error)]
pub enum RingError {
    /// The kernel is too old or was told not to.
    #[error("this kernel lacks {feature}: Barrage needs Linux {since} or newer")]
    Missing {
        /// What is missing.
        feature: &'static str,
        /// The first version that has it.
        since: &'static str,
    },
    /// The process may not use it.
    #[error(
        "io_uring is not permitted here: set `sysctl kernel.io_uring_disabled=0`, and allow \
         io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile"
    )]
    Forbidden,
    /// Memory that a ring needs is over the limit.
    #[error(
        "not enough locked memory for a data ring: set `LimitMEMLOCK=infinity` in the service \
         file, or raise `ulimit -l`"
    )]
    LockedMemory,
    /// Anything else.
    #[error("{doing}: {error}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Op {
    Accept = 1,
    Connect,
    Recv,
    Send,
    Finish,
    Shutdown,
    Close,
    /// Its completion says nothing.
    Silent,
}

impl Op {
    const ALL: [Self; 8] = [
        Self::Accept,
        Self::Connect,
        Self::Recv,
        Self::Send,
        Self::Finish,
        Self::Shutdown,
        Self::Close,
        Self::Silent,
    ];

    fn tag(self, generation: u32, low: u32) -> u64 {
        (self as u64) << 56 | u64::from(generation) << 32 | u64::from(low)
    }

    fn untag(user_data: u64) -> (Self, u32, u32) {
        let op = Self::ALL[(user_data >> 56) as usize - 1];
        (op, (user_data >> 32) as u32 & ((1 << GENERATION_BITS) - 1), user_data as u32)
    }
}

/// What a slot waits for beside its send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Waits {
    #[default]
    Nothing,
    /// Its connect is in flight.
    Connect,
    /// A receive is.
    Receive,
}

/// What is going on in a slot.
#[derive(Default)]
struct Slot {
    sending: Option<SendSlice>,
    generation: u32,
    open: bool,
    waits: Waits,
    closing: bool,
    /// Shutdowns in flight, of one direction or of both.
    shutdowns: u8,
}

impl Slot {
    /// Whether something in flight refers to it that a shutdown ends.
    fn is_busy(&self) -> bool {
        self.waits != Waits::Nothing || self.sending.is_some()
    }
}

const _: () = assert!(size_of::<Slot>() == 24, "a million connections have one each");

/// What came of a receive.
#[derive(Clone, Copy)]
struct Receive {
    slot: u32,
    result: i32,
    flags: u32,
}

/// Where the kernel writes the address of an accepted peer.
struct AcceptAddress {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

pub(crate) struct DataRing {
    ring: IoUring,
    number: usize,
    buffers: Buffers,
    /// The kernel reads what these slices hold; see `Drop`.
    slots: ManuallyDrop<Vec<Slot>>,
    slots_max: u32,
    used: u32,
    accepting: u32,
    /// The kernel writes to these for as long as an accept is in flight; never freed, like buffers.
    #[allow(clippy::vec_box, reason = "the kernel is given their places")]
    addresses: ManuallyDrop<Vec<Box<AcceptAddress>>>,
    free_addresses: Vec<u32>,
    /// Listeners whose accepts have ended since the set looked.
    accepts_ended: Vec<(usize, i32)>,
    #[allow(clippy::vec_box, reason = "the kernel is given their places")]
    connect_addresses: Vec<Box<SockAddr>>,
    /// Slots that `connect` may use again. Where the kernel picks the slots, nobody would take them
    /// off.
    free_slots: Vec<u32>,
    connects: bool,
    rearm: Vec<u32>,
    /// Receives told in this reaping.
    receives: usize,
    /// Receives are not told; they wait here, each with its buffer, so that there are not many.
    deaf: bool,
    held: VecDeque<Receive>,
    queued: bool,
}

impl DataRing {
    pub(crate) fn new(
        number: usize,
        config: &RingConfig,
        eventfd: RawFd,
    ) -> Result<Self, RingError> {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(config.completions)
            .build(config.requests)
            .map_err(setup_error)?;
        check_operations(&ring)?;
        let failed = |doing| move |error| RingError::Io { doing, error };
        let submitter = ring.submitter();
        submitter
            .register_files_sparse(config.slots)
            .map_err(failed("register_files_sparse (needs Linux 5.19)"))?;
        submitter.register_eventfd(eventfd).map_err(failed("register_eventfd"))?;
        let buffers = Buffers::register(&ring, config.buffers, config.buffer_bytes)
            .map_err(failed("register_buf_ring (needs Linux 5.19)"))?;
        let mut this = Self {
            ring,
            number,
            buffers,
            slots: ManuallyDrop::new(Vec::with_capacity(config.slots as usize)),
            slots_max: config.slots,
            used: 0,
            accepting: 0,
            addresses: ManuallyDrop::new(Vec::new()),
            free_addresses: Vec::new(),
            accepts_ended: Vec::new(),
            connect_addresses: Vec::new(),
            free_slots: Vec::new(),
            connects: false,
            rearm: Vec::new(),
            receives: 0,
            deaf: false,
            held: VecDeque::new(),
            queued: false,
        };
        this.ring.completion().disable_eventfd();
        Ok(this)
    }

    /// Slots that a new connection could take.
    pub(crate) fn room(&self) -> u32 {
        self.slots_max - self.used - self.accepting
    }

    /// Connections that hold a slot.
    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    pub(crate) fn accept(&mut self, listener: usize, fd: RawFd) {
        let address = self.free_addresses.pop().unwrap_or_else(|| {
            self.addresses.push(Box::new(AcceptAddress {
                // SAFETY: all zeroes is a valid sockaddr_storage: it is plain old data.
                storage: unsafe { std::mem::zeroed() },
                len: 0,
            }));
            self.addresses.len() as u32 - 1
        });
        let place = &mut *self.addresses[address as usize];
        place.len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        let entry =
            opcode::Accept::new(Fd(fd), (&raw mut place.storage).cast(), &raw mut place.len)
                .file_index(Some(DestinationSlot::auto_target()))
                .build();
        self.accepting += 1;
        self.push(entry.user_data(Op::Accept.tag(listener as u32, address)));
    }

    /// The listeners of the accepts that have ended since the last call, and how they have.
    pub(crate) fn accepts_ended(&mut self) -> std::vec::Drain<'_, (usize, i32)> {
        self.accepts_ended.drain(..)
    }

    pub(crate) fn stop_accepting(&mut self, fd: RawFd) {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::fd(Fd(fd)).all()).build();
        self.push(entry.user_data(Op::Silent.tag(0, 0)));
    }

    /// Puts `socket` into a free slot and connects it. Not to be mixed with `accept` on one ring:
    /// there the kernel picks the slots.
    pub(crate) fn connect(
        &mut self,
        socket: BorrowedFd<'_>,
        remote: SockAddr,
    ) -> io::Result<ConnId> {
        let slot = self.free_slots.pop().unwrap_or(self.slots.len() as u32);
        self.ring.submitter().register_files_update(slot, &[socket.as_raw_fd()])?;
        let conn = self.occupy(slot);
        self.slots[slot as usize].waits = Waits::Connect;
        self.connects = true;
        // The kernel copies the address when the request is submitted; until then it stays here.
        let remote = Box::new(remote);
        let entry = opcode::Connect::new(Fixed(slot), remote.as_ptr().cast(), remote.len());
        self.connect_addresses.push(remote);
        self.push(entry.build().user_data(Op::Connect.tag(conn.generation, slot)));
        Ok(conn)
    }

    fn occupy(&mut self, slot: u32) -> ConnId {
        if self.slots.len() <= slot as usize {
            self.slots.resize_with(slot as usize + 1, Slot::default);
        }
        let state = &mut self.slots[slot as usize];
        assert!(!state.open, "the kernel gives out free slots");
        state.open = true;
        self.used += 1;
        ConnId { index: ConnId::index_of(self.number, slot as usize), generation: state.generation }
    }

    fn slot(&mut self, conn: ConnId) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(conn.slot())?;
        (slot.open && !slot.closing && slot.generation == conn.generation).then_some(slot)
    }

    pub(crate) fn send(&mut self, conn: ConnId, slice: SendSlice) {
        let Some(slot) = self.slot(conn) else { return };
        assert!(slot.sending.is_none(), "one send per connection is in flight");
        let (bytes, len) = (slice.as_ptr(), slice.len() as u32);
        // The slot keeps the memory until the completion has come.
        slot.sending = Some(slice);
        let slot = conn.slot() as u32;
        let entry = opcode::Send::new(Fixed(slot), bytes, len).flags(libc::MSG_NOSIGNAL).build();
        self.push(entry.user_data(Op::Send.tag(conn.generation, slot)));
    }

    pub(crate) fn finish(&mut self, conn: ConnId) {
        let Some(slot) = self.slot(conn) else { return };
        slot.shutdowns += 1;
        self.shutdown(conn.slot() as u32, conn.generation, Op::Finish, libc::SHUT_WR);
    }

    pub(crate) fn close(&mut self, conn: ConnId) {
        let Some(slot) = self.slot(conn) else { return };
        slot.closing = true;
        if slot.is_busy() {
            slot.shutdowns += 1;
            self.shutdown(conn.slot() as u32, conn.generation, Op::Shutdown, libc::SHUT_RDWR);
        }
        self.close_when_quiet(conn.slot() as u32);
    }

    /// Ends a connection without a word: the peer gets a reset and not an end. Kernels before 6.7
    /// cannot set the option by a request; there it is an end all the same.
    pub(crate) fn reset(&mut self, conn: ConnId) {
        /// Nothing is waited for when the socket is closed, so the kernel resets.
        static AT_ONCE: libc::linger = libc::linger { l_onoff: 1, l_linger: 0 };
        let Some(slot) = self.slot(conn) else { return };
        slot.closing = true;
        let busy = slot.is_busy();
        slot.shutdowns += u8::from(busy);
        let number = conn.slot() as u32;
        let option = opcode::SetSockOpt::new(
            Fixed(number),
            libc::SOL_SOCKET as u32,
            libc::SO_LINGER as u32,
            (&raw const AT_ONCE).cast(),
            size_of::<libc::linger>() as u32,
        );
        self.push(option.build().user_data(Op::Silent.tag(0, 0)));
        if busy {
            // A shutdown would say that it is the end.
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::fd(Fixed(number)).all()).build();
            self.push(cancel.user_data(Op::Shutdown.tag(conn.generation, number)));
        }
        self.close_when_quiet(number);
    }

    fn shutdown(&mut self, slot: u32, generation: u32, op: Op, how: i32) {
        let entry = opcode::Shutdown::new(Fixed(slot), how).build();
        self.push(entry.user_data(op.tag(generation, slot)));
    }

    fn close_when_quiet(&mut self, slot: u32) {
        let state = &self.slots[slot as usize];
        let quiet = !state.is_busy() && state.shutdowns == 0;
        if state.closing && quiet {
            let generation = state.generation;
            let entry = opcode::Close::new(Fixed(slot)).build();
            self.push(entry.user_data(Op::Close.tag(generation, slot)));
        }
    }

    fn receive(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        state.waits = Waits::Receive;
        let generation = state.generation;
        let entry = opcode::RecvMulti::new(Fixed(slot), BUFFER_GROUP).build();
        self.push(entry.user_data(Op::Recv.tag(generation, slot)));
    }

    fn push(&mut self, entry: squeue::Entry) {
        self.queued = true;
        loop {
            // SAFETY: what the entry points to outlives the request: slices are kept in their slot
            // until the send completes, accept addresses are never freed, connect addresses are
            // kept until the request was submitted, options are static, descriptors are of this ring's
            // table or of listeners that live as long as the ring.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.enter();
        }
    }

    /// Hands over what is queued.
    pub(crate) fn submit(&mut self) {
        if self.queued {
            self.queued = false;
            self.enter();
        }
    }

    /// Hands over what is queued and lets the kernel do what it has put off.
    fn enter(&mut self) {
        match self.ring.submit() {
            Ok(_) => {}
            // Interrupted, or too many completions wait: what is left is handed over next time.
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EBUSY | libc::EAGAIN) => self.queued = true,
                _ => panic!("io_uring_enter refuses a valid ring: {error}"),
            },
        }
        if self.ring.submission().is_empty() {
            self.connect_addresses.clear();
        } else {
            self.queued = true;
        }
    }

    pub(crate) fn reap(&mut self, sink: &mut dyn FnMut(Event<'_>)) -> usize {
        let mut reaped = 0;
        self.receives = 0;
        while !self.deaf
            && self.receives < RECEIVES_MAX
            && let Some(receive) = self.held.pop_front()
        {
            reaped += 1;
            self.received(receive, sink);
        }
        self.give_back();
        while reaped < REAP_MAX && self.receives < RECEIVES_MAX {
            if self.work_deferred() {
                self.enter();
            }
            let mut batch = [const { MaybeUninit::uninit() }; REAP_BATCH];
            let batch = self.ring.completion().fill(&mut batch);
            if batch.is_empty() {
                break;
            }
            reaped += batch.len();
            for entry in batch {
                self.complete(entry, sink);
            }
            self.give_back();
        }
        reaped
    }

    /// Keeps receives back from now on, or tells them again.
    pub(crate) fn set_deaf(&mut self, deaf: bool) {
        self.deaf = deaf;
    }

    /// Lets the kernel have the buffers that were read, and receive where it has run out of them.
    fn give_back(&mut self) {
        self.buffers.publish();
        for slot in std::mem::take(&mut self.rearm) {
            assert!(!self.slots[slot as usize].closing, "nothing is closed while a ring is reaped");
            self.receive(slot);
        }
    }

    fn complete(&mut self, entry: &cqueue::Entry, sink: &mut dyn FnMut(Event<'_>)) {
        let (op, generation, low) = Op::untag(entry.user_data());
        let result = entry.result();
        match op {
            Op::Accept => self.accepted(generation as usize, low, result, sink),
            Op::Connect => self.connected(low, result, sink),
            Op::Recv => {
                let receive = Receive { slot: low, result, flags: entry.flags() };
                if self.deaf {
                    self.held.push_back(receive);
                } else {
                    self.received(receive, sink);
                }
            }
            Op::Send => self.sent(low, result, sink),
            Op::Finish => {
                self.slots[low as usize].shutdowns -= 1;
                self.close_when_quiet(low);
            }
            Op::Shutdown => self.shut_down(low, result),
            Op::Close => self.closed(low, result, sink),
            Op::Silent => {}
        }
    }

    fn conn(&self, slot: u32) -> ConnId {
        ConnId {
            index: ConnId::index_of(self.number, slot as usize),
            generation: self.slots[slot as usize].generation,
        }
    }

    fn accepted(
        &mut self,
        listener: usize,
        address: u32,
        result: i32,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        self.accepting -= 1;
        self.free_addresses.push(address);
        self.accepts_ended.push((listener, result));
        let Ok(slot) = u32::try_from(result) else { return };
        let place = &self.addresses[address as usize];
        let mut storage = SockAddrStorage::zeroed();
        // SAFETY: `sockaddr_storage` is the type that the storage wraps.
        *unsafe { storage.view_as::<libc::sockaddr_storage>() } = place.storage;
        // SAFETY: the kernel has written an address of `len` bytes at the start of the storage.
        let peer = unsafe { SockAddr::new(storage, place.len) };
        let peer = peer.as_socket().map_or(Peer::Unix, Peer::Ip);
        let conn = self.occupy(slot);
        self.receive(slot);
        sink(Event::Accepted { conn, listener, peer });
    }

    fn connected(&mut self, slot: u32, result: i32, sink: &mut dyn FnMut(Event<'_>)) {
        let conn = self.conn(slot);
        self.slots[slot as usize].waits = Waits::Nothing;
        if self.slots[slot as usize].closing {
            return self.close_when_quiet(slot);
        }
        if result < 0 {
            sink(Event::Ended { conn, errno: -result });
        } else {
            self.receive(slot);
            sink(Event::Connected { conn });
        }
    }

    fn received(&mut self, receive: Receive, sink: &mut dyn FnMut(Event<'_>)) {
        let Receive { slot, result, flags } = receive;
        let conn = self.conn(slot);
        let closing = self.slots[slot as usize].closing;
        let more = cqueue::more(flags);
        if !more {
            self.slots[slot as usize].waits = Waits::Nothing;
        }
        if let Some(buffer) = cqueue::buffer_select(flags) {
            if result > 0 && !closing {
                self.receives += 1;
                let bytes = self.buffers.filled(buffer, result as usize);
                sink(Event::Received { conn, bytes });
            }
            self.buffers.put(buffer);
        }
        if more {
            return;
        }
        match result {
            _ if closing => self.close_when_quiet(slot),
            // Out of buffers, or the kernel wants to be asked again.
            1.. => self.rearm.push(slot),
            _ if result == -libc::ENOBUFS => self.rearm.push(slot),
            _ => sink(Event::Ended { conn, errno: -result }),
        }
    }

    fn sent(&mut self, slot: u32, result: i32, sink: &mut dyn FnMut(Event<'_>)) {
        let conn = self.conn(slot);
        let state = &mut self.slots[slot as usize];
        let slice = state.sending.take().expect("a send completes once");
        if state.closing {
            self.close_when_quiet(slot);
            return;
        }
        let result = usize::try_from(result).map_err(|_| -result);
        sink(Event::Sent { conn, slice, result });
    }

    fn shut_down(&mut self, slot: u32, result: i32) {
        let state = &mut self.slots[slot as usize];
        state.shutdowns -= 1;
        if result < 0 && state.is_busy() {
            // A socket that is not connected any more cannot be shut down; what still waits on it
            // is cancelled by name.
            let cancel = CancelBuilder::fd(Fixed(slot)).all();
            let entry = opcode::AsyncCancel2::new(cancel).build();
            self.push(entry.user_data(Op::Silent.tag(0, 0)));
        }
        self.close_when_quiet(slot);
    }

    fn closed(&mut self, slot: u32, result: i32, sink: &mut dyn FnMut(Event<'_>)) {
        assert!(result == 0, "closing a direct descriptor failed: errno {}", -result);
        let conn = self.conn(slot);
        let generation = (conn.generation + 1) & ((1 << GENERATION_BITS) - 1);
        self.slots[slot as usize] = Slot { generation, ..Slot::default() };
        self.used -= 1;
        if self.connects {
            self.free_slots.push(slot);
        }
        sink(Event::Closed { conn });
    }

    /// Receives told in the last reaping.
    pub(crate) fn receives(&self) -> usize {
        self.receives
    }

    /// Lets the ring signal its eventfd; says whether there is nothing to do.
    pub(crate) fn sleep(&mut self) -> bool {
        self.submit();
        self.ring.completion().enable_eventfd();
        self.held.is_empty()
            && !self.work_deferred()
            && !self.queued
            && self.ring.completion().is_empty()
    }

    /// Whether the kernel has put something off until it is entered again.
    fn work_deferred(&mut self) -> bool {
        let queue = self.ring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// Keeps the ring from signalling.
    pub(crate) fn awake(&mut self) {
        self.ring.completion().disable_eventfd();
    }
}

impl Drop for DataRing {
    fn drop(&mut self) {
        // A kernel that winds the ring up may still read what was being sent. Slots without a send
        // are freed, the others are left alone, as buffers and addresses are.
        for slot in self.slots.iter_mut() {
            std::mem::forget(slot.sending.take());
        }
        // SAFETY: the vector is not used after this.
        unsafe { ManuallyDrop::drop(&mut self.slots) };
    }
}

fn setup_error(error: io::Error) -> RingError {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => RingError::Missing { feature: "io_uring", since: "6.1" },
        Some(libc::EINVAL) => RingError::Missing {
            feature: "io_uring's SINGLE_ISSUER and DEFER_TASKRUN",
            since: "6.1",
        },
        Some(libc::EPERM | libc::EACCES) => RingError::Forbidden,
        Some(libc::ENOMEM) => RingError::LockedMemory,
        _ => RingError::Io { doing: "io_uring_setup", error },
    }
}

fn check_operations(ring: &IoUring) -> Result<(), RingError> {
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| RingError::Io { doing: "register_probe", error })?;
    let needed = [
        ("io_uring's ACCEPT", opcode::Accept::CODE, "5.19"),
        ("io_uring's RECV", opcode::RecvMulti::CODE, "6.0"),
        ("io_uring's SEND", opcode::Send::CODE, "5.6"),
        ("io_uring's SHUTDOWN", opcode::Shutdown::CODE, "5.11"),
        ("io_uring's CLOSE", opcode::Close::CODE, "5.15"),
        ("io_uring's ASYNC_CANCEL", opcode::AsyncCancel2::CODE, "5.19"),
    ];
    match needed.iter().find(|(_, code, _)| !probe.is_supported(*code)) {
        Some(&(feature, _, since)) => Err(RingError::Missing { feature, since }),
        None => Ok(()),
    }
}
