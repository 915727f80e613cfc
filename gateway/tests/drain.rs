//! How the program starts, is looked at from outside, and ends.

mod common;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use barrage_wire::UpstreamFrame;
use barrage_wire::codec::Tail;
use barrage_wire::server::{CloseReason, Code};

use common::gateway::{PROGRAM, free_addresses, free_path, run};
use common::{
    CHAT, Client, Gateway, Receiver, SOON, Said, Socket, Upstream, Via, on_one_and_two_shards,
};

/// How long a drain may take at most.
const DRAIN_MAX: Duration = Duration::from_secs(12);

#[test]
fn sigterm_says_goodbye_to_everybody_and_ends_with_success() {
    for cores in ["0", "0-1"] {
        for unix in [false, true] {
            let mut gateway =
                if unix { Gateway::start_with_unix(cores) } else { Gateway::start(cores, &[]) };
            let mut clients: Vec<_> =
                (0..20).map(|n| gateway.client(Via::BOTH[n % 2], 1)).collect();
            let rooms: Vec<_> = clients.iter_mut().map(|client| client.join(7)).collect();
            assert_eq!(rooms.len(), clients.len());
            let mut silent = Client::connect(gateway.tcp, Via::Tcp);
            let mut shaking = Socket::tcp(gateway.ws);
            let mut upstream = gateway.upstream();
            gateway.terminate();
            for client in clients.iter_mut().chain([&mut silent]) {
                let (reason, text) = client.hear_close();
                assert_eq!(reason, CloseReason::Draining);
                assert!(!text.is_empty());
            }
            assert_eq!(clients[1].close_code, Some(1001), "going away");
            assert_eq!(upstream.hear_close().0, CloseReason::Draining);
            shaking.read_to_end(Instant::now() + SOON);
            // They close as well, as a peer does that has heard Close.
            drop((clients, silent, shaking, upstream));
            let since = Instant::now();
            let status = gateway.wait(since + DRAIN_MAX);
            assert!(status.success(), "{status}");
            assert!(since.elapsed() < Duration::from_secs(1), "nobody was waited for");
            if let Some(path) = &gateway.upstream_unix {
                assert!(!path.exists(), "the socket's file is gone");
            }
            assert_eq!(gateway.page("/healthz"), None, "nobody answers any more");
        }
    }
}

/// Whatever was answered `Ok` before the signal is delivered to those who read.
#[test]
fn what_was_accepted_before_sigterm_is_delivered() {
    const MESSAGES: u32 = 2000;
    for cores in ["0", "0-1"] {
        let mut gateway = Gateway::start(cores, &[]);
        let mut members: Vec<_> = (0..20).map(|n| gateway.client(Via::BOTH[n % 2], 1)).collect();
        let joined: Vec<_> = members.iter_mut().map(|member| member.join(7)).collect();
        let mut upstream = gateway.upstream();
        let payload = [5; 400];
        for _ in 0..MESSAGES {
            let head = upstream.head();
            upstream.send(&UpstreamFrame::PublishRoom { head, room: 7, payload: Tail(&payload) });
        }
        let replies = upstream.replies(MESSAGES as usize);
        gateway.terminate();
        assert!(replies.iter().all(|reply| reply.code == Code::Ok));
        for (member, joined) in members.iter_mut().zip(&joined) {
            let mut receiver = Receiver::new(joined);
            let mut said = member.hear_all();
            let last = said.pop();
            assert!(
                matches!(last, Some(Said::Close { reason: CloseReason::Draining, .. })),
                "{last:?}"
            );
            said.iter().for_each(|said| receiver.hear(said));
            assert_eq!(receiver.knows_up_to(), Some(u64::from(MESSAGES)));
        }
        drop((members, upstream));
        assert!(gateway.wait(Instant::now() + DRAIN_MAX).success());
    }
}

