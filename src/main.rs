//! The program: reads the command line, does what it says, and says what went wrong. Owns the exit code.

use clap::Parser;
use magnetar::cli::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(problem) => {
            eprintln!("magnetar: {problem:#}");
            ExitCode::FAILURE
        }
    }
}
