use super::*;
use crate::doctor::facts::Interface;

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A machine on which all is well.
fn good() -> Facts {
    Facts {
        open_files_soft: 1024,
        open_files_hard: 1_048_576,
        nr_open: Some(1_048_576),
        file_max: Some(10_000_000),
        files_open: Some(1000),
        ports: Some((1024, 65_535)),
        tw_reuse: Some(1),
        somaxconn: Some(65_535),
        syn_backlog: Some(65_535),
        netdev_backlog: Some(65_536),
        tcp_mem_pages: Some([1_000_000, 2_000_000, 4_000_000]),
        tcp_rmem: Some([4096, 131_072, 6_291_456]),
        tcp_wmem: Some([4096, 16_384, 4_194_304]),
        page_bytes: 4096,
        locked_bytes: None,
        is_root: false,
        available_bytes: Some(64 << 30),
        governors: strings(&["performance"]),
        cores: vec![0, 1, 2, 3],
        siblings: strings(&["0,2", "1,3"]),
        load: Some(0.1),
        busy_cores: Some(0.05),
        steal_percent: Some(0.0),
        clocksource: Some("tsc".to_owned()),
        may_be_prompt: true,
        ring_trouble: None,
        io_uring_disabled: Some(0),
        kernel: "6.12.1".to_owned(),
        huge_pages: Some("madvise".to_owned()),
        conntrack: Some((0, 262_144)),
        mitigations: Vec::new(),
        interfaces: vec![Interface {
            name: "eth0".to_owned(),
            driver: Some("mlx5_core".to_owned()),
            mbit_per_s: Some(25_000),
            receive_queues: 8,
            send_queues: 8,
        }],
    }
}

fn aim(target: &str) -> Aim {
    Aim { clients: 1_000_000, target: target.parse().unwrap(), sources: Vec::new() }
}

/// A million clients at a target here, with one thing changed.
fn check(change: impl Fn(&mut Facts), what: &str, level: Level, mend: &str) {
    check_at(aim("127.0.0.1:7000"), change, what, level, mend);
}

fn check_at(aim: Aim, change: impl Fn(&mut Facts), what: &str, level: Level, mend: &str) {
    let mut facts = good();
    change(&mut facts);
    let findings = judge(&facts, &aim);
    for finding in &findings {
        let expected = if finding.what == what { level } else { Level::Ok };
        assert_eq!(finding.level, expected, "{finding:?}");
        let mends = finding.command.is_some() || finding.advice.is_some();
        assert_eq!(mends, finding.level > Level::Ok, "what is wrong can be mended: {finding:?}");
    }
    let found = findings.iter().find(|finding| finding.what == what).expect("it is looked at");
    let told = [&found.command, &found.advice].map(|text| text.clone().unwrap_or_default());
    assert!(told.concat().contains(mend), "{found:?}");
}

#[test]
fn nothing_is_wrong_with_a_good_machine() {
    check(|_| {}, "io_uring", Level::Ok, "");
    let away = Aim { clients: 10_000, ..aim("192.0.2.1:7000") };
    check_at(away, |_| {}, "interface", Level::Ok, "");
}

#[test]
fn limits_of_the_process() {
    let uring = "io_uring";
    check(|facts| facts.ring_trouble = Some("too old".to_owned()), uring, Level::Bad, "6.1");
    let disabled = |facts: &mut Facts| {
        facts.ring_trouble = Some("not permitted".to_owned());
        facts.io_uring_disabled = Some(2);
    };
    check(disabled, uring, Level::Bad, "sysctl -w kernel.io_uring_disabled=0");
    check(|facts| facts.open_files_hard = 20_000, "open files", Level::Ok, "");
    check(|facts| facts.open_files_hard = 4096, "open files", Level::Warn, "ulimit -Hn 1048576");
    check(|facts| facts.open_files_hard = 64, "open files", Level::Bad, "ulimit");
    check(|facts| facts.locked_bytes = Some(64 << 10), "locked memory", Level::Warn, "ulimit -l");
    let superuser = |facts: &mut Facts| {
        facts.locked_bytes = Some(64 << 10);
        facts.is_root = true;
    };
    check(superuser, "locked memory", Level::Ok, "");
}