/// Neither one who never reads nor one who never closes holds a drain up for longer than its limit.
#[test]
fn a_drain_ends_even_when_peers_do_not_go() {
    let mut gateway = Gateway::start("0-1", &[]);
    let mut deaf = Client::on(Socket::tcp_narrow(gateway.tcp), Via::Tcp);
    deaf.hello(1, &[]);
    deaf.join(7);
    let mut stays = gateway.client(Via::WebSocket, 2);
    stays.join(8);
    let mut upstream = gateway.upstream();
    for _ in 0..300 {
        assert_eq!(upstream.say_to_room(7, &[0; 16_000]).0, Code::Ok);
    }
    gateway.terminate();
    assert_eq!(stays.hear_close().0, CloseReason::Draining);
    let status = gateway.wait(Instant::now() + DRAIN_MAX);
    assert!(status.success(), "{status}");
}

/// More than are accepted at a time: these wait in the kernel when the signal comes.
const WAITING: usize = 200;

#[test]
fn whoever_waits_to_be_accepted_when_a_drain_begins_is_told_so() {
    for (cores, unix) in [("0", false), ("0-1", true)] {
        let mut gateway =
            if unix { Gateway::start_with_unix(cores) } else { Gateway::start(cores, &[]) };
        gateway.set_stopped(true);
        let mut clients: Vec<_> =
            (0..WAITING).map(|_| Client::connect(gateway.tcp, Via::Tcp)).collect();
        let mut shaking: Vec<_> = (0..WAITING).map(|_| Socket::tcp(gateway.ws)).collect();
        let mut services: Vec<_> =
            (0..WAITING).map(|_| Upstream::on(gateway.upstream_socket())).collect();
        gateway.terminate();
        gateway.set_stopped(false);
        for (n, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.hear_close().0, CloseReason::Draining, "client {n}");
        }
        for (n, service) in services.iter_mut().enumerate() {
            assert_eq!(service.hear_close().0, CloseReason::Draining, "service {n}");
        }
        for (n, socket) in shaking.iter_mut().enumerate() {
            let answer = socket.read_to_end(Instant::now() + SOON);
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with("HTTP/1.1 503 "), "handshake {n}: {answer:?}");
        }
        drop((clients, shaking, services));
        assert!(gateway.wait(Instant::now() + DRAIN_MAX).success());
    }
}

/// Whoever comes later is refused by the kernel, and tries elsewhere at once.
#[test]
fn nobody_is_taken_in_while_a_gateway_drains() {
    for (cores, unix) in [("0", false), ("0-1", true)] {
        let mut gateway =
            if unix { Gateway::start_with_unix(cores) } else { Gateway::start(cores, &[]) };
        // It reads nothing of what waits for it, so the gateway does not end at once.
        let mut deaf = Client::on(Socket::tcp_narrow(gateway.tcp), Via::Tcp);
        deaf.hello(1, &[]);
        deaf.join(7);
        let mut service = gateway.upstream();
        for _ in 0..300 {
            assert_eq!(service.say_to_room(7, &[0; 16_000]).0, Code::Ok);
        }
        gateway.terminate();
        let until = Instant::now() + SOON;
        while gateway.page("/healthz") != Some((503, "draining\n".to_owned())) {
            assert!(Instant::now() < until, "the signal is not heard");
        }
        let mut addresses = vec![gateway.tcp, gateway.ws];
        addresses.extend(gateway.upstream_unix.is_none().then_some(gateway.upstream));
        for address in addresses {
            while std::net::TcpStream::connect_timeout(&address, SOON).is_ok() {
                assert!(Instant::now() < until, "{address} still listens");
            }
        }
        if let Some(path) = &gateway.upstream_unix {
            assert!(std::os::unix::net::UnixStream::connect(path).is_err());
        }
        gateway.assert_alive();
        drop((deaf, service));
        assert!(gateway.wait(Instant::now() + DRAIN_MAX).success());
    }
}

