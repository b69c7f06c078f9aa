//! The simulator: a cluster of real bookies, the real quorum client and the real metadata state machine in one thread, in
//! simulated time, under faults drawn from a seed. The same seed gives the same run, event by event.
//!
//! Read in this order: `plan` (what a run is like), `runner` (its phases), `world` and `engine` (time and tasks), `node`,
//! `broker`, `writer`, `recovery`, `repair`, `heal` (who acts), `network`, `metadata`, `faults`, `duel` (what goes wrong),
//! `oracle`, `chain`, `invariants`, `liveness` (what must be true), `soak` (many seeds).
//!
//! `make simulate SEEDS=1000`, `make simulate MINUTES=60`, and for one run with its story `make simulate SEED=7 TRACE=1`.
//! `DUELS=1` with any of them runs duels.

mod broker;
mod chain;
mod duel;
mod engine;
mod faults;
mod heal;
mod invariants;
mod liveness;
mod log;
mod metadata;
mod mutants;
mod network;
mod node;
mod oracle;
mod plan;
mod reader;
mod recovery;
mod repair;
mod report;
mod runner;
mod soak;
mod trace;
mod world;
mod writer;

pub(crate) use report::{Report, Violation};
pub(crate) use runner::run;

use protocol::mutant::Mutants;

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 2, 3] {
        let (first, second) = (runner::run_told(seed, Mutants::NONE), runner::run_told(seed, Mutants::NONE));
        assert!(!first.1.is_empty());
        assert_eq!(first.1, second.1, "the story of seed {seed}");
        assert_eq!(first.0, second.0, "the result of seed {seed}");
        assert_eq!(run(seed, Mutants::NONE), first.0, "telling it changes nothing");
    }
}

#[test]
fn no_seed_breaks_an_invariant() {
    soak::from_environment();
}
