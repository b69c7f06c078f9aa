//! Disks of bookies fail in every way there is, while librdkafka produces and reads: syncs fail or are slow, the disk
//! fills up, bits flip in every kind of file, a directory is emptied. Nothing acknowledged is lost, no wrong byte is
//! read, and what can heal heals. Without a C compiler the parts that need the fault shim say that they are skipped.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use support::{
    cluster::{Cluster, Member, Plan, alone},
    load::{Load, Shape},
    now,
    shim::cut::Survivors,
    wait_until,
};

/// Acknowledgements that show that the cluster works at this moment.
const SOME: usize = 400;

fn plan() -> Plan {
    Plan::of(3).with("repair.grace=2s")
}

/// Whether this cluster runs under the shim.
fn has_shim(cluster: &Cluster) -> bool {
    cluster.bookies[0].shim.is_some()
}

#[test]
fn a_failed_sync_ends_the_acknowledgements_of_that_bookie() {
    let _turn = alone();
    let mut cluster = Cluster::start(plan().with_shim());
    if !has_shim(&cluster) {
        return;
    }
    let load = Load::start(&cluster.bootstrap(), Shape::light("eio"));
    load.wait_more(SOME);
    for (victim, all) in [(0, false), (1, true)] {
        let bookie = &mut cluster.bookies[victim];
        let shim = bookie.shim.as_ref().expect("checked");
        let before = shim.counts().failed;
        // One sync fails and the next would succeed: the kernel has forgotten what it did not write.
        if all {
            shim.fail_syncs(true)
        } else {
            shim.fail_nth_sync(1)
        }
        wait_until("the fault hits", || shim.counts().failed > before);
        wait_until("the bookie is no longer ready", || !bookie.is_running() || !bookie.is_ready());
        load.wait_more(SOME);
        bookie.power_cut(Survivors::Nothing);
        bookie.shim.as_ref().expect("checked").heal();
        bookie.restart();
        load.wait_more(SOME);
    }
    load.finish().assert_flawless();
    cluster.wait_whole("eio");
}

#[test]
fn slow_syncs_of_one_bookie_slow_nobody_down() {
    let _turn = alone();
    let cluster = Cluster::start(plan().with_shim());
    if !has_shim(&cluster) {
        return;
    }
    let load = Load::start(&cluster.bootstrap(), Shape::light("slow"));
    load.wait_more(SOME);
    let start = now();
    load.wait_more(SOME * 4);
    let healthy = load.latencies(start, now());
    let shim = cluster.bookies[2].shim.as_ref().expect("checked");
    shim.delay_syncs(Duration::from_millis(500));
    let start = now();
    load.wait_more(SOME * 8);
    let slow = load.latencies(start, now());
    shim.heal();
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    println!(
        "MEASURED one bookie syncs 500 ms late: p99 {:.1} ms, longest {:.1} ms; healthy p99 {:.1} ms; aim {:.1} ms",
        ms(slow.p99),
        ms(slow.max),
        ms(healthy.p99),
        ms(healthy.p99) * 2.0 + 5.0
    );
    load.finish().assert_flawless();
    cluster.wait_whole("slow");
}

#[test]
fn a_full_disk_stops_one_bookie_and_space_brings_it_back() {
    let _turn = alone();
    let mut cluster = Cluster::start(plan().with_shim());
    if !has_shim(&cluster) {
        return;
    }
    let load = Load::start(&cluster.bootstrap(), Shape::light("full"));
    load.wait_more(SOME);
    let bookie = &mut cluster.bookies[0];
    let shim = bookie.shim.as_ref().expect("checked");
    let before = shim.counts().failed;
    shim.leave_room(Some(64 << 10));
    wait_until("the disk is full", || shim.counts().failed > before);
    load.wait_more(SOME);
    shim.heal();
    // A failed write ends the acknowledgements of a process; with space a new one goes on.
    bookie.kill();
    bookie.restart();
    load.wait_more(SOME);
    load.finish().assert_flawless();
    cluster.wait_whole("full");
}