#[test]
fn health_and_metrics_can_be_read() {
    on_one_and_two_shards(|gateway| {
        assert_eq!(gateway.page("/healthz"), Some((200, "ok\n".to_owned())));
        assert_eq!(gateway.page("/nothing").map(|(status, _)| status), Some(404));
        let mut client = gateway.client(Via::WebSocket, 1);
        let room = client.join(7);
        let request = client.publish(room.alias, CHAT, b"counted");
        assert_eq!(client.reply(request).0, Code::Ok);
        let (status, text) = gateway.page("/metrics").expect("an answer");
        assert_eq!(status, 200);
        let mut described = Vec::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect("a name and what it means");
                assert!(!words.is_empty());
                described.push(name);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a name and a type");
                assert_eq!(described.last(), Some(&name));
                assert!(["gauge", "counter"].contains(&kind), "{line}");
                assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            } else {
                let (series, value) = line.split_once(' ').expect("a series and a value");
                let (name, label) = series.split_once('{').unwrap_or((series, ""));
                assert_eq!(described.last(), Some(&name));
                let core = ["core=\"0\"", "core=\"1\""].iter().any(|core| label.starts_with(core));
                let of_all = ["barrage_policy_", "barrage_clock_", "process_"];
                let of_all = of_all.iter().any(|prefix| name.starts_with(prefix));
                assert!(core || label.is_empty() && of_all, "{line}");
                // Only seconds are not whole.
                let seconds = name == "process_cpu_seconds_total";
                let number = value.parse::<f64>().is_ok_and(|value| value.is_finite());
                assert!(number && (seconds || value.parse::<i64>().is_ok()), "{line}");
            }
        }
        let connections = text.lines().filter(|line| line.starts_with("barrage_connections{"));
        assert_eq!(connections.count(), gateway.shards, "a series for each core");
        for (name, value) in [("connections", 1), ("clients", 1), ("memberships", 2)] {
            assert_eq!(gateway.metric(name), value, "{name}");
        }
        for (name, value) in [("published_total", 1), ("rooms_home", 1), ("accepted_total", 1)] {
            assert_eq!(gateway.metric(name), value, "{name}");
        }
        gateway.until_metric("deliveries_total", |deliveries| deliveries == 1);
        drop(client);
        gateway.until_metric("closed_total", |closed| closed == 1);
        gateway.until_metric("memberships", |memberships| memberships == 0);
    });
}

#[test]
fn a_request_that_is_not_finished_is_closed_and_keeps_nobody_out() {
    let gateway = Gateway::start("0", &[]);
    let unfinished: [&[u8]; 4] = [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: test\r\n",
        b"POST /policy/reload HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nno more",
        b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\nGET /healthz HTTP/1.1\r\n",
    ];
    // More of each than there may be at a time.
    let mut sockets: Vec<_> = (0..400)
        .map(|n| {
            let mut socket = Socket::tcp(gateway.http);
            // An earlier one may have been closed for it, this one by the answer.
            let _ = socket.try_write(unfinished[n % unfinished.len()]);
            socket
        })
        .collect();
    assert_eq!(gateway.page("/healthz"), Some((200, "ok\n".to_owned())));
    for socket in &mut sockets {
        socket.read_to_end(Instant::now() + 2 * SOON);
    }
    assert_eq!(gateway.page("/healthz"), Some((200, "ok\n".to_owned())));
}

#[test]
fn help_and_version_are_printed() {
    let (status, stdout, _) = run(&["--help"]);
    assert!(status.success());
    for flag in
        ["--config", "--cores", "--tcp", "--ws", "--upstream", "--http", "--data", "--policy"]
    {
        assert!(stdout.contains(flag), "{flag} is explained");
    }
    let (status, stdout, _) = run(&["--version"]);
    assert!(status.success());
    assert!(stdout.starts_with("barrage-gateway "), "{stdout}");
}

#[test]
fn what_cannot_be_configured_is_refused_with_a_reason() {
    let check = |options: &[&str], says: &[&str]| {
        let (status, stdout, stderr) = run(options);
        assert!(!status.success(), "{options:?}");
        assert!(!stdout.contains("ready"), "{options:?}");
        for text in says {
            assert!(stderr.contains(text), "{options:?} says {stderr:?} and not {text:?}");
        }
        assert!(!stderr.contains("panicked"), "{options:?}: {stderr}");
    };
    check(&["--tcpp", "127.0.0.1:1"], &["--tcpp", "'--tcp'"]);
    check(&["--tcp", "localhost"], &["--tcp", "localhost"]);
    check(&["--tcp", "0.0.0.0:0"], &["--tcp", "token key", "loopback"]);
    check(&["--ws", "[::]:7401"], &["--ws", "loopback"]);
    check(&["--upstream", "192.0.2.1:7402"], &["--upstream", "loopback"]);
    check(&["--http", "10.1.2.3:80"], &["--http", "loopback"]);
    check(&["--upstream", "unix:"], &["a path must follow"]);
    check(&["--upstream", "unix:/nowhere/at/all"], &["--upstream", "/nowhere/at/all"]);
    check(&["--cores", "4000"], &["--cores", "4000"]);
    check(&["--cores", "1-0"], &["ends before it starts"]);
    check(&["--cores", ""], &["--cores"]);
    check(&["--cores", "0,0"], &["--cores", "core 0 is named twice"]);
    check(&["--pace", "0"], &["--pace", "between"]);
    check(&["--connections", "0"], &["--connections", "between 1 and"]);
    check(&["--data", "/proc/barrage"], &["--data", "/proc/barrage"]);
    check(&["--policy", "/nowhere.toml"], &["/nowhere.toml", "No such file"]);
    check(&["--config", "/nowhere.toml"], &["/nowhere.toml", "No such file"]);
}

