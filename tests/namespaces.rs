//! A cluster whose processes stand in network namespaces of their own, on one switch: the kernel's network between them
//! is cut, one way and both ways, while librdkafka produces and reads. No client sees an error, and nothing acknowledged
//! is lost, doubled or reordered. Where the machine gives no namespaces (root and iproute2), a line says so.

mod support;

use std::{sync::Arc, time::Duration};
use support::{
    cluster::{Cluster, Plan, Room, alone},
    hold,
    lan::Lan,
    load::{Load, Shape},
    now,
};

/// Acknowledgements that show that the cluster works at this moment.
const SOME: usize = 400;
/// Longer than a session lives.
const LONG: Duration = Duration::from_secs(12);
const BOOKIES: usize = 3;

/// Runs a test in the client's room; on a thread of its own, because nobody comes out again.
fn in_lan(test: impl FnOnce(&Lan, Cluster) + Send + 'static) {
    let _turn = alone();
    let Some(lan) = Lan::build(Room::bookie(BOOKIES)) else { return };
    let lan = Arc::new(lan);
    let inside = std::thread::spawn(move || {
        lan.enter(Room::CLIENT);
        let cluster = Cluster::start(Plan::of(BOOKIES).with("repair.grace=2s").with_lan(Arc::clone(&lan)));
        test(&lan, cluster);
    });
    if let Err(panic) = inside.join() {
        std::panic::resume_unwind(panic);
    }
}

/// What is done to the network.
type Act<'a> = &'a dyn Fn();

#[test]
fn a_bookie_is_cut_off_one_way_and_both_ways() {
    in_lan(|lan, cluster| {
        let load = Load::start(&cluster.bootstrap(), Shape::light("cut"));
        load.wait_more(SOME);
        let bookie = Room::bookie;
        let faults: [(&str, Act<'_>, Act<'_>); 4] = [
            ("requests vanish", &|| lan.cut(Room::BROKER, bookie(0)), &|| lan.mend(Room::BROKER, bookie(0))),
            ("answers vanish", &|| lan.cut(bookie(1), Room::BROKER), &|| lan.mend(bookie(1), Room::BROKER)),
            ("its cable is out", &|| lan.unplug(bookie(2)), &|| lan.plug(bookie(2))),
            ("two bookies do not see each other", &|| lan.cut(bookie(0), bookie(1)), &|| {
                lan.mend(bookie(0), bookie(1));
            }),
        ];
        for (name, fault, mend) in faults {
            let start = now();
            fault();
            load.wait_more(SOME * 3);
            let longest = load.latencies(start, now()).max.as_secs_f64() * 1e3;
            println!("MEASURED in namespaces, {name}: longest produce stall {longest:.1} ms");
            mend();
            load.wait_more(SOME);
        }
        load.finish().assert_flawless();
        cluster.wait_whole("cut");
    });
}

#[test]
fn metadata_is_cut_off_from_a_bookie_and_from_the_broker() {
    in_lan(|lan, cluster| {
        let load = Load::start(&cluster.bootstrap(), Shape::light("apart"));
        load.wait_more(SOME);
        lan.unplug(Room::METADATA);
        load.wait_more(SOME);
        lan.plug(Room::METADATA);
        load.wait_more(SOME);
        // Longer than the session of the broker lives: it must register again, and takes its partitions over anew.
        for room in [Room::bookie(0), Room::BROKER] {
            for (from, to) in [(room, Room::METADATA), (Room::METADATA, room)] {
                lan.cut(from, to);
                hold(LONG);
                lan.mend(from, to);
                load.wait_more(SOME);
            }
        }
        load.finish().assert_flawless();
        cluster.wait_whole("apart");
    });
}

#[test]
fn clients_are_cut_off_one_way_and_both_ways() {
    in_lan(|lan, cluster| {
        let load = Load::start(&cluster.bootstrap(), Shape::light("away"));
        load.wait_more(SOME);
        for (from, to) in [(Room::CLIENT, Room::BROKER), (Room::BROKER, Room::CLIENT)] {
            lan.cut(from, to);
            hold(Duration::from_secs(3));
            lan.mend(from, to);
            load.wait_more(SOME);
        }
        lan.unplug(Room::BROKER);
        hold(Duration::from_secs(3));
        lan.plug(Room::BROKER);
        load.wait_more(SOME);
        load.finish().assert_flawless();
        cluster.wait_whole("away");
    });
}

#[test]
fn nothing_is_left_of_a_network() {
    let _turn = alone();
    let Some(lan) = Lan::build(2) else { return };
    let rooms = [lan.room(0), lan.room(1)];
    let stands = |room: &String| std::path::Path::new("/run/netns").join(room).exists();
    assert!(rooms.iter().all(stands));
    let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _lan = lan;
        panic!("a test fails");
    }));
    assert!(broken.is_err() && !rooms.iter().any(stands));
}
