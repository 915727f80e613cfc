//! The line on stderr that shows a run is alive.

use std::io::{IsTerminal, Write, stderr};

use crate::clock::{SECOND_NS, now_ns};
use crate::report::grouped;
use crate::shared::{Shared, read};

/// Shows how far a run is, once a second.
pub struct Progress {
    quiet: bool,
    in_place: bool,
    started_ns: u64,
    shown_ns: u64,
    delivered: u64,
    drawn: bool,
}

impl Progress {
    /// Begins now.
    pub fn new(quiet: bool) -> Self {
        let now = now_ns();
        Self {
            quiet,
            in_place: stderr().is_terminal(),
            started_ns: now,
            shown_ns: now,
            delivered: 0,
            drawn: false,
        }
    }

    /// Shows the state when it is time to.
    pub fn show(&mut self, doing: &str, shared: &Shared) {
        let now = now_ns();
        let since_ns = now - self.shown_ns;
        if self.quiet || since_ns < SECOND_NS {
            return;
        }
        let delivered = read(&shared.delivered);
        let per_s =
            delivered.saturating_sub(self.delivered) as f64 * SECOND_NS as f64 / since_ns as f64;
        (self.shown_ns, self.delivered) = (now, delivered);
        let seconds = (now - self.started_ns) / SECOND_NS;
        let mut line = format!("{seconds:>4} s  {doing:<7} {} ready", count(&shared.ready));
        for (number, name) in [(&shared.failed, "failed"), (&shared.lost, "lost")] {
            if read(number) > 0 {
                line += &format!(", {} {name}", count(number));
            }
        }
        if delivered > 0 {
            line += &format!("  {} delivered ({}/s)", grouped(delivered as f64), grouped(per_s));
        }
        self.draw(&line);
    }

    fn draw(&mut self, line: &str) {
        let mut stderr = stderr().lock();
        // Nobody can be told that stderr is gone.
        let _ = match self.in_place {
            true => write!(stderr, "\r\x1b[K{line}").and_then(|()| stderr.flush()),
            false => writeln!(stderr, "{line}"),
        };
        self.drawn = true;
    }

    /// Leaves the terminal as the report wants it.
    pub fn end(self) {
        if self.drawn && self.in_place {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

fn count(number: &std::sync::atomic::AtomicU64) -> String {
    grouped(read(number) as f64)
}