#[test]
fn a_bad_configuration_file_is_refused_with_its_place() {
    let path = free_path().with_extension("toml");
    let name = path.display().to_string();
    let check = |text: &str, says: &str| {
        std::fs::write(&path, text).expect("a temporary file");
        let (status, _, stderr) = run(&["--config", &name]);
        assert!(!status.success(), "{text:?}");
        assert!(stderr.contains(&name), "{stderr}");
        assert!(stderr.contains(says), "{text:?} says {stderr:?}");
    };
    check("tpc = \"127.0.0.1:1\"", "unknown field `tpc`");
    check("tcp = ", "line 1");
    check("tcp = 7400", "tcp");
    check("cores = \"x\"", "is not a core");
    check("connections = -1", "connections");
    std::fs::write(&path, [0xff, 0xfe]).expect("a temporary file");
    let (status, _, stderr) = run(&["--config", &name]);
    assert!(!status.success() && stderr.contains(&name), "{stderr}");

    // A good one is read, and flags win over it.
    let [tcp, ws, http, upstream] = free_addresses();
    let text = format!(
        "cores = \"0\"\ntcp = \"{tcp}\"\nws = \"{ws}\"\nhttp = \"{http}\"\n\
         upstream = \"{upstream}\"\nconnections = 1\n"
    );
    std::fs::write(&path, text).expect("a temporary file");
    let gateway = Gateway::start("0", &["--config", &name]);
    let _first = gateway.client(Via::Tcp, 1);
    let mut second = Client::connect(gateway.tcp, Via::Tcp);
    assert_eq!(second.hear_close().0, CloseReason::Full, "the file's limit counts");
    // It is of no use any more.
    let _ = std::fs::remove_file(&path);
}

#[test]
fn a_port_that_is_in_use_is_named() {
    let gateway = Gateway::start("0", &[]);
    let free: [_; 4] = free_addresses();
    let taken = [gateway.tcp, gateway.ws, gateway.upstream, gateway.http];
    let flags = ["--tcp", "--ws", "--upstream", "--http"];
    for (index, flag) in flags.into_iter().enumerate() {
        let addresses: [String; 4] = std::array::from_fn(|other| {
            let all = if other == index { &taken } else { &free };
            all[other].to_string()
        });
        let options: Vec<&str> =
            flags.iter().zip(&addresses).flat_map(|(flag, address)| [*flag, address]).collect();
        let (status, _, stderr) = run(&[&["--cores", "0"], &options[..]].concat());
        assert!(!status.success(), "{flag}");
        let says = format!("{flag} {}: cannot listen there", addresses[index]);
        assert!(stderr.contains(&says) && stderr.contains("in use"), "{flag}: {stderr}");
    }
    // The one that runs was not disturbed.
    assert!(gateway.client(Via::Tcp, 1).ping().is_empty());
    // A program that is not a gateway has the port as well.
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = other.local_addr().expect("it is bound").to_string();
    let options = ["--cores", "0", "--tcp", &taken, "--http", &free[3].to_string()];
    let (status, _, stderr) = run(&options);
    assert!(!status.success() && stderr.contains(&taken), "{stderr}");
}

