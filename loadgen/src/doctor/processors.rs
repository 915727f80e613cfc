//! What the processors' facts mean. Pure.

use super::facts::Facts;
use super::judge::{Aim, Finding};

/// What else may run, in cores, without and with a warning.
const OTHERS_OK: f64 = 0.10;
const OTHERS_WARN: f64 = 0.50;
/// What the host may take, in percent.
const STEAL_OK: f64 = 1.0;
const STEAL_WARN: f64 = 5.0;
/// Sources of time that are read without leaving the program.
const CLOCKS_FAST: [&str; 5] =
    ["tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "riscv_clocksource"];

/// Appends what was found.
pub fn judge(facts: &Facts, aim: &Aim, findings: &mut Vec<Finding>) {
    findings.push(cores(facts, aim));
    findings.push(governor(facts));
    findings.extend(others(facts));
    findings.extend(steal(facts));
    findings.extend(clock(facts));
    findings.push(scheduling(facts));
    findings.extend(huge_pages(facts));
    findings.push(mitigations(facts));
}

fn cores(facts: &Facts, aim: &Aim) -> Finding {
    let what = "cores";
    let count = facts.cores.len();
    let says = format!("{count} for this process");
    if !aim.is_local() {
        return Finding::ok(what, format!("{says}: one worker on each"));
    }
    let together = facts.siblings.iter().any(|list| spans(list, facts.cores.len()));
    if count < 2 {
        Finding::bad(what, format!("{says}: the target and the generator share it"))
            .advise("take another machine for the generator")
    } else if together {
        Finding::warn(
            what,
            format!("{says}, and they are one in hardware: the target and the generator share it"),
        )
        .advise("turn off simultaneous multithreading, or take another machine for the generator")
    } else {
        Finding::ok(
            what,
            format!("{says}: keep the target off the highest, which the generator takes"),
        )
    }
}

/// Whether a list of sibling threads, such as `0-1` or `0,4`, has all of so many cores.
fn spans(list: &str, cores: usize) -> bool {
    let counted = list.split(',').map(|item| match item.split_once('-') {
        Some((first, last)) => {
            let bounds = first.parse::<usize>().ok().zip(last.parse::<usize>().ok());
            bounds.map_or(1, |(first, last)| last.saturating_sub(first) + 1)
        }
        None => 1,
    });
    counted.sum::<usize>() >= cores
}

fn governor(facts: &Facts) -> Finding {
    let what = "frequency";
    let slow: Vec<&str> =
        facts.governors.iter().map(String::as_str).filter(|name| *name != "performance").collect();
    if facts.governors.is_empty() {
        Finding::ok(what, "the machine or its host decides; there is nothing to set")
    } else if slow.is_empty() {
        Finding::ok(what, "the governor is performance")
    } else {
        Finding::warn(
            what,
            format!("the governor is {}: what is seldom busy gets slower", slow.join(", ")),
        )
        .mend(
            "echo performance | tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor \
             >/dev/null",
        )
    }
}

fn others(facts: &Facts) -> Option<Finding> {
    let what = "other load";
    let busy = facts.busy_cores?;
    let load = facts.load.map_or(String::new(), |load| format!(", load average {load:.2}"));
    let says = format!("{busy:.2} cores were busy a moment ago{load}");
    let advice = "see `top`, and end what is not part of the campaign";
    Some(if busy <= OTHERS_OK {
        Finding::ok(what, says)
    } else if busy <= OTHERS_WARN {
        Finding::warn(what, says).advise(advice)
    } else {
        Finding::bad(what, format!("{says}: it is in every figure")).advise(advice)
    })
}

fn steal(facts: &Facts) -> Option<Finding> {
    let what = "stolen time";
    let percent = facts.steal_percent?;
    let says = format!("the host took {percent:.1} % of the processors' time");
    let advice = "take a machine of one's own, or one with cores of its own";
    Some(if percent <= STEAL_OK {
        Finding::ok(what, says)
    } else if percent <= STEAL_WARN {
        Finding::warn(what, says).advise(advice)
    } else {
        Finding::bad(what, format!("{says}: latencies are the host's")).advise(advice)
    })
}

fn clock(facts: &Facts) -> Option<Finding> {
    let what = "clock";
    let source = facts.clocksource.as_deref()?;
    Some(if CLOCKS_FAST.contains(&source) {
        Finding::ok(what, format!("{source}: read without the kernel's help"))
    } else {
        Finding::bad(
            what,
            format!("{source}: every look at the time costs a microsecond, at each delivery"),
        )
        .mend("echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource")
    })
}

fn scheduling(facts: &Facts) -> Finding {
    let what = "scheduling";
    if facts.may_be_prompt {
        return Finding::ok(what, "the publisher may go before ordinary threads (SCHED_FIFO)");
    }
    Finding::warn(
        what,
        "the publisher waits for its turn like everybody else: on a busy machine it is late, and \
         the run invalid",
    )
    .mend("setcap cap_sys_nice+ep \"$(command -v barrage-loadgen)\"")
}

fn huge_pages(facts: &Facts) -> Option<Finding> {
    let what = "huge pages";
    let mode = facts.huge_pages.as_deref()?;
    Some(if mode == "always" {
        Finding::warn(
            what,
            "always: memory per client looks larger than it is, and the kernel stops programs to \
             make them",
        )
        .mend("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
    } else {
        Finding::ok(what, mode)
    })
}

fn mitigations(facts: &Facts) -> Finding {
    let says = if facts.mitigations.is_empty() {
        "none are in force".to_owned()
    } else {
        format!(
            "{}: part of what every system call costs; compare only machines that have the same",
            facts.mitigations.join(", ")
        )
    };
    Finding::ok("mitigations", says)
}
