//! Processes of a cluster die, hang, are cut off and are taken out, while librdkafka produces and reads. Whatever
//! happens to one bookie of three, no client sees an error; whatever happens at all, nothing acknowledged is lost,
//! doubled or reordered.

mod support;

use std::time::Duration;
use support::{
    client,
    cluster::{Cluster, Plan, alone},
    hold,
    load::{Load, Shape},
    now,
    proxy::Way,
    wait_until,
};

/// Acknowledgements that show that the cluster works at this moment.
const SOME: usize = 400;

fn plan(bookies: usize) -> Plan {
    Plan::of(bookies).with("repair.grace=2s")
}

fn milliseconds(d: Duration) -> String {
    format!("{:.1} ms", d.as_secs_f64() * 1e3)
}

#[test]
fn one_bookie_of_three_is_killed() {
    let _turn = alone();
    let mut cluster = Cluster::start(plan(3));
    let load = Load::start(&cluster.bootstrap(), Shape::light("killed"));
    load.wait_more(SOME);
    let start = now();
    load.wait_more(SOME * 2);
    let healthy = load.latencies(start, now());
    let mut longest = Duration::ZERO;
    for victim in 0..3 {
        let start = now();
        cluster.bookies[victim].kill();
        load.wait_more(SOME * 2);
        longest = longest.max(load.latencies(start, now()).max);
        cluster.bookies[victim].restart();
        load.wait_more(SOME);
    }
    println!(
        "MEASURED bookie killed: longest produce stall {} (aim 500 ms); healthy p99 {}, longest {}",
        milliseconds(longest),
        milliseconds(healthy.p99),
        milliseconds(healthy.max)
    );
    load.finish().assert_flawless();
    cluster.wait_whole("killed");
}

#[test]
fn all_bookies_and_then_everything_is_killed_at_once() {
    let _turn = alone();
    let mut cluster = Cluster::start(plan(3));
    let load = Load::start(&cluster.bootstrap(), Shape::light("all"));
    load.wait_more(SOME);
    cluster.bookies.iter_mut().for_each(support::cluster::Member::kill);
    cluster.restart_all();
    load.wait_more(SOME);
    cluster.kill_all();
    cluster.restart_all();
    load.wait_more(SOME);
    load.finish().assert_flawless();
}

#[test]
fn a_bookie_and_then_the_broker_hang_and_go_on() {
    let _turn = alone();
    let mut cluster = Cluster::start(plan(3));
    let load = Load::start(&cluster.bootstrap(), Shape::light("hung"));
    load.wait_more(SOME);
    let start = now();
    cluster.bookies[1].pause();
    load.wait_more(SOME * 3);
    println!("MEASURED bookie hangs: longest produce stall {}", milliseconds(load.latencies(start, now()).max));
    cluster.bookies[1].resume();
    load.wait_more(SOME);
    // Longer than its session lives: what it believes when it wakes up is no longer true.
    cluster.broker.pause();
    hold(Duration::from_secs(5));
    cluster.broker.resume();
    load.wait_more(SOME);
    load.finish().assert_flawless();
    cluster.wait_whole("hung");
}

#[test]
fn metadata_hangs_and_dies_and_existing_partitions_go_on() {
    let _turn = alone();
    let mut cluster = Cluster::start(plan(3));
    let load = Load::start(&cluster.bootstrap(), Shape::light("metadata"));
    load.wait_more(SOME);
    cluster.metadata.pause();
    load.wait_more(SOME);
    cluster.metadata.resume();
    load.wait_more(SOME);
    cluster.metadata.kill();
    load.wait_more(SOME);
    cluster.metadata.restart();
    load.wait_more(SOME);
    load.finish().assert_flawless();
}

