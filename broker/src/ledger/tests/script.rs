//! Plays the scenarios of `testscripts/`: each command stands at the start of a line, what it causes is indented below
//! it. To write the traces anew after a wanted change, set `MAGNETAR_REGENERATE_SCRIPTS=1` and read the difference.
//!
//! | command | what happens |
//! |---|---|
//! | `ledger 3/3/2 with 4 bookies` | a new ledger on b1, b2, b3; b4 is a spare. `owing at most N bytes` may follow |
//! | `append [bytes]` | the client appends an entry (100 bytes) |
//! | `deliver b1 add 0` | the request reaches b1, and its answer comes back. `recovery1 b1 fence` names another sender |
//! | `reach b1 add 0`, `answer b1 add 0` | the two halves of `deliver` |
//! | `fail b1 add 0 unavailable` | it is not done (or its answer is lost): `unavailable`, `timeout`, `read-only`, `storage` |
//! | `deliver everything` | all messages, in the order they were sent, until none is left |
//! | `metadata changes`, `metadata is unavailable`, `metadata times out` | the answer to an ensemble change |
//! | `take over` | another broker moves the ledger to IN_RECOVERY and starts to recover it |
//! | `close` | the writer's own broker ends the ledger |
//! | `damage b1 0`, `mend b1` | b1 cannot read entry 0; can read everything again |
//! | `down b1`, `up b1` | b1 cannot be reached; can be reached |
//! | `give up b1 b2` | an operator says that b1 and b2 are gone for good: metadata has what is left of the ledger |
//! | `show` | metadata, and entries that bookies may lack |

use super::{
    bookie::Call,
    world::{Actor, Swap, World, fragments, member, show},
};
use crate::ledger::machine::Limits;
use protocol::{
    id::EntryId,
    ledger::{
        quorum::Quorum,
        remnant::{Remnant, remnant},
    },
    service::bookie::BookieError,
};
use std::{fmt::Write, fs, path::Path};

const INDENT: &str = "    ";

#[test]
fn every_scenario_goes_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ledger/testscripts");
    let regenerate = std::env::var_os("MAGNETAR_REGENERATE_SCRIPTS").is_some();
    let mut played = 0;
    for file in fs::read_dir(&folder).expect("the folder of scenarios") {
        let path = file.expect("a readable folder").path();
        let written = fs::read_to_string(&path).expect("a readable scenario");
        let actual = play(&written, &path);
        if regenerate {
            fs::write(&path, &actual).expect("a writable scenario");
        }
        assert!(regenerate || written == actual, "{} goes differently:\n{actual}", path.display());
        played += 1;
    }
    assert!(played >= 15, "only {played} scenarios were found");
}

/// The scenario with the trace that it really gives.
fn play(script: &str, path: &Path) -> String {
    let mut world = None;
    let mut actual = String::new();
    for (number, line) in script.lines().enumerate() {
        if line.starts_with(INDENT) {
            continue;
        }
        writeln!(actual, "{line}").expect("a string takes everything");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["ledger", quorum, "with", bookies, "bookies", rest @ ..] = &words[..] {
            world = Some(new_world(quorum, bookies, rest));
            continue;
        }
        let world = world.as_mut().expect("a scenario begins with its ledger");
        assert!(obey(world, &words), "{}:{}: cannot {line:?}", path.display(), number + 1);
        for traced in world.trace.drain(..) {
            writeln!(actual, "{INDENT}{traced}").expect("a string takes everything");
        }
    }
    actual
}

fn new_world(quorum: &str, bookies: &str, rest: &[&str]) -> World {
    let numbers: Vec<u8> = quorum.split('/').map(|n| n.parse().expect("a number")).collect();
    let quorum = Quorum::new(numbers[0], numbers[1], numbers[2]).expect("a legal quorum");
    let mut limits = Limits::default();
    if let ["owing", "at", "most", bytes, "bytes"] = rest {
        limits.owed_bytes = bytes.parse().expect("a number");
    }
    World::new(quorum, bookies.parse().expect("a number"), limits)
}

