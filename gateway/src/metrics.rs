//! What a shard counts. Plain numbers of its own; the control thread asks for copies and adds up.

use std::fmt::Write;

macro_rules! metrics {
    ($($kind:ident $name:ident: $help:literal,)*) => {
        /// One shard's numbers at one moment.
        #[derive(Clone, Debug, Default)]
        pub struct Metrics {
            $(#[doc = $help] pub $name: u64,)*
        }

        /// Writes all shards' numbers in Prometheus' text format, one series per core.
        pub fn render(shards: &[(usize, Metrics)]) -> String {
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
            text
        }
    };
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
    counter events_total: "Events handed to upstreams",
    counter events_lost_total: "Events left out for slow upstreams, each declared",
    counter uplinks_total: "Uplinks handed to upstreams",
    counter uplinks_refused_total: "Uplinks answered with an error by the gateway",
    counter steps_total: "Turns of the shard's loop",
    counter sleeps_total: "Times that the shard slept",
    counter mails_total: "Mails from other shards and from itself",
}

impl Metrics {
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
    fn every_core_has_its_own_series() {
        let mut metrics = Metrics { connections: 3, ..Metrics::default() };
        metrics.shed([0, 1, 2, 3]);
        let text = render(&[(0, Metrics::default()), (1, metrics)]);
        assert!(text.contains("# TYPE barrage_connections gauge\n"));
        assert!(text.contains("barrage_connections{core=\"0\"} 0\n"));
        assert!(text.contains("barrage_connections{core=\"1\"} 3\n"));
        assert!(text.contains("barrage_shed_p2_total{core=\"1\"} 2\n"));
    }
}
