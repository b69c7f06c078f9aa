//! Many seeds, or one: what `make test` and `make simulate` run. Owns the environment variables, the progress line, the
//! summary, and what is printed about a seed that fails.

use crate::{Report, Violation, plan::Plan, runner::run_plan};
use parking_lot::Mutex;
use protocol::mutant::Mutants;
use std::{
    io::{IsTerminal, Write},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Seeds that `make test` runs.
const SEEDS: u64 = 500;
/// Lines of the story that are printed for a seed that fails.
const LINES: usize = 60;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

/// Runs a seed; as a run of duels if `MAGNETAR_DUELS` is set.
fn run(seed: u64, told: bool) -> (Result<Report, Violation>, String) {
    let plan = Plan::draw(seed);
    let plan = if duels() { plan.dueling() } else { plan };
    run_plan(seed, plan, Mutants::NONE, told)
}

fn duels() -> bool {
    number("MAGNETAR_DUELS").is_some_and(|duels| duels > 0)
}

/// Runs what the environment asks for, 500 seeds if it asks for nothing.
pub(crate) fn from_environment() {
    if let Some(seed) = number("MAGNETAR_SEED") {
        return tell_one(seed);
    }
    let first = number("MAGNETAR_SEED_FROM").unwrap_or(1);
    let minutes = number("MAGNETAR_MINUTES").map(|minutes| Duration::from_secs(minutes * 60));
    let seeds = number("MAGNETAR_SEEDS").unwrap_or(if minutes.is_some() { u64::MAX - first } else { SEEDS });
    let soak = Soak { first, last: first.saturating_add(seeds), until: minutes.map(|m| now() + m), ..Soak::default() };
    let failed = soak.run();
    assert!(failed.is_none(), "seed {} fails", failed.unwrap_or_default());
}

/// Runs one seed and prints its story, or the end of it.
fn tell_one(seed: u64) {
    let (result, story) = run(seed, true);
    let is_whole = number("MAGNETAR_TRACE").is_some_and(|trace| trace > 0);
    match &result {
        Ok(report) if is_whole => println!("{story}{report}"),
        Ok(report) => println!("seed {seed} holds:\n{report}"),
        Err(violation) => print_failure(seed, violation, &story, is_whole),
    }
    assert!(result.is_ok(), "seed {seed} fails");
}

fn print_failure(seed: u64, violation: &Violation, story: &str, is_whole: bool) {
    let lines: Vec<&str> = story.lines().collect();
    let from = if is_whole { 0 } else { lines.len().saturating_sub(LINES) };
    println!("\nseed {seed}: {violation}\n");
    lines[from..].iter().for_each(|line| println!("{line}"));
    let duels = if duels() { " DUELS=1" } else { "" };
    println!("\nseed {seed}: {violation}\nreplay it with: make simulate SEED={seed}{duels} TRACE=1\n");
}

#[derive(Default)]
struct Soak {
    first: u64,
    last: u64,
    until: Option<Instant>,
    done: AtomicU64,
    failed: AtomicBool,
    total: Mutex<(Report, Option<u64>)>,
}

impl Soak {
    /// Runs the seeds on every processor; the first one that failed, if any.
    fn run(&self) -> Option<u64> {
        let next = AtomicU64::new(self.first);
        let started = now();
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| self.work(&next, started));
            }
        });
        let (report, failed) = &*self.total.lock();
        let (done, took) = (self.done.load(Ordering::Relaxed), started.elapsed());
        println!(
            "\n{done} seeds from {} in {:.0} s, {:.1} per second",
            self.first,
            took.as_secs_f64(),
            rate(done, took)
        );
        println!("{report}");
        *failed
    }

    fn work(&self, next: &AtomicU64, started: Instant) {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let is_over = self.until.is_some_and(|until| now() >= until);
            if seed >= self.last || is_over || self.failed.load(Ordering::Relaxed) {
                return;
            }
            match run(seed, false).0 {
                Ok(report) => self.total.lock().0.add(&report),
                Err(violation) => {
                    self.failed.store(true, Ordering::Relaxed);
                    let (_, story) = run(seed, true);
                    let mut total = self.total.lock();
                    total.1 = Some(total.1.map_or(seed, |other: u64| other.min(seed)));
                    print_failure(seed, &violation, &story, false);
                }
            }
            let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
            if done.is_multiple_of(100) {
                progress(done, started.elapsed());
            }
        }
    }
}

fn rate(done: u64, took: Duration) -> f64 {
    done as f64 / took.as_secs_f64().max(0.001)
}

fn progress(done: u64, took: Duration) {
    let mut out = std::io::stderr();
    let line = format!("{done} seeds, {:.1} per second", rate(done, took));
    let end = if out.is_terminal() { "\r" } else { "\n" };
    drop(write!(out, "{line}{end}"));
}

#[expect(clippy::disallowed_methods, reason = "how fast the simulator is, and when to stop; no run sees it")]
fn now() -> Instant {
    Instant::now()
}