/// Does what a line says; false if it makes no sense.
fn obey(world: &mut World, words: &[&str]) -> bool {
    match words {
        ["append"] => world.append(100),
        ["append", size] => world.append(size.parse().expect("a number")),
        ["close"] => world.close(),
        ["take", "over"] => world.take_over(),
        ["metadata", "changes"] => world.swap(Swap::Applied),
        ["metadata", "is", "unavailable"] => world.swap(Swap::Unavailable),
        ["metadata", "times", "out"] => world.swap(Swap::AppliedUnknown),
        ["down", bookie] => world.bookies.get_mut(&member(number(bookie))).expect("a bookie").down = true,
        ["up", bookie] => world.bookies.get_mut(&member(number(bookie))).expect("a bookie").down = false,
        ["damage", bookie, entry] => {
            let entry = EntryId(entry.parse().expect("a number"));
            world.bookies.get_mut(&member(number(bookie))).expect("a bookie").damaged.insert(entry);
        }
        ["mend", bookie] => world.bookies.get_mut(&member(number(bookie))).expect("a bookie").damaged.clear(),
        ["give", "up", gone @ ..] => {
            let gone: Vec<_> = gone.iter().map(|bookie| member(number(bookie))).collect();
            let Remnant::Part(left) = remnant(&world.metadata, |m| gone.contains(&m)) else { return false };
            world.give_up(*left);
        }
        ["show"] => {
            let state = format!("metadata: {:?}, {}", world.metadata.state, fragments(&world.metadata));
            world.trace.push(state);
            for hole in world.writer.holes() {
                let (b, first, last) = (hole.member.id, hole.entries.start(), hole.entries.end());
                world.trace.push(format!("writer: b{b} may lack {first} to {last}"));
            }
        }
        ["deliver", "everything"] => {
            while !world.wire.is_empty() {
                world.reach(0);
                world.answer(0);
            }
        }
        ["deliver", message @ ..] => return find(world, message).is_some_and(|at| deliver(world, at)),
        ["reach", message @ ..] => return find(world, message).is_some_and(|at| reach(world, at)),
        ["answer", message @ ..] => return find(world, message).is_some_and(|at| answer(world, at)),
        ["fail", message @ .., how] => return find(world, message).is_some_and(|at| fail(world, at, how)),
        _ => return false,
    }
    true
}

fn number(bookie: &str) -> u32 {
    bookie.strip_prefix('b').and_then(|n| n.parse().ok()).expect("a bookie is named b1, b2, ...")
}

/// `[sender] bookie call [entry]`; the sender is the writer unless named or told by the call.
fn find(world: &World, words: &[&str]) -> Option<usize> {
    let (recovery, words) = match words.first()?.strip_prefix("recovery") {
        Some(n) => (n.parse::<usize>().ok()? - 1, &words[1..]),
        None => (0, words),
    };
    let (bookie, call) = (member(number(words[0])), words[1..].join(" "));
    let is_meant = |from| match from {
        Actor::Writer => call.starts_with("add"),
        Actor::Recovery(n) => n == recovery && !call.starts_with("add"),
    };
    world.wire.iter().position(|m| m.to == bookie && is_meant(m.from) && show(&m.call) == call)
}

fn deliver(world: &mut World, at: usize) -> bool {
    world.reach(at);
    world.answer(at);
    true
}

fn reach(world: &mut World, at: usize) -> bool {
    let (to, call) = (world.wire[at].to, world.wire[at].call);
    world.reach(at);
    let stored = matches!(call, Call::Add { .. }) && matches!(world.wire[at].answer, Some(Ok(_)));
    let what = if stored { "stored" } else { "acted on" };
    world.trace.push(format!("b{}: {} is {what}, the answer is under way", to.id, show(&call)));
    true
}

fn answer(world: &mut World, at: usize) -> bool {
    let acted = world.wire[at].answer.is_some();
    if acted {
        world.answer(at);
    }
    acted
}

fn fail(world: &mut World, at: usize, how: &str) -> bool {
    let reason = || "for the test".to_string();
    let error = match how {
        "unavailable" => BookieError::Unavailable { reason: reason() },
        "timeout" => BookieError::OutcomeUnknown { reason: reason() },
        "read-only" => BookieError::ReadOnly { reason: reason() },
        "storage" => BookieError::Storage { reason: reason() },
        "unknown" => BookieError::Unknown { reason: reason() },
        _ => return false,
    };
    world.fail(at, error);
    true
}
