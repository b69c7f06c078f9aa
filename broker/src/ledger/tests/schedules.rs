//! Random schedules: appends, lost and late messages, bookies that go and come, damaged entries, stalled metadata,
//! several recoverers at once. The world checks the invariants after every step, and at the end everything is healed
//! and the ledger must be recoverable to an end that no acknowledged entry stands above.

use super::{
    bookie::Mutation,
    world::{Swap, World},
};
use crate::ledger::machine::Limits;
use proptest::prelude::*;
use protocol::{
    id::EntryId,
    ledger::{metadata::LedgerState, quorum::Quorum},
    service::bookie::BookieError,
};
use rand::{Rng, SeedableRng, rngs::SmallRng};

const QUORUMS: [(u8, u8); 5] = [(1, 1), (2, 1), (2, 2), (3, 2), (5, 3)];
const MAX_APPENDS: u64 = 8;
const MAX_RECOVERIES: usize = 4;

fn world(quorum: (u8, u8), spares: u32, mutation: Mutation) -> World {
    let limits = Limits { owed_bytes: 250, owed_entries: 4, ensemble_changes: 3, ..Limits::default() };
    let (write, ack) = quorum;
    let mut world = World::new(Quorum::new(write, write, ack).expect("legal"), u32::from(write) + spares, limits);
    world.bookies.values_mut().for_each(|b| b.mutation = mutation);
    world
}

/// One step, chosen by the number among what is possible now.
fn step(world: &mut World, choice: u32) {
    let (what, which) = (choice % 100, (choice / 100) as usize);
    let message = (!world.wire.is_empty()).then(|| which % world.wire.len().max(1));
    let members: Vec<_> = world.bookies.keys().copied().collect();
    let bookie = members[which % members.len()];
    match (what, message) {
        (0..15, _) if world.writer.accepts().is_ok() && world.writer.next_entry().0 < MAX_APPENDS => {
            world.append(100);
        }
        (15..35, Some(at)) => world.reach(at),
        (35..75, Some(at)) => {
            world.reach(at);
            world.answer(at);
        }
        // Lost on the way there or on the way back: the sender cannot tell which.
        (75..78, Some(at)) => world.fail(at, BookieError::OutcomeUnknown { reason: "timeout".into() }),
        (78..81, _) => world.swap(Swap::Applied),
        (81, _) => world.swap(Swap::Unavailable),
        (82, _) => world.swap(Swap::AppliedUnknown),
        (83, _) => world.swap(Swap::NotAppliedUnknown),
        (84..87, _) if world.recoverers.len() < MAX_RECOVERIES => world.take_over(),
        (87, _) => world.close(),
        (88..90, _) => world.bookies.get_mut(&bookie).expect("a bookie").down = true,
        (90..96, _) => world.bookies.get_mut(&bookie).expect("a bookie").down = false,
        (96..98, _) => {
            let entry = EntryId(which as u64 / 8 % MAX_APPENDS);
            world.bookies.get_mut(&bookie).expect("a bookie").damaged.insert(entry);
        }
        (98..100, _) => world.bookies.get_mut(&bookie).expect("a bookie").damaged.clear(),
        _ => {}
    }
}

/// Everything works again, all messages arrive, and one more recovery runs to its end.
fn settle(world: &mut World) {
    for bookie in world.bookies.values_mut() {
        bookie.down = false;
        bookie.damaged.clear();
    }
    drain(world);
    world.take_over();
    drain(world);
    world.check();
}

fn drain(world: &mut World) {
    while world.change.is_some() || !world.wire.is_empty() {
        world.swap(Swap::Applied);
        if !world.wire.is_empty() {
            world.reach(0);
            world.answer(0);
        }
    }
}

/// Plays a schedule; says what went wrong, with everything that led to it.
fn run(world: &mut World, schedule: &[u32]) -> Result<(), String> {
    for choice in schedule {
        step(world, *choice);
    }
    settle(world);
    let stuck = world.writer.in_flight() > 0 && world.writer.accepts().is_ok();
    let problem = match &world.violation {
        Some(violation) => violation,
        None if !world.metadata.is_closed() => "the ledger cannot be recovered",
        None if world.recoverers.iter().any(|r| !r.ended) => "a recovery hangs",
        None if stuck => "the writer neither confirms nor stops",
        None => return Ok(()),
    };
    Err(format!("{problem}\n{}", world.trace.join("\n")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_schedule_loses_an_acknowledged_entry(
        quorum in prop::sample::select(&QUORUMS[..]),
        spares in 0..3_u32,
        schedule in proptest::collection::vec(any::<u32>(), 0..250),
    ) {
        let outcome = run(&mut world(quorum, spares, Mutation::None), &schedule);
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }

    /// With nothing lost and no one taking over, everything is confirmed and the writer closes its own ledger.
    #[test]
    fn a_writer_left_alone_confirms_everything_in_any_order_of_answers(
        quorum in prop::sample::select(&QUORUMS[..]),
        appends in 0..8_u64,
        order in proptest::collection::vec(any::<u32>(), 200),
    ) {
        let mut world = world(quorum, 0, Mutation::None);
        (0..appends).for_each(|_| world.append(100));
        for choice in order {
            if world.wire.is_empty() {
                break;
            }
            let at = choice as usize % world.wire.len();
            world.reach(at);
            world.answer(at);
        }
        world.close();
        prop_assert_eq!(world.acked.count(), appends);
        let last_entry = appends.checked_sub(1).map(EntryId);
        prop_assert_eq!(world.metadata.state, LedgerState::Closed { last_entry, length: appends * 100 });
    }
}

/// The checks have teeth: a bookie that breaks any of these rules is found out within a bounded number of schedules.
#[test]
fn every_broken_rule_is_found() {
    let broken =
        [Mutation::AddsAreForgotten, Mutation::FenceIsForgotten, Mutation::ReadsDoNotFence, Mutation::DamageIsAbsence];
    let missed: Vec<_> = broken.into_iter().filter(|mutation| !is_found(*mutation)).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

fn is_found(mutation: Mutation) -> bool {
    (0..60_000).any(|seed| {
        let mut rng = SmallRng::seed_from_u64(seed);
        let schedule: Vec<u32> = (0..120).map(|_| rng.random()).collect();
        let mut world = world((3, 2), 1, mutation);
        run(&mut world, &schedule).is_err()
    })
}