/// A file system of its own, as small as a full disk needs it; unmounted when it goes.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None, with a line that says so, where mounting is not allowed.
    fn mount(at: &Path, megabytes: u32) -> Option<Self> {
        fs::create_dir_all(at).expect("a mount point");
        let size = format!("size={megabytes}m");
        let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        if mounted.is_ok_and(|o| o.status.success()) {
            return Some(Self(at.to_path_buf()));
        }
        support::skip("this machine does not let us mount a small disk");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Writes until less than 16 MiB are free.
fn fill(ballast: &Path) {
    let free = |at: &Path| rustix::fs::statvfs(at).map_or(0, |s| s.f_bavail * s.f_bsize);
    let mut file = fs::File::create(ballast).expect("a file");
    while free(ballast) > 16 << 20 {
        std::io::Write::write_all(&mut file, &[1; 1 << 20]).expect("there is room");
    }
}

#[test]
fn a_bookie_on_a_small_disk_becomes_read_only_and_serves_on() {
    let _turn = alone();
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let Some(disk) = SmallDisk::mount(&scratch.path().join("disk"), 320) else { return };
    let homes = vec![Some(disk.0.clone())];
    let mut cluster = Cluster::start(Plan { homes, ..plan() }.with("bookie.reserve=24MiB"));
    let load = Load::start(&cluster.bootstrap(), Shape::light("small"));
    load.wait_more(SOME);
    // Something else fills the disk up to the reserve.
    let ballast = disk.0.join("ballast");
    fill(&ballast);
    wait_until("the cluster sees it", || cluster.run(&["bookie", "list"]).1.contains("read-only"));
    load.wait_more(SOME * 2);
    fs::remove_file(&ballast).expect("removed");
    wait_until("it takes entries again", || !cluster.run(&["bookie", "list"]).1.contains("read-only"));
    load.wait_more(SOME);
    load.finish().assert_flawless();
    cluster.wait_whole("small");
    drop(std::mem::take(&mut cluster.bookies));
}

/// The kinds of files of a bookie that can be damaged, by a part of their path.
const KINDS: [(&str, &str); 8] = [
    ("WAL", ".log"),
    ("SST", ".sst"),
    ("blob", ".blob"),
    ("MANIFEST", "MANIFEST-"),
    ("CURRENT", "CURRENT"),
    ("OPTIONS", "OPTIONS-"),
    ("watermark", "watermark"),
    ("cookie", "cookie"),
];

/// Flips bits in the middle of the largest file of a kind; false if there is none that is not empty.
fn flip(bookie: &Member, part: &str) -> bool {
    let of_kind = |path: &PathBuf| path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.contains(part));
    let size = |path: &PathBuf| fs::metadata(path).map_or(0, |m| m.len());
    let Some(path) = bookie.files().into_iter().filter(of_kind).max_by_key(size).filter(|p| size(p) > 0) else {
        return false;
    };
    let mut bytes = fs::read(&path).expect("readable");
    let middle = bytes.len() / 2;
    let end = (middle + 16).min(bytes.len());
    bytes[middle..end].iter_mut().for_each(|b| *b ^= 0x24);
    fs::write(&path, bytes).expect("written");
    true
}

#[test]
fn flipped_bits_in_every_kind_of_file_cost_nothing() {
    let _turn = alone();
    let mut cluster = Cluster::start(plan().with("bookie.scrub_bandwidth=256MiB"));
    let load = Load::start(&cluster.bootstrap(), Shape { size: 6_000, rate: 100, ..Shape::light("flipped") });
    let mut damaged = 0;
    for (at, (kind, part)) in KINDS.into_iter().enumerate() {
        load.wait_more(SOME / 2);
        let victim = at % 3;
        // A clean stop writes tables, so that there is one of each kind; a kill leaves a journal.
        if kind == "WAL" {
            cluster.bookies[victim].kill()
        } else {
            cluster.bookies[victim].terminate();
        }
        if !flip(&cluster.bookies[victim], part) {
            println!("bookie {} has no {kind} to damage", victim + 1);
            cluster.bookies[victim].restart();
            continue;
        }
        damaged += 1;
        let bookie = &mut cluster.bookies[victim];
        bookie.spawn();
        wait_until("it starts or refuses to", || !bookie.is_running() || bookie.is_ready());
        let starts = bookie.is_running();
        println!("flipped bits in the {kind}: the bookie {}", if starts { "starts" } else { "refuses to start" });
        if starts {
            // It may hold damage that shows only when it is read: every byte is read and compared.
            let id = (victim + 1).to_string();
            let (_, text) = cluster.run(&["bookie", "scrub", &id]);
            println!("scrub: {}", text.lines().last().unwrap_or_default());
        } else {
            cluster.bookies[victim].kill();
            cluster.bookies[victim].wipe();
            cluster.bookies[victim].restart();
            // One disk after the other may be lost, and not the next before repair has made up for the last.
            cluster.wait_whole("flipped");
        }
    }
    assert!(damaged >= 6, "only {damaged} kinds of files were there");
    load.wait_more(SOME);
    load.finish().assert_flawless();
    cluster.wait_whole("flipped");
}

#[test]
fn an_emptied_bookie_comes_back_as_another_and_is_filled_again() {
    let _turn = alone();
    let mut cluster = Cluster::start(plan());
    let load = Load::start(&cluster.bootstrap(), Shape::light("wiped"));
    load.wait_more(SOME * 2);
    for victim in [0, 1] {
        cluster.bookies[victim].kill();
        load.wait_more(SOME);
        cluster.bookies[victim].wipe();
        cluster.bookies[victim].restart();
        load.wait_more(SOME);
        // Two of three have been emptied in the end: what was not copied back in between would be lost.
        wait_healed(&cluster, "wiped");
    }
    load.finish().assert_flawless();
    cluster.wait_whole("wiped");
}

/// No record hangs on fewer copies than two lost disks leave; the last ledgers still grow.
fn wait_healed(cluster: &Cluster, topic: &str) {
    wait_until("every closed ledger has its copies", || {
        let (listed, text) = cluster.run(&["ledger", "list", "--topic", topic, "--short", "--json"]);
        listed && !text.contains("\"closed\"")
    });
    cluster.wait_whole(topic);
}

#[test]
fn reads_that_fail_on_one_bookie_are_served_by_another() {
    let _turn = alone();
    let mut cluster = Cluster::start(plan().with_shim());
    if !has_shim(&cluster) {
        return;
    }
    let load = Load::start(&cluster.bootstrap(), Shape { size: 6_000, ..Shape::light("unread") });
    load.wait_more(SOME * 3);
    // After a clean restart nothing is in memory, neither of the bookie nor of the broker.
    cluster.bookies[0].terminate();
    cluster.bookies[0].restart();
    cluster.broker.kill();
    cluster.broker.restart();
    let shim = cluster.bookies[0].shim.as_ref().expect("checked");
    shim.fail_reads(true);
    load.wait_more(SOME);
    load.finish().assert_flawless();
    assert!(shim.counts().failed > 0, "nobody asked this bookie: nothing was shown");
    shim.heal();
    cluster.wait_whole("unread");
}
