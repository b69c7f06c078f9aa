//! One run from its seed: the cluster is set up, everything goes wrong for a while, then nothing does, and everything must
//! heal. Owns the order of these phases and the floors below which a run counts as one that did nothing.

use crate::{
    broker, chain,
    engine::WORLD,
    faults, invariants, liveness, node,
    plan::Plan,
    reader,
    report::{Report, Violation},
    trace::{Trace, tell},
    world::World,
};
use protocol::{id::BookieId, mutant::Mutants};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    time::Duration,
};

/// Steps after which everything is compared.
const SWEEP_EVERY: u64 = 2048;
/// Steps of a run; more means that something turns in circles.
const MAX_STEPS: u64 = 4_000_000;
/// Simulated time in which everything must heal.
const HEAL_WITHIN: Duration = Duration::from_secs(240);
/// How long the healed cluster is watched.
const FAIR: Duration = Duration::from_secs(15);
/// Entries that every run acknowledges at least.
const MIN_ACKED: u64 = 15;

/// Runs a seed; what happened, or the first violation.
pub(crate) fn run(seed: u64, mutants: Mutants) -> Result<Report, Violation> {
    run_plan(seed, Plan::draw(seed), mutants, false).0
}

/// Runs a seed and tells the story as well.
pub(crate) fn run_told(seed: u64, mutants: Mutants) -> (Result<Report, Violation>, String) {
    run_plan(seed, Plan::draw(seed), mutants, true)
}

/// Runs a plan.
pub(crate) fn run_plan(seed: u64, plan: Plan, mutants: Mutants, told: bool) -> (Result<Report, Violation>, String) {
    let world = World::new(seed, plan, mutants, Trace::new(told));
    tell!(world, "seed {seed}: {:?}", world.plan);
    let played = catch_unwind(AssertUnwindSafe(|| play(&world)));
    if let Err(panic) = played {
        let what = panic.downcast_ref::<String>().cloned();
        let what = what.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
        world.violate("an invariant of the program", what);
    }
    world.report.borrow_mut().seconds = world.engine.now().as_secs();
    world.engine.clear();
    world.serving.borrow_mut().clear();
    world.nodes.borrow_mut().clear();
    let result = match world.violation.take() {
        Some(violation) => Err(violation),
        None => Ok(world.report.take()),
    };
    (result, world.trace.take())
}

fn play(world: &Rc<World>) {
    (1..=world.plan.bookies).for_each(|id| node::add(world, BookieId(id)));
    (0..world.plan.brokers).for_each(|number| broker::start(world, number));
    world.engine.spawn_on(WORLD, faults::found(world));
    let inner = Rc::clone(world);
    world.engine.spawn_on(WORLD, async move { broker::control(&inner).await });
    let inner = Rc::clone(world);
    world.engine.spawn_on(WORLD, async move { faults::operate(&inner).await });
    for client in 1..=world.plan.clients as u64 {
        let inner = Rc::clone(world);
        world.engine.spawn_on(WORLD, async move { broker::produce(&inner, client).await });
    }
    reader::start(world);
    faults::begin(world);
    if !go_on(world, world.plan.end()) {
        return;
    }
    invariants::all_acked_entries_are_readable(world);
    faults::end(world);
    if heal(world) {
        world.is_healed.set(true);
        if !go_on(world, world.engine.now() + FAIR) {
            return;
        }
        finish(world);
    }
}

/// Lets the world turn until a time; false if something was violated.
fn go_on(world: &Rc<World>, until: Duration) -> bool {
    while world.engine.step(until) {
        let steps = world.engine.steps();
        if steps.is_multiple_of(SWEEP_EVERY) {
            invariants::all_acked_entries_are_readable(world);
        }
        if steps > MAX_STEPS {
            world.violate("progress", "the run turns in circles");
        }
        if world.violation.borrow().is_some() {
            return false;
        }
    }
    world.violation.borrow().is_none()
}

/// Waits until everything is as it should be.
fn heal(world: &Rc<World>) -> bool {
    let deadline = world.engine.now() + HEAL_WITHIN;
    loop {
        if !go_on(world, world.engine.now() + Duration::from_secs(2)) {
            return false;
        }
        let Some(obstacle) = liveness::obstacle(world) else { return true };
        if world.engine.now() > deadline {
            world.violate("everything heals", obstacle);
            return false;
        }
    }
}

/// Everything is healed: appends succeed, and everything that was acknowledged is read.
fn finish(world: &Rc<World>) {
    let inner = Rc::clone(world);
    let (done, mut is_done) = crate::engine::promise();
    world.engine.spawn_on(WORLD, async move {
        let mut attempts = 0;
        // The head may be rolled at this very moment.
        while !broker::append(&inner, u64::MAX).await {
            attempts += 1;
            if attempts == 20 {
                return done.give(Err("no append succeeds".into()));
            }
            inner.sleep(Duration::from_millis(500)).await;
        }
        done.give(reader::read_all(&inner).await);
    });
    let deadline = world.engine.now() + HEAL_WITHIN;
    let result = loop {
        if !go_on(world, world.engine.now() + Duration::from_secs(1)) {
            return;
        }
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        if let std::task::Poll::Ready(result) = std::pin::Pin::new(&mut is_done).poll(&mut context) {
            break result;
        }
        if world.engine.now() > deadline {
            break Err("reading everything takes too long".into());
        }
    };
    match result {
        Ok(read) => tell!(world, "{read} entries are read again"),
        Err(problem) => world.violate("everything is served in calm", problem),
    }
    invariants::all_acked_entries_are_readable(world);
    check_floor(world);
    tell!(world, "the log ends at {:?}", chain::with(world, |chain| chain.record.as_ref().map(|r| r.closed_end)));
}

/// A run that did nothing proves nothing.
fn check_floor(world: &Rc<World>) {
    let report = world.report.borrow().clone();
    let (tried, done) = (report.of("appends without faults"), report.of("appends without faults acknowledged"));
    let acked = report.of("entries acknowledged");
    if done * 2 < tried || acked < MIN_ACKED {
        let what =
            format!("{done} of {tried} appends without faults succeeded, {acked} entries were acknowledged in all");
        world.violate("a run does something", what);
    }
}
