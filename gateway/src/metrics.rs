//! What a shard counts. Plain numbers of its own; the control thread asks for copies and adds up.

use std::fmt::Write;

use barrage_store::Keeper;

macro_rules! metrics {
    ($($kind:ident $name:ident: $help:literal,)*) => {
        /// One shard's numbers at one moment.
        #[derive(Clone, Debug, Default)]
        pub struct Metrics {
            $(#[doc = $help] pub $name: u64,)*
            /// What became of publishes to rooms, by category.
            pub categories: Vec<CategoryCounts>,
        }

        /// Writes all shards' numbers in Prometheus' text format, one series per core.
        pub fn render(shards: &[(usize, Metrics)], name_of: impl Fn(u16) -> String) -> String {
            let mut text = String::new();
            $(
                let name = concat!("barrage_", stringify!($name));
                // Writing to a String does not fail.
                let _ = writeln!(text, "# HELP {name} {}", $help);
                let _ = writeln!(text, "# TYPE {name} {}", stringify!($kind));
                for (core, shard) in shards {
                    let _ = writeln!(text, "{name}{{core=\"{core}\"}} {}", shard.$name);
                }
            )*
            render_categories(shards, name_of, &mut text);
            text
        }
    };
}

/// What became of publishes to rooms in one category.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CategoryCounts {
    /// Sent on their own.
    pub admitted: u64,
    /// Made part of a message that goes out later.
    pub merged: u64,
    /// Refused: a limit, a quota or the egress budget was reached.
    pub limited: u64,
}

/// Writes what the control thread knows itself.
pub fn render_plane(reloads: u64, failures: u64, history: Option<&Keeper>, text: &mut String) {
    let mut series = vec![
        ("counter", "policy_reloads_total", "Times that the policy was replaced", reloads),
        ("counter", "policy_refused_total", "Policy files that had problems", failures),
    ];
    if let Some(stats) = history.map(Keeper::stats) {
        let (damaged, lost) = stats.damage.map_or((0, 0), |damage| (1, damage.records));
        series.extend([
            ("gauge", "history_queued", "Commands that wait for the disk", stats.queued as u64),
            ("gauge", "history_records", "Messages that the history holds", stats.kept_records),
            ("gauge", "history_bytes", "Bytes of them", stats.kept_bytes),
            ("counter", "history_batches_total", "Batches written and synced", stats.batches),
            ("counter", "history_written_total", "Messages written", stats.records),
            ("counter", "history_written_bytes_total", "Bytes of them", stats.bytes),
            ("counter", "history_sync_us_total", "Microseconds spent syncing", stats.sync_us),
            ("gauge", "history_sync_us_max", "The longest sync", stats.sync_us_max),
            ("counter", "history_loads_total", "Pages read", stats.loads),
            ("counter", "history_cache_hits_total", "Pages that needed no disk", stats.cache_hits),
            ("gauge", "history_damaged", "1 when something is gone that was stored", damaged),
            ("gauge", "history_lost_messages", "Messages stored that are gone", lost),
            ("counter", "history_dropped_total", "Messages not stored: failing", stats.dropped),
        ]);
    }
    for (kind, name, help, value) in series {
        // Writing to a String does not fail.
        let _ = writeln!(text, "# HELP barrage_{name} {help}");
        let _ = writeln!(text, "# TYPE barrage_{name} {kind}");
        let _ = writeln!(text, "barrage_{name} {value}");
    }
}

/// Writes how far the system's clock is from the gateway's time.
pub fn render_clock(ahead_ms: i64, text: &mut String) {
    let name = "barrage_clock_ahead_ms";
    // Writing to a String does not fail.
    let _ = writeln!(text, "# HELP {name} By how much the system's clock was set ahead, or back");
    let _ = writeln!(text, "# TYPE {name} gauge");
    let _ = writeln!(text, "{name} {ahead_ms}");
}

/// Writes what the kernel knows of this process, under the names that Prometheus' own client
/// libraries use, so that ready dashboards and tools find it. What the kernel does not tell is left
/// out.
pub fn render_process(text: &mut String) {
    let cpu_s = barrage_sys::process_cpu_time().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status").ok();
    let resident = status.as_deref().and_then(resident_bytes);
    // Writing to a String does not fail.
    let _ = writeln!(text, "# HELP process_cpu_seconds_total Processor time, user and system");
    let _ = writeln!(text, "# TYPE process_cpu_seconds_total counter");
    let _ = writeln!(text, "process_cpu_seconds_total {cpu_s}");
    if let Some(bytes) = resident {
        let _ = writeln!(text, "# HELP process_resident_memory_bytes Resident memory");
        let _ = writeln!(text, "# TYPE process_resident_memory_bytes gauge");
        let _ = writeln!(text, "process_resident_memory_bytes {bytes}");
    }
}

/// The resident memory of a `/proc/PID/status`.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

type Count = fn(&CategoryCounts) -> u64;

fn render_categories(
    shards: &[(usize, Metrics)],
    name_of: impl Fn(u16) -> String,
    text: &mut String,
) {
    let series: [(&str, &str, Count); 3] = [
        ("admitted", "Publishes that became a message", |counts| counts.admitted),
        ("merged", "Publishes that became part of a later message", |counts| counts.merged),
        ("limited", "Publishes refused by a limit, a quota or the budget", |counts| counts.limited),
    ];
    for (what, help, count) in series {
        let name = format!("barrage_category_{what}_total");
        // Writing to a String does not fail.
        let _ = writeln!(text, "# HELP {name} {help}, by category");
        let _ = writeln!(text, "# TYPE {name} counter");
        for (core, shard) in shards {
            for (id, counts) in (0u16..).zip(&shard.categories) {
                if *counts != CategoryCounts::default() {
                    let (category, count) = (name_of(id), count(counts));
                    let _ =
                        writeln!(text, "{name}{{core=\"{core}\",category=\"{category}\"}} {count}");
                }
            }
        }
    }
}

