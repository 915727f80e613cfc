use super::*;
use crate::agent::lead::{Remote, spawn};
use crate::calibrate::course;
use crate::calibrate::sink::{Play, Sink};
use crate::clock::now_ns;
use crate::orders::{Order, Report, What};
use crate::record::Counts;
use crate::scenario::Scenario;
use crate::scenario::file;
use crate::scenario::file::Loaded;
use crate::worker::Job;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

fn args(listen: &str, token: Option<&str>) -> AgentArgs {
    let (listen, token) = (listen.parse().unwrap(), token.map(str::to_owned));
    AgentArgs { listen, token, once: true, cores: None, source: None, name: None }
}

#[test]
fn cores_are_lists_and_ranges() {
    assert_eq!(parse_cores("2, 0-1,1"), Ok(Cores(vec![0, 1, 2])));
    for bad in ["", "x", "1-", "3-2", "99999", "0-99999"] {
        assert!(parse_cores(bad).is_err(), "{bad}");
    }
}

/// An agent that waits for leaders, until the flag is set.
fn waiting(token: &str) -> (String, Arc<AtomicBool>, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = Arc::new(AtomicBool::new(false));
    let args = AgentArgs { once: false, ..args(&address, Some(token)) };
    let agent = Arc::new(prepare(&args, Arc::clone(&stop)).unwrap());
    (address, stop, std::thread::spawn(move || wait(&agent, &listener)))
}

#[test]
fn one_leader_at_a_time_and_the_next_when_it_has_gone() {
    let (address, stop, agent) = waiting("sesame");
    let first = Remote::connect(&address, "sesame").unwrap();
    assert!(first.cores() > 0 && !first.name().is_empty());
    let clock = first.clock();
    let error_ns = clock.offset_ns.unsigned_abs();
    assert!(error_ns <= clock.error_ns, "the same clock on both sides: {clock:?}");
    let turned_away = |error: anyhow::Error| {
        let error = format!("{error:#}");
        assert!(error.contains("another campaign"), "{error}");
    };
    turned_away(Remote::connect(&address, "sesame").err().expect("one at a time"));
    drop(first);
    // The agent needs a moment to see that the first has gone.
    while let Err(error) = Remote::connect(&address, "sesame") {
        turned_away(error);
    }
    let other = Remote::connect(&address, "open").err().expect("the token is another");
    drop(other);
    stop.store(true, Ordering::Relaxed);
    agent.join().unwrap();
}

/// An agent that is led by the test, to do what a text says.
fn led(remote: Remote, text: &str) -> Result<(Sender<Order>, Receiver<Report>, JoinHandle<()>)> {
    let scenario = Arc::new(course::scenario("127.0.0.1:1".parse().unwrap(), 1));
    let (text, origin) = (text.to_owned(), "test".to_owned());
    let loaded = Loaded { scenario: Scenario::clone(&scenario), text, origin, settings: vec![] };
    let (worker, source, count) = (3, "box".to_owned(), 1);
    let job = Job { scenario, worker, source, first: 0, count, core: None, clock_offset_ns: 0 };
    let ((orders, ordered), (reports, reported)) = (channel(), channel());
    Ok((orders, reported, spawn(remote, &loaded, job, ordered, reports)?))
}

fn broken(reports: &Receiver<Report>) -> String {
    match reports.recv_timeout(Duration::from_secs(30)).unwrap() {
        Report { worker: 3, what: What::Broken(why) } => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_agent_cannot_do_the_leader_hears() {
    let (address, stop, agent) = waiting("sesame");
    let remote = Remote::connect(&address, "sesame").unwrap();
    let error = led(remote, "this is no scenario").expect_err("it cannot be done");
    let why = format!("{error:#}");
    assert!(why.contains(&address) && why.contains("scenario cannot be read"), "{why}");
    stop.store(true, Ordering::Relaxed);
    agent.join().unwrap();
}

/// A scenario of one client, at an address where nobody listens.
fn at_nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    format!(
        "name = \"one\"\n[target]\ntcp = \"{address}\"\n[clients]\ncount = 1\n\
         [[phases]]\nname = \"connect\"\nkind = \"ramp\"\n"
    )
}

#[test]
fn an_agent_that_cannot_reach_the_target_says_so_before_it_begins() {
    let (address, stop, agent) = waiting("sesame");
    let remote = Remote::connect(&address, "sesame").unwrap();
    let error = led(remote, &at_nobody()).expect_err("nobody is there");
    assert_eq!(Exit::of_error(&error), Exit::TargetLost, "{error:#}");
    stop.store(true, Ordering::Relaxed);
    agent.join().unwrap();
}

#[test]
fn an_agent_without_the_addresses_it_is_to_use_says_so_before_it_begins() {
    let (address, stop, agent) = waiting("sesame");
    let text = at_nobody().replace("count = 1", "count = 1\nsource = \"192.0.2.77\"");
    let remote = Remote::connect(&address, "sesame").unwrap();
    let error = led(remote, &text).expect_err("that address is nobody's");
    assert!(format!("{error:#}").contains("192.0.2.77"), "{error:#}");
    assert_eq!(Exit::of_error(&error), Exit::Usage, "{error:#}");
    stop.store(true, Ordering::Relaxed);
    agent.join().unwrap();
}

#[test]
fn machines_with_the_same_name_are_told_apart_by_their_addresses() {
    let name = |address: &str| default_name(address.parse().unwrap());
    assert_ne!(name("10.0.0.1:7600"), name("10.0.0.2:7600"));
    assert_ne!(name("127.0.0.1:7600"), name("127.0.0.1:7601"));
    assert_eq!(name("[::ffff:10.0.0.1]:7600"), name("10.0.0.1:7600"));
    for address in ["127.0.0.1:1", "0.0.0.0:1", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"] {
        assert!(greet::check_name(&name(address)).is_ok(), "{}", name(address));
    }
}

#[test]
fn an_agent_that_dies_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let dying = std::thread::spawn(move || {
        let (mut reader, writer) = link::open(listener.accept().unwrap().0).unwrap();
        let nonce = greet::nonce().unwrap();
        let (version, name) = (words::VERSION, "dying".to_owned());
        let hello = words::Hello { version, name, cores: 1, nonce };
        greet::admit(&mut reader, &writer, &hello, "t").unwrap();
        loop {
            match reader.hear().unwrap() {
                Some(words::Word::Ping { sent_ns }) => {
                    let (heard_ns, answered_ns) = (1, 2);
                    let pong = words::Word::Pong { sent_ns, heard_ns, answered_ns };
                    writer.say(&pong).unwrap();
                }
                Some(words::Word::Begin(_)) => return writer.say(&words::Word::Begun).unwrap(),
                Some(other) => panic!("{other:?}"),
                None => {}
            }
        }
    });
    let (_orders, reports, thread) = led(Remote::connect(&address, "t").unwrap(), "").unwrap();
    let why = broken(&reports);
    assert!(why.contains(&address) && why.contains("closed"), "{why}");
    thread.join().unwrap();
    dying.join().unwrap();
}