#[test]
fn networks_to_one_bookie_are_cut_both_ways_and_one_way() {
    let _turn = alone();
    let cluster = Cluster::start(plan(3).with_proxies());
    let load = Load::start(&cluster.bootstrap(), Shape::light("cut"));
    load.wait_more(SOME);
    let link = |at: usize| cluster.bookies[at].link.as_ref().expect("a proxy");
    let faults: [(&str, &dyn Fn()); 4] = [
        ("cut", &|| link(0).cut()),
        ("requests vanish", &|| link(1).cut_one_way(Way::Forth)),
        ("answers vanish", &|| link(2).cut_one_way(Way::Back)),
        ("reset", &|| link(0).reset()),
    ];
    for (name, fault) in faults {
        let start = now();
        fault();
        load.wait_more(SOME * 3);
        println!("MEASURED bookie {name}: longest produce stall {}", milliseconds(load.latencies(start, now()).max));
        (0..3).for_each(|at| link(at).heal());
        load.wait_more(SOME);
    }
    load.finish().assert_flawless();
    cluster.wait_whole("cut");
}

#[test]
fn networks_to_metadata_are_cut() {
    let _turn = alone();
    let cluster = Cluster::start(plan(3).with_proxies());
    let load = Load::start(&cluster.bootstrap(), Shape::light("apart"));
    load.wait_more(SOME);
    for member in [&cluster.bookies[0], &cluster.broker] {
        let link = member.metadata_link.as_ref().expect("a proxy");
        link.cut();
        hold(Duration::from_secs(4));
        link.heal();
        load.wait_more(SOME);
        link.cut_one_way(Way::Back);
        hold(Duration::from_secs(4));
        link.heal();
        load.wait_more(SOME);
    }
    load.finish().assert_flawless();
    cluster.wait_whole("apart");
}

#[test]
fn exactly_three_bookies_one_dead_across_a_restart_of_the_broker() {
    let _turn = alone();
    let mut cluster = Cluster::start(plan(3));
    let load = Load::start(&cluster.bootstrap(), Shape::light("degraded"));
    load.wait_more(SOME);
    cluster.bookies[2].kill();
    load.wait_more(SOME);
    cluster.broker.kill();
    cluster.broker.restart();
    load.wait_more(SOME);
    assert!(cluster.broker.terminate().success(), "a clean stop exits with 0");
    cluster.broker.restart();
    load.wait_more(SOME);
    cluster.bookies[2].restart();
    load.wait_more(SOME);
    load.finish().assert_flawless();
    cluster.wait_whole("degraded");
}

#[test]
fn a_bookie_is_taken_out_and_one_is_replaced() {
    let _turn = alone();
    let mut cluster = Cluster::start(plan(4));
    let load = Load::start(&cluster.bootstrap(), Shape::light("moved"));
    load.wait_more(SOME * 2);
    let (done, text) = cluster.run(&["bookie", "decommission", "4"]);
    assert!(done, "{text}");
    println!("bookie decommission 4 said:\n{text}");
    let (listed, text) = cluster.run(&["ledger", "list", "--bookie", "4", "--json"]);
    assert!(listed && !text.contains("\"ledger\""), "a ledger still names bookie 4:\n{text}");
    cluster.bookies[3].kill();
    load.wait_more(SOME);
    // A machine is gone for good; an empty one takes its place under the same number.
    cluster.bookies[0].kill();
    cluster.bookies[0].wipe();
    let (ordered, text) = cluster.run(&["bookie", "replace", "1", "--no-wait"]);
    assert!(ordered, "{text}");
    cluster.bookies[0].restart();
    load.wait_more(SOME);
    load.finish().assert_flawless();
    cluster.wait_whole("moved");
    // The new one has taken over: the cluster stands without another bookie.
    cluster.bookies[1].kill();
    let (_, text) = cluster.run(&["bookie", "list"]);
    wait_until("the cluster knows the dead bookie", || cluster.run(&["bookie", "list"]).0);
    println!("{text}");
}