#[test]
fn limits_of_the_machine() {
    let files = "files of the system";
    check(|facts| facts.file_max = Some(1_500_000), files, Level::Bad, "fs.file-max=4002000");
    let superuser = |facts: &mut Facts| {
        facts.file_max = Some(1_500_000);
        facts.is_root = true;
    };
    check(superuser, files, Level::Warn, "fs.file-max");
    check(|facts| facts.available_bytes = Some(8 << 30), "memory", Level::Bad, "at most 958");
    check(|facts| facts.available_bytes = Some(10 << 30), "memory", Level::Warn, "fewer");
}

#[test]
fn ports_and_addresses_must_do_for_all() {
    let ports = "ports and addresses";
    let away = aim("192.0.2.1:7000");
    let few = |facts: &mut Facts| facts.ports = Some((32_768, 60_999));
    check_at(away.clone(), few, ports, Level::Bad, "ip_local_port_range");
    check_at(away.clone(), |_| {}, ports, Level::Bad, "ip addr add");
    let sources = (0..50).map(|k| std::net::Ipv4Addr::new(10, 0, 0, k).into()).collect();
    check_at(Aim { sources, ..away }, |_| {}, ports, Level::Ok, "");
}

#[test]
fn the_network() {
    let ended = "ports of ended connections";
    check(|facts| facts.tw_reuse = Some(2), ended, Level::Ok, "");
    check(|facts| facts.tw_reuse = Some(0), ended, Level::Warn, "tcp_tw_reuse=1");
    let away = Aim { clients: 10_000, ..aim("192.0.2.1:7000") };
    check_at(away.clone(), |facts| facts.tw_reuse = Some(2), ended, Level::Warn, "=1");
    check(|facts| facts.somaxconn = Some(128), "listening queues", Level::Warn, "somaxconn");
    check(|facts| facts.netdev_backlog = Some(1000), "packets that wait", Level::Warn, "=65536");
    let tcp = "memory of TCP";
    check(|facts| facts.tcp_mem_pages = Some([1, 300_000, 600_000]), tcp, Level::Warn, "tcp_mem");
    check(|facts| facts.tcp_mem_pages = Some([1, 2, 300_000]), tcp, Level::Bad, "tcp_mem='625000");
    check(|facts| facts.tcp_wmem = Some([1, 2, 65_536]), "socket buffers", Level::Warn, "wmem");
    let tracking = "connection tracking";
    check(|facts| facts.conntrack = Some((5, 65_536)), tracking, Level::Bad, "conntrack_max=200");
    let slow = |facts: &mut Facts| facts.interfaces[0].mbit_per_s = Some(100);
    check_at(away.clone(), slow, "interface", Level::Warn, "faster");
    let narrow = |facts: &mut Facts| facts.interfaces[0].receive_queues = 1;
    check_at(away, narrow, "interface", Level::Warn, "ethtool -L eth0 combined 4");
    check(narrow, "interface", Level::Ok, "");
}

#[test]
fn the_processors() {
    check(|facts| facts.cores = vec![0], "cores", Level::Bad, "another machine");
    let one_core = |facts: &mut Facts| {
        facts.cores = vec![0, 1];
        facts.siblings = strings(&["0-1"]);
    };
    check(one_core, "cores", Level::Warn, "multithreading");
    let slow = |facts: &mut Facts| facts.governors = strings(&["performance", "powersave"]);
    check(slow, "frequency", Level::Warn, "echo performance");
    check(|facts| facts.governors.clear(), "frequency", Level::Ok, "");
    check(|facts| facts.busy_cores = Some(0.3), "other load", Level::Warn, "top");
    check(|facts| facts.busy_cores = Some(1.5), "other load", Level::Bad, "top");
    check(|facts| facts.steal_percent = Some(3.0), "stolen time", Level::Warn, "cores of its own");
    check(|facts| facts.steal_percent = Some(30.0), "stolen time", Level::Bad, "of its own");
    check(|facts| facts.clocksource = Some("hpet".to_owned()), "clock", Level::Bad, "echo tsc");
    check(|facts| facts.may_be_prompt = false, "scheduling", Level::Warn, "cap_sys_nice");
    let always = |facts: &mut Facts| facts.huge_pages = Some("always".to_owned());
    check(always, "huge pages", Level::Warn, "echo madvise");
}
