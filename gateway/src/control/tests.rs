//! The control plane over a real socket, with shards that turn and shards that do not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::Result;
use barrage_sys::Waker;

use super::{Heard, Plane, run};
use crate::asks::Handle;
use crate::policy_file;
use crate::rules::RulesInForce;

/// How long anything that should happen at once may take on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// A control thread whose shards are the test's.
struct Control {
    http: SocketAddr,
    stop: Arc<AtomicBool>,
    result: Receiver<Result<()>>,
    policy: PathBuf,
}

impl Control {
    fn start(name: &str, shards: Vec<Handle>) -> Self {
        let name = format!("barrage-control-{name}-{}.toml", std::process::id());
        let policy = std::env::temp_dir().join(name);
        std::fs::write(&policy, policy_file::DEFAULT).expect("a temporary file");
        let rules = RulesInForce::load(Some(policy.clone())).expect("the built-in policy");
        let plane = Arc::new(Plane { rules, history: None, clock_ahead_ms: AtomicI64::new(0) });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let http = listener.local_addr().expect("it is bound");
        let stop = Arc::new(AtomicBool::new(false));
        let (told, (done, result)) = (Arc::clone(&stop), channel());
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
            let hear = async move || {
                while !told.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Heard::Stop
            };
            let never = std::future::pending();
            // A test that has failed meanwhile does not wait for it.
            let _ = done.send(runtime.block_on(run(listener, 16, shards, plane, hear, never)));
        });
        Self { http, stop, result, policy }
    }

    fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect_timeout(&self.http, SOON).expect("it listens");
        stream.set_read_timeout(Some(SOON)).expect("above zero");
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
        (status, body.to_owned())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // It is of no use any more.
        let _ = std::fs::remove_file(&self.policy);
    }
}

#[test]
fn a_stuck_shard_holds_up_neither_health_nor_reloads_nor_the_end() {
    // Whoever would answer is there, and never looks.
    let (stuck, asks) = Handle::new(3, Waker::new().expect("a descriptor"));
    let control = Control::start("stuck", vec![stuck]);
    let until = Instant::now() + SOON;
    loop {
        let (status, text) = control.ask("GET", "/healthz");
        if status == 503 && text.starts_with("core 3 has not turned for ") {
            break;
        }
        assert_eq!((status, text.as_str()), (200, "ok\n"), "it may have turned just now");
        assert!(Instant::now() < until, "nobody has noticed");
    }
    for _ in 0..40 {
        assert_eq!(control.ask("GET", "/healthz").0, 503);
        assert_eq!(control.ask("GET", "/metrics").0, 200);
        let (status, text) = control.ask("POST", "/policy/reload");
        assert_eq!(status, 200);
        assert_eq!(text, "the policy is read, but 1 of 1 shards do not answer\n");
    }
    control.stop.store(true, Ordering::Relaxed);
    let result = control.result.recv_timeout(SOON).expect("the end is heard");
    let error = format!("{:#}", result.expect_err("a shard has not ended"));
    assert!(error.starts_with("core 3 has not turned for "), "{error}");
    drop(asks);
}