/// Empties bookies while they and the broker are dead, so that the head of a topic can be fenced on none of them.
fn lose_for_good(cluster: &mut Cluster, victims: &[usize]) {
    cluster.broker.kill();
    victims.iter().for_each(|at| cluster.bookies[*at].kill());
    for at in victims {
        cluster.bookies[*at].wipe();
        cluster.bookies[*at].restart();
    }
    cluster.broker.spawn();
}

/// The one ledger of a topic.
fn only_ledger(cluster: &Cluster, topic: &str) -> serde_json::Value {
    let (listed, text) = cluster.run(&["ledger", "list", "--topic", topic, "--json"]);
    assert!(listed, "{text}");
    let ledgers: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    ledgers[0].clone()
}

/// Whether every bookie holds the same entries of a ledger.
fn is_on_all(cluster: &Cluster, ledger: &str) -> bool {
    let (shown, text) = cluster.run(&["ledger", "describe", ledger, "--json"]);
    assert!(shown, "{text}");
    let ledger: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let replicas = ledger["replicas"].as_array().expect("replicas");
    replicas.iter().all(|replica| replica["holds"].is_array() && replica["holds"] == replicas[0]["holds"])
}

/// Writes twenty records; what was acknowledged.
fn write_some(cluster: &Cluster, topic: &str) -> client::Acked {
    let (producer, ledger) = client::producer(&cluster.bootstrap(), &[("acks", "all")]);
    (0..20).for_each(|n| client::send(&producer, topic, Some(0), &format!("value {n}")));
    client::flush(&producer);
    let acked = ledger.acked.lock().expect("whole").clone();
    assert_eq!(acked.len(), 20, "{:?}", ledger.failed.lock().expect("whole"));
    acked
}

#[test]
fn the_loss_of_a_head_is_accepted_on_an_operators_word() {
    let _turn = alone();
    let mut cluster = Cluster::start(plan(3));
    let bootstrap = cluster.bootstrap();
    client::create_replicated_topic(&bootstrap, "single", 1, 1);
    write_some(&cluster, "single");
    let head = only_ledger(&cluster, "single");
    let ledger = head["ledger"].to_string();
    let victim = head["fragments"][0]["bookies"][0]["bookie"].as_u64().expect("an id") as usize - 1;
    lose_for_good(&mut cluster, &[victim]);
    let (done, text) = cluster.run(&["ledger", "recover", &ledger, "--accept-loss"]);
    assert!(!done && text.contains("lost: every record from offset 0 on"), "{text}");
    assert!(text.contains("nothing was given up"), "{text}");
    assert_eq!(only_ledger(&cluster, "single")["ledger"], head["ledger"], "and nothing was");
    let (done, text) = cluster.run(&["ledger", "recover", &ledger, "--accept-loss", "--yes"]);
    assert!(done, "{text}");
    assert_eq!(write_some(&cluster, "single").keys().next(), Some(&(0, 0)), "the log begins anew");
    let (deleted, text) = cluster.run(&["topic", "delete", "single"]);
    assert!(deleted, "{text}");

    client::create_replicated_topic(&bootstrap, "triple", 1, 3);
    let acked = write_some(&cluster, "triple");
    let ledger = only_ledger(&cluster, "triple")["ledger"].to_string();
    wait_until("every bookie holds every entry", || is_on_all(&cluster, &ledger));
    lose_for_good(&mut cluster, &[0, 1]);
    let (done, text) = cluster.run(&["ledger", "recover", &ledger, "--accept-loss", "--yes"]);
    println!("ledger recover --accept-loss said:\n{text}");
    assert!(done && text.contains("offsets 0-19, on bookie 3"), "{text}");
    cluster.broker.wait_ready();
    let read = client::read_all(&bootstrap, "triple", 1);
    let read: client::Acked = read.into_iter().map(|r| ((r.partition, r.offset), r.value)).collect();
    assert_eq!(read, acked, "what is left is served");
    let (done, text) = cluster.run(&["ledger", "recover", &ledger, "--accept-loss", "--yes"]);
    assert!(done && text.contains("closed already"), "{text}");
    cluster.wait_whole("triple");
}
