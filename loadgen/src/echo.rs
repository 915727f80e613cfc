//! The upstream of `uplink`: answers every uplink with what it said.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use barrage_sys::pin_to_core;
use barrage_wire::server::Code;
use barrage_wire::{GatewayFrame, List, Text, UpstreamFrame};

use crate::clock::{run_promptly, sleep_precisely};
use crate::shared::Shared;
use crate::upstream::Upstream;

const NAP: Duration = Duration::from_millis(5);
/// Subscribers of one group share uplinks; this keeps ours away from those of real services.
const GROUP: &str = "loadgen";

/// Answers on a thread of its own until the clients are done; says how many it answered.
pub fn spawn(
    upstream: Upstream,
    channel: u16,
    core: Option<usize>,
    shared: Arc<Shared>,
) -> Result<JoinHandle<Result<u64>>> {
    std::thread::Builder::new()
        .name("upstream".to_owned())
        .spawn(move || run(upstream, channel, core, &shared))
        .context("cannot start the upstream thread")
}

fn run(mut upstream: Upstream, channel: u16, core: Option<usize>, shared: &Shared) -> Result<u64> {
    if let Some(core) = core {
        pin_to_core(core)
            .with_context(|| format!("cannot run on core {core}: see --upstream-core"))?;
    }
    sleep_precisely();
    run_promptly(false);
    let channels = [channel];
    let channels = List::new(&channels);
    upstream.say(&UpstreamFrame::Subscribe { events: 0, group: Text(GROUP), channels });
    let mut answered = 0;
    let mut replies = Vec::new();
    while !shared.finished() {
        upstream.flush()?;
        upstream.wait(NAP);
        upstream.receive(&mut |frame| {
            if let GatewayFrame::Uplink { ticket, payload, .. } = frame {
                UpstreamFrame::UplinkReply { ticket, code: Code::Ok, payload }.encode(&mut replies);
                answered += 1;
            }
            Ok(())
        })?;
        upstream.say_encoded(&mut replies);
    }
    Ok(answered)
}
