//! What the proxy did, counted, so that what was found can be held against it.

use std::fmt::Write as _;

use serde::Serialize;

use crate::report::grouped;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident: $title:literal,)*) => {
        /// What the proxy did.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            /// Lines for people.
            pub fn text(&self) -> String {
                let mut text = String::new();
                // Writing to a String cannot fail.
                $(let _ = writeln!(text, "{:<18}{}", $title, grouped(self.$name as f64));)*
                text
            }
        }
    };
}

counts! {
    /// Connections that clients have made.
    connections: "connections",
    /// Connections that the target did not take, or that were more than the proxy holds.
    refused: "refused",
    /// Bytes to the target.
    bytes_up: "bytes up",
    /// Bytes to clients.
    bytes_down: "bytes down",
    /// Numbered frames that came from the target, of the kind that faults are for.
    numbered: "numbered frames",
    /// Numbered frames that were left out.
    dropped: "dropped",
    /// Numbered frames that were sent twice.
    duplicated: "duplicated",
    /// Numbered frames that were sent after the one that follows them in their room.
    reordered: "reordered",
    /// Numbered frames of which one bit was changed.
    corrupted: "corrupted",
    /// Times when nothing was forwarded for a while.
    stalls: "stalls",
    /// Connections that were reset.
    resets: "resets",
    /// Connections whose bytes were not Barrage's frames, and were passed on untouched from there.
    unframed: "unframed",
}