#[test]
fn only_loopback_does_without_a_token() {
    let prepared = |listen: &str, token: Option<&str>| {
        prepare(&args(listen, token), Arc::default()).map(|agent| agent.token)
    };
    assert_eq!(prepared("127.0.0.1:1", None).unwrap(), "");
    assert_eq!(prepared("0.0.0.0:1", Some("long")).unwrap(), "long");
    assert!(prepared("0.0.0.0:1", None).unwrap_err().to_string().contains("--token"));
    assert!(prepared("[::]:1", Some("")).unwrap_err().to_string().contains("--token"));
}

/// A scenario of ten clients at a sink.
fn at_sink(sink: &Sink) -> Loaded {
    let text = format!(
        r#"name = "ten"
[target]
tcp = "{}"
[clients]
count = 10
[[phases]]
name = "connect"
kind = "ramp"
[[phases]]
name = "steady"
secs = 1
"#,
        sink.address
    );
    file::parse(&text, "test", &[]).unwrap()
}

/// What an agent is told and says, with all ten clients connected.
fn ramped(address: &str, loaded: &Loaded) -> (Sender<Order>, Receiver<Report>, JoinHandle<()>) {
    let remote = Remote::connect(address, "sesame").unwrap();
    let scenario = Arc::new(loaded.scenario.clone());
    let (source, count) = ("box".to_owned(), 10);
    let job = Job { scenario, worker: 0, source, first: 0, count, core: None, clock_offset_ns: 0 };
    let ((orders, ordered), (reports, reported)) = (channel(), channel());
    let thread = spawn(remote, loaded, job, ordered, reports).unwrap();
    orders.send(Order::Connect { clients: 10, per_s: 0.0 }).unwrap();
    loop {
        match reported.recv_timeout(Duration::from_secs(30)).unwrap().what {
            What::Ramped => return (orders, reported, thread),
            What::Interval(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_agent_works_as_a_worker_does() {
    let sink = Sink::start(10, None).unwrap();
    let loaded = at_sink(&sink);
    let (address, stop, agent) = waiting("sesame");
    let (orders, reports, thread) = ramped(&address, &loaded);
    // As a leader does: the order is there before the first message is due.
    let from_ns = now_ns() + SECOND_NS / 2;
    let to_ns = from_ns + SECOND_NS / 5;
    orders.send(Order::Phase { index: 1, from_ns, to_ns }).unwrap();
    sink.play(Play { per_s: 500.0, batch: 1, size: 64, from_ns, to_ns }).unwrap();
    let played = sink.played(Duration::from_secs(10)).unwrap();
    let (last_seqs, until_ns) = (vec![played.last_seq], now_ns() + 10 * SECOND_NS);
    orders.send(Order::Drain { last_seqs, until_ns }).unwrap();
    let (mut counts, mut timed) = (Counts::default(), 0);
    let books = loop {
        match reports.recv_timeout(Duration::from_secs(30)).unwrap().what {
            What::Interval(interval) => {
                assert!(interval.source.starts_with("box-worker-"), "{interval:?}");
                counts.add(&interval.counts);
                timed += interval.timings.corrected.len();
            }
            What::Finished(books) => break books,
            other => panic!("{other:?}"),
        }
    };
    let expected = played.sent * 10;
    assert_eq!((counts.delivered, timed), (expected, expected));
    let told = books.counts;
    assert_eq!((told.connected, told.delivered, told.unexplained), (10, expected, 0));
    thread.join().unwrap();
    stop.store(true, Ordering::Relaxed);
    agent.join().unwrap();
    sink.end().unwrap();
}

#[test]
fn clients_end_with_their_leader_and_the_next_finds_the_agent_ready() {
    let sink = Sink::start(10, None).unwrap();
    let loaded = at_sink(&sink);
    let (address, stop, agent) = waiting("sesame");
    let (orders, _reports, thread) = ramped(&address, &loaded);
    drop(orders);
    thread.join().unwrap();
    while let Err(error) = Remote::connect(&address, "sesame") {
        let error = format!("{error:#}");
        assert!(error.contains("another campaign"), "{error}");
    }
    stop.store(true, Ordering::Relaxed);
    agent.join().unwrap();
    sink.end().unwrap();
}
