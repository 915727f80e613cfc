//! Memory does not grow with the connections that have come and gone. Alone in its process, which it
//! measures.

use std::net::TcpStream;
use std::time::Duration;

use barrage_sys::{Event, KernelRing, Listener, Ring, RingConfig, Waker};

const CONFIG: RingConfig = RingConfig {
    slots: 64,
    connections: 64,
    requests: 64,
    completions: 128,
    buffers: 8,
    buffer_bytes: 512,
};
/// Connections before and while memory is measured.
const WARM: usize = 20_000;
const MEASURED: usize = 200_000;
/// Less than half of what one number for each would take.
const GROWTH_MAX: usize = 2 * MEASURED;

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("what this process takes");
    let pages = text.split_whitespace().nth(1).expect("the resident pages");
    pages.parse::<usize>().expect("a number") * 4096
}

#[test]
fn connections_that_have_gone_take_no_memory() {
    let mut ring = KernelRing::new(CONFIG, Waker::new().expect("an eventfd")).expect("a ring");
    let listener = Listener::tcp("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = listener.address().expect("a TCP listener has an address");
    ring.listen(listener);
    let peers = std::thread::spawn(move || {
        for _ in 0..WARM + MEASURED {
            let peer = TcpStream::connect(address).expect("a connection");
            // A reset, so that no port is kept for the one that has gone.
            let at_once = Some(Duration::ZERO);
            socket2::SockRef::from(&peer).set_linger(at_once).expect("a socket that is there");
        }
    });
    let (mut closed, mut before) = (0, 0);
    while closed < WARM + MEASURED {
        let mut ends = Vec::new();
        ring.reap(&mut |event| match event {
            Event::Ended { conn, .. } => ends.push(conn),
            Event::Closed { .. } => closed += 1,
            Event::Accepted { .. } => {}
            other => panic!("{other:?} of peers that say nothing"),
        });
        ends.into_iter().for_each(|conn| ring.close(conn));
        // An accept that has failed, because the peer was gone already, is tried again at a tick.
        ring.tick();
        ring.submit();
        if closed >= WARM && before == 0 {
            before = resident_bytes();
        }
        if closed < WARM + MEASURED {
            ring.wait(Duration::from_secs(10), || true);
        }
    }
    peers.join().expect("the peers are content");
    let growth = resident_bytes().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "{growth} bytes more after {MEASURED} connections");
}