/// A gateway that has just been told to end still answers there.
#[test]
fn each_port_is_waited_for_when_a_gateway_is_restarted() {
    let flags = ["--tcp", "--ws", "--upstream", "--http"];
    for taken in 0..flags.len() {
        let addresses: [_; 4] = free_addresses();
        let listener = TcpListener::bind(addresses[taken]).expect("it was free");
        let mut command = Command::new(PROGRAM);
        command.args(["--cores", "0"]).stdin(Stdio::null());
        for (flag, address) in flags.iter().zip(&addresses) {
            command.args([*flag, &address.to_string()]);
        }
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("the program was built");
        let log = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut log = log.lines().map(|line| line.expect("text"));
        let says = format!("{} is in use: waiting", addresses[taken]);
        let waits = log.any(|line| line.contains(&says));
        drop(listener);
        let mut ready = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut ready).expect("text");
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
        assert!(waits, "{} is not waited for", flags[taken]);
        assert_eq!(ready, "ready\n", "{}", flags[taken]);
    }
}

#[test]
fn a_unix_socket_in_use_is_refused_and_a_stale_one_is_replaced() {
    let gateway = Gateway::start_with_unix("0");
    let path = gateway.upstream_unix.clone().expect("a path");
    let option = format!("unix:{}", path.display());
    let [tcp, ws, http] = free_addresses().map(|address: std::net::SocketAddr| address.to_string());
    let options =
        ["--cores", "0", "--tcp", &tcp, "--ws", &ws, "--http", &http, "--upstream", &option];
    let (status, _, stderr) = run(&options);
    assert!(!status.success() && stderr.contains(&option), "{stderr}");
    drop(gateway.upstream());
    drop(gateway);
    // The gateway was killed, so its file is still there.
    let stale = free_path();
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("a path"));
    let gateway = Gateway::start_with_unix_at("0", stale);
    assert!(gateway.upstream().ping().is_empty());
}

#[test]
fn a_connection_too_many_is_told_so_and_takes_nothing_from_the_others() {
    const MAX: usize = 10;
    let gateway = Gateway::start("0", &["--connections", "10"]);
    let mut clients: Vec<_> = (0..MAX).map(|n| gateway.client(Via::BOTH[n % 2], 1)).collect();
    for _ in 0..20 {
        let mut refused = Client::connect(gateway.tcp, Via::Tcp);
        assert_eq!(refused.hear_close().0, CloseReason::Full);
    }
    assert_eq!(gateway.metric("refused_full_total"), 20);
    for client in &mut clients {
        assert!(client.ping().is_empty());
    }
    gateway.until_metric("connections", |connections| connections == MAX as u64);
    clients.pop();
    gateway.until_metric("connections", |connections| connections < MAX as u64);
    assert!(gateway.client(Via::Tcp, 1).ping().is_empty(), "there is place again");
}

#[test]
fn clients_do_not_keep_services_out_nor_services_clients() {
    for cores in ["0", "0-1"] {
        let gateway = Gateway::start(cores, &["--connections", "64"]);
        let silent: Vec<_> = (0..70).map(|_| Socket::tcp(gateway.tcp)).collect();
        gateway.until_metric("refused_full_total", |refused| refused >= 6);
        let mut services: Vec<_> = (0..100).map(|_| gateway.upstream()).collect();
        assert!(services.iter_mut().all(|service| service.ping().is_empty()));
        drop(silent);
        gateway.until_metric("connections", |connections| connections == 100);
        let _clients: Vec<_> = (0..20).map(|user| gateway.client(Via::Tcp, 1 + user)).collect();
    }
}

/// Whoever is refused is there until it was told; when too many are, they are not even told.
#[test]
fn a_flood_of_clients_does_not_keep_services_out() {
    barrage_sys::raise_open_files_limit();
    let gateway = Gateway::start("0", &["--connections", "64"]);
    let flood: Vec<_> = (0..4000).map(|_| Socket::tcp(gateway.tcp)).collect();
    assert!(gateway.upstream().ping().is_empty());
    drop(flood);
}

#[test]
fn a_websocket_too_many_is_told_so_in_http() {
    let gateway = Gateway::start("0", &["--connections", "1"]);
    let _first = gateway.client(Via::Tcp, 1);
    let mut socket = Socket::tcp(gateway.ws);
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    // It may be refused before it has asked.
    let _ = socket.try_write(request);
    let answer = socket.read_to_end(Instant::now() + SOON);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer:?}");
}
