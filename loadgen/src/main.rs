//! The program around [`barrage_loadgen::execute`].
#![forbid(unsafe_code)]

use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::bail;
use barrage_loadgen::cli::{Cli, Command};
use barrage_loadgen::exit::Exit;
use clap::{CommandFactory, Parser};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What Ctrl-C and `kill` send.
const STOP_SIGNALS: [i32; 2] = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let checked = match &command {
        Command::Uplink(args) => args.check(),
        Command::Storm(args) => args.check(),
        _ => Ok(()),
    };
    if let Err(error) = checked {
        Cli::command().error(clap::error::ErrorKind::ValueValidation, error).exit();
    }
    match run(&command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("barrage-loadgen: {error:#}");
            Exit::of_error(&error).into()
        }
    }
}

fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in STOP_SIGNALS {
        // The second one ends the program at once, in case the first was not enough.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let ended = barrage_loadgen::execute(command, &stop)?;
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(ended.text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => {}
        // Whoever has heard enough, as `head` does, needs no words about it.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        Err(error) => bail!("the result cannot be written to stdout: {error}"),
    }
    Ok(ended.exit.into())
}
