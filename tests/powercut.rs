//! SIGKILL and power cuts, again and again, in rotation over a bookie, all bookies, and everything at once, under load
//! from librdkafka. `MAGNETAR_KILLS` and `MAGNETAR_CUTS` make it longer; `make soak` does. Prints what it did.

mod support;

use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    io::Write,
    time::{Duration, Instant},
};
use support::{
    cluster::{Cluster, Member, Plan, alone},
    load::{Load, Outcome, Shape},
    now,
    shim::cut::{Report, Survivors},
};

/// How often, from the environment.
fn count(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Draws differ from run to run; a run can be repeated with the seed it printed.
fn seed() -> u64 {
    std::env::var("MAGNETAR_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(rand::random)
}

/// One line that a person who waits can look at.
fn progress(what: &str, done: usize, of: usize, load: &Load, start: Instant) {
    let mut out = std::io::stderr();
    let _ = writeln!(out, "{what} {done}/{of}, {} records, {:.0} s", load.acked(), start.elapsed().as_secs_f64());
}

fn summary(what: &str, cycles: usize, seed: u64, outcome: &Outcome, start: Instant) {
    println!(
        "MEASURED {what}: {cycles} cycles, {} records acknowledged of {} sent, {} given up by the client, 0 lost, {:.0} s, seed {seed}",
        outcome.history.acked.len(),
        outcome.history.sent.len(),
        outcome.failed.len(),
        start.elapsed().as_secs_f64()
    );
}

#[test]
fn sigkill_in_rotation_loses_nothing() {
    let _turn = alone();
    let (cycles, seed, start) = (count("MAGNETAR_KILLS", 20), seed(), now());
    let mut random = StdRng::seed_from_u64(seed);
    println!("seed {seed}");
    let mut cluster = Cluster::start(Plan::of(3).with("repair.grace=2s"));
    let load = Load::start(&cluster.bootstrap(), Shape::light("kills"));
    for cycle in 0..cycles {
        load.wait_more(random.random_range(50..400));
        match cycle % 5 {
            0 | 2 => cluster.bookies[random.random_range(0..3)].kill(),
            1 => cluster.bookies.iter_mut().for_each(Member::kill),
            3 => cluster.broker.kill(),
            _ => cluster.kill_all(),
        }
        if random.random() && cycle % 5 == 0 {
            load.wait_more(200);
        }
        cluster.restart_all();
        progress("kill", cycle + 1, cycles, &load, start);
    }
    load.wait_more(200);
    let outcome = load.finish();
    outcome.assert_flawless();
    summary("SIGKILL", cycles, seed, &outcome, start);
}

#[test]
fn power_cuts_in_rotation_lose_nothing() {
    let _turn = alone();
    let (cycles, seed, start) = (count("MAGNETAR_CUTS", 10), seed(), now());
    let mut random = StdRng::seed_from_u64(seed);
    println!("seed {seed}");
    let mut cluster = Cluster::start(Plan::of(3).with("repair.grace=2s").with_shim());
    if cluster.bookies[0].shim.is_none() {
        return;
    }
    let load = Load::start(&cluster.bootstrap(), Shape::light("cuts"));
    let mut undone = Report::default();
    for cycle in 0..cycles {
        load.wait_more(random.random_range(50..400));
        let how = if random.random() { Survivors::Nothing } else { Survivors::Prefix(random.random()) };
        for report in cut(&mut cluster, cycle, how, &mut random) {
            undone.changes += report.changes;
            undone.names += report.names;
            undone.survived += report.survived;
        }
        cluster.restart_all();
        progress("power cut", cycle + 1, cycles, &load, start);
    }
    load.wait_more(200);
    let outcome = load.finish();
    println!("the cuts undid {undone:?}");
    assert!(undone.changes + undone.names > 0, "there was nothing to undo: the cuts showed nothing");
    outcome.assert_flawless();
    summary("power cuts", cycles, seed, &outcome, start);
}

/// One cut: of a bookie at a moment of its own choice, of all bookies, or of everything.
fn cut(cluster: &mut Cluster, cycle: usize, how: Survivors, random: &mut StdRng) -> Vec<Report> {
    match cycle % 3 {
        0 => {
            // At a sync, before it does anything: the most that can be under way.
            let bookie = &mut cluster.bookies[random.random_range(0..3)];
            bookie.shim.as_ref().expect("checked").crash_at_nth_sync(random.random_range(1..40));
            support::wait_until("the bookie dies at a sync", || !bookie.is_running());
            vec![bookie.power_cut(how)]
        }
        1 => {
            cluster.bookies.iter_mut().for_each(Member::kill);
            cluster.bookies.iter_mut().map(|b| b.power_cut(how)).collect()
        }
        _ => {
            cluster.kill_all();
            cluster.members().map(|m| m.power_cut(how)).collect()
        }
    }
}

#[test]
fn a_cut_at_an_early_sync_of_the_first_start_is_survived() {
    let _turn = alone();
    // Format, cookie, cluster, journal. Whatever dies there must start again.
    let cuts = count("MAGNETAR_CUTS", 10).div_ceil(2);
    for n in 1..=cuts {
        let mut cluster = Cluster::prepared(Plan::of(1).with_shim());
        if cluster.bookies[0].shim.is_none() {
            return;
        }
        for member in [&cluster.metadata, &cluster.bookies[0]] {
            member.shim.as_ref().expect("checked").crash_at_nth_sync(n as u64 * 3);
        }
        cluster.metadata.spawn();
        cluster.bookies[0].spawn();
        let deadline = now() + Duration::from_secs(2);
        while now() < deadline && (cluster.metadata.is_running() || cluster.bookies[0].is_running()) {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        cluster.kill_all();
        for member in cluster.members() {
            member.power_cut(Survivors::Nothing);
            member.shim.as_ref().expect("checked").heal();
        }
        cluster.restart_all();
        let load = Load::start(&cluster.bootstrap(), Shape { copies: 1, ..Shape::light("early") });
        load.wait_more(20);
        load.finish().assert_flawless();
    }
}
