//! What the network's facts mean. Pure.

use super::facts::{Facts, Interface};
use super::judge::{Aim, Finding};

/// A listener's queue that takes a storm of connects: the kernel's default since 5.4.
const SOMAXCONN_MIN: u64 = 4096;
/// Packets that may wait for a core, with many clients.
const NETDEV_BACKLOG_MIN: u64 = 10_000;
/// So many clients are many.
const CLIENTS_MANY: u32 = 10_000;
/// What one small message takes in a socket's queue, with the kernel's own part.
const QUEUED_BYTES: u64 = 1280;
/// Least that a socket may keep for the other side: the publisher's would stall below.
const WMEM_MOST_MIN: u64 = 256 * 1024;
/// Slower interfaces are the limit of every campaign.
const MBIT_MIN: u64 = 1000;

/// Appends what was found.
pub fn judge(facts: &Facts, aim: &Aim, findings: &mut Vec<Finding>) {
    findings.extend(reuse(facts, aim));
    findings.extend(listeners(facts, aim));
    findings.extend(backlog(facts, aim));
    findings.extend(tcp_memory(facts, aim));
    findings.extend(buffers(facts));
    findings.extend(conntrack(facts, aim));
    if aim.is_local() {
        let says = "the target is on loopback: no interface takes part, and every packet costs \
                    this machine's own processor time";
        findings.push(Finding::ok("interface", says));
    } else {
        findings.extend(facts.interfaces.iter().map(|one| interface(one, facts.cores.len())));
    }
}

fn reuse(facts: &Facts, aim: &Aim) -> Option<Finding> {
    let what = "ports of ended connections";
    let mode = facts.tw_reuse?;
    let says = format!("net.ipv4.tcp_tw_reuse is {mode}");
    let enough = mode == 1 || (mode == 2 && aim.is_local());
    Some(if enough {
        Finding::ok(what, format!("{says}: they can be used again at once"))
    } else {
        Finding::warn(
            what,
            format!("{says}: who comes back again and again runs out of ports for a minute"),
        )
        .mend("sysctl -w net.ipv4.tcp_tw_reuse=1")
    })
}

fn listeners(facts: &Facts, aim: &Aim) -> Option<Finding> {
    let what = "listening queues";
    if !aim.is_local() {
        let says = "the target's machine has them: look at its somaxconn, too";
        return Some(Finding::ok(what, says));
    }
    let (accepts, handshakes) = (facts.somaxconn?, facts.syn_backlog?);
    let says =
        format!("net.core.somaxconn is {accepts}, net.ipv4.tcp_max_syn_backlog {handshakes}");
    Some(if accepts.min(handshakes) >= SOMAXCONN_MIN {
        Finding::ok(what, says)
    } else {
        Finding::warn(
            what,
            format!("{says}: when all connect at once, some are tried again a second later"),
        )
        .mend("sysctl -w net.core.somaxconn=65535 && sysctl -w net.ipv4.tcp_max_syn_backlog=65535")
    })
}

fn backlog(facts: &Facts, aim: &Aim) -> Option<Finding> {
    let what = "packets that wait";
    let most = facts.netdev_backlog?;
    let says = format!("net.core.netdev_max_backlog is {most}");
    Some(if most >= NETDEV_BACKLOG_MIN || aim.clients < CLIENTS_MANY {
        Finding::ok(what, says)
    } else {
        Finding::warn(
            what,
            format!("{says}: a burst to many clients loses packets, and they come 200 ms later"),
        )
        .mend("sysctl -w net.core.netdev_max_backlog=65536")
    })
}

fn tcp_memory(facts: &Facts, aim: &Aim) -> Option<Finding> {
    let what = "memory of TCP";
    let [_, pressure, most] = facts.tcp_mem_pages?;
    let needed = u64::from(aim.clients) * QUEUED_BYTES / facts.page_bytes.max(1);
    let says = format!(
        "net.ipv4.tcp_mem is under pressure at {pressure} pages and full at {most}; one unread \
         message at each client takes {needed}"
    );
    let mend = || {
        let [low, middle, high] = [2, 3, 4].map(|times| needed * times);
        format!("sysctl -w net.ipv4.tcp_mem='{low} {middle} {high}'")
    };
    Some(if needed >= most {
        Finding::bad(what, says).mend(mend())
    } else if needed >= pressure {
        Finding::warn(what, says).mend(mend())
    } else {
        Finding::ok(what, says)
    })
}

fn buffers(facts: &Facts) -> Option<Finding> {
    let what = "socket buffers";
    let ([_, receive, _], [_, _, send_most]) = (facts.tcp_rmem?, facts.tcp_wmem?);
    let says = format!(
        "a socket begins with {} KiB to receive into, and keeps up to {} KiB to be sent",
        receive >> 10,
        send_most >> 10
    );
    Some(if send_most >= WMEM_MOST_MIN {
        Finding::ok(what, says)
    } else {
        Finding::warn(what, format!("{says}: the publisher would wait for the target"))
            .mend("sysctl -w net.ipv4.tcp_wmem='4096 16384 4194304'")
    })
}

fn conntrack(facts: &Facts, aim: &Aim) -> Option<Finding> {
    let what = "connection tracking";
    let (tracked, most) = facts.conntrack?;
    let needed = tracked + u64::from(aim.clients);
    let says = format!("{tracked} of {most} connections are tracked");
    Some(if needed <= most {
        Finding::ok(what, says)
    } else if tracked == 0 {
        let says = format!("{says}: nothing is, as it seems; else {needed} would be too many");
        Finding::ok(what, says)
    } else {
        Finding::bad(what, format!("{says}: packets of the others are thrown away"))
            .mend(format!("sysctl -w net.netfilter.nf_conntrack_max={}", needed * 2))
    })
}

fn interface(one: &Interface, cores: usize) -> Finding {
    let what = "interface";
    let Interface { name, driver, mbit_per_s, receive_queues, send_queues } = one;
    let speed = mbit_per_s.map_or("unknown speed".to_owned(), |mbit| format!("{mbit} Mbit/s"));
    let driver = driver.as_deref().unwrap_or("virtual");
    let says = format!(
        "{name}: {driver}, {speed}, {receive_queues} queues in and {send_queues} out; \
         `ethtool -k {name}` tells its offloads"
    );
    if mbit_per_s.is_some_and(|mbit| mbit < MBIT_MIN) {
        return Finding::warn(what, format!("{says}; it will be the limit"))
            .advise("use a faster interface");
    }
    if *receive_queues == 1 && cores > 1 {
        return Finding::warn(what, format!("{says}; one core takes in everything"))
            .mend(format!("ethtool -L {name} combined {cores}"));
    }
    Finding::ok(what, says)
}
