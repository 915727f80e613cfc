//! `barrage-gateway`: reads its configuration, serves, drains on SIGTERM.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use barrage_gateway::config::{Config, Flags, LogFormat};
use barrage_gateway::server::{self, Signals};
use clap::Parser;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let flags = Flags::parse();
    if flags.print_policy {
        print!("{}", barrage_gateway::policy_file::DEFAULT);
        return ExitCode::SUCCESS;
    }
    let fail = |error: anyhow::Error, code| {
        eprintln!("barrage-gateway: {error:#}");
        ExitCode::from(code)
    };
    match Config::load(flags) {
        Err(error) => fail(error, EXIT_USAGE),
        Ok(config) => run(&config).map_or_else(|error| fail(error, 1), |()| ExitCode::SUCCESS),
    }
}

/// What clap exits with, too.
const EXIT_USAGE: u8 = 2;

fn run(config: &Config) -> Result<()> {
    let filter = EnvFilter::try_from_env("BARRAGE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.log {
        LogFormat::Human => log.init(),
        LogFormat::Json => log.json().init(),
    }
    let (stop, reload) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    signal_hook::flag::register(SIGHUP, Arc::clone(&reload)).context("hearing signals")?;
    for signal in [SIGTERM, SIGINT] {
        // The second signal of a kind ends the process at once.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .context("hearing signals")?;
    }
    server::run(config, Signals { stop, reload }, || {
        println!("ready");
        // Scripts wait for the line; a closed stdout is their choice.
        let _ = std::io::stdout().flush();
    })
}