metrics! {
    gauge connections: "Connections, whatever they are",
    gauge clients: "Clients that said HELLO",
    gauge upstreams: "Upstreams that said HELLO",
    gauge rooms_home: "Rooms whose home is this shard",
    gauge rooms_local: "Rooms with members on this shard",
    gauge memberships: "Memberships of clients of this shard, the app included",
    gauge log_bytes: "Memory that room logs hold",
    gauge rings: "Data rings",
    counter accepted_total: "Connections accepted",
    counter closed_total: "Connections closed",
    counter refused_full_total: "Connections closed because the gateway is full",
    counter protocol_errors_total: "Connections closed because of their bytes",
    counter timeouts_total: "Connections closed because they were silent or stuck",
    counter slow_readers_total: "Connections closed because they did not read",
    counter rate_limited_total: "Connections closed because they said too much",
    counter received_bytes_total: "Bytes received",
    counter received_frames_total: "Frames received",
    counter sends_total: "Sends that ended",
    counter sent_bytes_total: "Bytes sent",
    counter deliveries_total: "Room and app messages handed to the kernel, once per member",
    counter direct_total: "Messages for users handed to a connection",
    counter published_total: "Messages admitted at rooms whose home is this shard",
    counter duplicates_total: "Publishes answered from their idempotency key",
    counter overloaded_total: "Publishes refused because a shard was congested",
    counter expired_total: "Publishes that outlived their time to live",
    counter shed_p0_total: "P0 messages left out for slow readers, each declared",
    counter shed_p1_total: "P1 messages left out for slow readers, each declared",
    counter shed_p2_total: "P2 messages left out for slow readers, each declared",
    counter shed_p3_total: "P3 messages left out for slow readers, each declared",
    gauge rooms_memory_bytes: "Bytes of what rooms remember for those who come back",
    counter rooms_crowded_total: "Rooms without members that gave way to others because there were too many",
    counter rooms_forgot_total: "Times that a room forgot what it had said because all remember too much",
    gauge inboxes: "Users whose inboxes hold messages or know devices",
    gauge inboxes_bytes: "Memory that inboxes take",
    gauge egress_fullness_permille: "What is left of a second's share of the egress budget, of 1000",
    gauge history_failing: "1 while the disk does not take what it is given",
    counter egress_refused_total: "Publishes refused because the egress budget is used up",
    counter muted_total: "Publishes refused because their user is muted",
    counter replaced_total: "Connections told that a newer device of their user replaces them",
    counter unstored_total: "Frames and notes that the history could not be given",
    counter resumed_from_disk_total: "Members that came back and were caught up from the history",
    counter inbox_delivered_total: "Inbox messages that every device has ACKed",
    counter inbox_repeats_total: "Inbox messages sent again because no ACK had come",
    counter inbox_expired_total: "Inbox messages that outlived their time",
    counter inbox_crowded_total: "Inbox messages that gave way to newer ones",
    counter inbox_full_total: "Messages for users refused because inboxes are full",
    counter words_rejected_total: "Messages of clients refused for their words",
    counter words_masked_total: "Messages of clients that went out with words masked",
    counter words_flagged_total: "Messages of clients that were flagged",
    counter events_total: "Events handed to upstreams",
    counter events_lost_total: "Events left out for slow upstreams, each declared",
    counter uplinks_total: "Uplinks handed to upstreams",
    counter uplinks_refused_total: "Uplinks answered with an error by the gateway",
    counter steps_total: "Turns of the shard's loop",
    counter sleeps_total: "Times that the shard slept",
    counter mails_total: "Mails from other shards and from itself",
}

impl Metrics {
    /// The counts of a category.
    pub fn category(&mut self, id: u16) -> &mut CategoryCounts {
        let place = usize::from(id);
        if self.categories.len() <= place {
            self.categories.resize(place + 1, CategoryCounts::default());
        }
        &mut self.categories[place]
    }

    /// Counts messages left out, per class.
    pub fn shed(&mut self, counts: [u32; 4]) {
        let [p0, p1, p2, p3] = counts.map(u64::from);
        self.shed_p0_total += p0;
        self.shed_p1_total += p1;
        self.shed_p2_total += p2;
        self.shed_p3_total += p3;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_tells_its_time_and_memory() {
        let mut text = String::new();
        render_process(&mut text);
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().parse::<f64>().ok()).expect(name)
        };
        assert!(value("process_cpu_seconds_total ") > 0.0, "{text}");
        assert!(value("process_resident_memory_bytes ") > 100_000.0, "{text}");
        assert_eq!(resident_bytes("Name: x\nVmRSS:\t  42 kB\n"), Some(43_008));
        assert_eq!(resident_bytes("Name: x\n"), None);
    }

    #[test]
    fn every_core_has_its_own_series() {
        let mut metrics = Metrics { connections: 3, ..Metrics::default() };
        metrics.shed([0, 1, 2, 3]);
        metrics.category(4).limited = 9;
        let name_of = |id| format!("name{id}");
        let text = render(&[(0, Metrics::default()), (1, metrics)], name_of);
        assert!(text.contains("# TYPE barrage_connections gauge\n"));
        assert!(text.contains("barrage_connections{core=\"0\"} 0\n"));
        assert!(text.contains("barrage_connections{core=\"1\"} 3\n"));
        assert!(text.contains("barrage_shed_p2_total{core=\"1\"} 2\n"));
        let limited = "barrage_category_limited_total{core=\"1\",category=\"name4\"} 9\n";
        assert!(text.contains(limited), "{text}");
    }
}
