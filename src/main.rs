//! The program: reads the command line, does what it says, and says what went wrong. Owns the exit code.

use clap::Parser;
use magnetar::{cli::Cli, processor};
use std::process::ExitCode;

/// As a shell reports a program that was ended because nobody read its output.
const NOBODY_READS: i32 = 141;

fn main() -> ExitCode {
    if let Err(problem) = processor::check() {
        eprintln!("magnetar: {problem}");
        return ExitCode::FAILURE;
    }
    end_quietly_when_nobody_reads();
    match Cli::parse().run() {
        Ok(code) => code,
        Err(problem) => {
            eprintln!("magnetar: {problem:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever has seen enough (`magnetar topic list | head`) ends us without a word, as it does other programs.
fn end_quietly_when_nobody_reads() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
        if text.starts_with("failed printing to stdout") && text.contains("Broken pipe") {
            std::process::exit(NOBODY_READS);
        }
        usual(panic);
    }));
}
