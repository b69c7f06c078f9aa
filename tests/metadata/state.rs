//! What metadata nodes keep: growing from a standalone server, damage that keeps a node from voting, disks that were lost,
//! backup and restore, and what the commands say about all of it.

use super::{PATIENCE, read, servers, three, write};
use crate::support::{
    Server,
    cluster::{Cluster, Member, Plan, alone},
    free_port, hold, wait_until,
};
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Runs a command of ours against the nodes at these addresses; whether it succeeded, and all it printed.
fn run(metadata: &str, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(crate::support::binary());
    let output = command.args(arguments).env("MAGNETAR_METADATA", metadata).output().expect("the magnetar binary");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text.into_owned())
}

/// Inverts a bit in the middle of a file.
fn damage(file: &Path) {
    let opened = File::options().read(true).write(true).open(file).expect("opens");
    let at = opened.metadata().expect("a file").len() / 2;
    let mut byte = [0];
    opened.read_exact_at(&mut byte, at).expect("not empty");
    opened.write_all_at(&[byte[0] ^ 0x10], at).expect("written");
}

#[test]
fn the_metadata_of_a_standalone_server_grows_into_three_voters() {
    let _turn = alone();
    let (at, peers) = (free_port(), free_port());
    let address = format!("127.0.0.1:{at}");
    let set = [format!("metadata.address={address}"), format!("metadata.peer_address=127.0.0.1:{peers}")];
    let server = Server::start(&[&set[0], &set[1]]);
    let (made, text) = run(&address, &["metadata", "put", "before", "standalone"]);
    assert!(made, "{text}");

    // The first node of this cluster is never started: the server takes its place.
    let mut cluster = Cluster::prepared(Plan { voters: 3, founder: Some(address.clone()), ..Plan::default() });
    cluster.joined.iter_mut().for_each(Member::restart);
    wait_until("all three vote", || {
        let (_, text) = run(&address, &["metadata", "members"]);
        text.lines().filter(|line| line.contains("voter") || line.contains("leader")).count() == 3
            && !text.contains("under way")
    });
    let own: Vec<String> = cluster.joined.iter().map(|node| node.address().to_string()).collect();
    let (found, text) = run(&own[0], &["metadata", "get", "before"]);
    assert!(found && text.contains("standalone"), "{text}");
    // Now the server may go, and what it knew is still there, and written.
    drop(server);
    let both = own.join(",");
    wait_until("the two go on without it", || run(&both, &["metadata", "put", "after", "alone"]).0);
    let (found, text) = run(&both, &["metadata", "get", "before"]);
    assert!(found && text.contains("standalone"), "{text}");
}

#[test]
fn a_node_whose_log_or_snapshot_is_damaged_does_not_vote_and_says_so() {
    let _turn = alone();
    let (mut cluster, quorum) = three(Plan::default());
    let service = quorum.client(&servers(&cluster), PATIENCE);
    for n in 0..200 {
        quorum.runtime.block_on(write(&service, &format!("k/{n}"), &"v".repeat(500)));
    }
    let victim = if quorum.leader(&cluster) == 3 { 2 } else { 3 };
    let own = cluster.metadata_at(victim).address().to_string();
    let (written, text) = run(&own, &["metadata", "snapshot"]);
    assert!(written, "{text}");
    for n in 0..50 {
        quorum.runtime.block_on(write(&service, &format!("l/{n}"), &"v".repeat(500)));
    }
    cluster.metadata_at(victim).kill();
    let files = cluster.metadata_at(victim).files();
    let of_kind = |wanted: &str| -> Vec<PathBuf> {
        let kind = |file: &PathBuf| file.extension().is_some_and(|e| e == wanted) && !file.ends_with("LOG");
        files.iter().filter(|file| kind(file) && fs::metadata(file).is_ok_and(|m| m.len() > 0)).cloned().collect()
    };
    for kind in ["log", "snapshot"] {
        let found = of_kind(kind);
        assert!(!found.is_empty(), "no file of kind {kind} among {files:?}");
        let kept: Vec<_> = found.iter().map(|file| (file, fs::read(file).expect("reads"))).collect();
        found.iter().for_each(|file| damage(file));
        let node = cluster.metadata_at(victim);
        node.spawn();
        assert!(!node.wait_exit().success(), "a node with a damaged {kind} must not start");
        let said = node.log_text();
        let last = said.lines().rev().find(|line| line.contains("must not vote")).unwrap_or_default();
        println!("a damaged {kind}: {last}");
        assert!(last.contains("magnetar metadata remove"), "it says what to do: {said}");
        kept.iter().for_each(|(file, bytes)| fs::write(file, bytes).expect("written back"));
    }
    // Nothing was harmed: with its files as they were it goes on, and meanwhile the others did.
    quorum.runtime.block_on(write(&service, "m", "v"));
    cluster.metadata_at(victim).restart();
    quorum.wait_settled(&cluster, &[1, 2, 3]);
}

#[test]
fn a_lost_disk_comes_back_as_a_new_member_on_an_operators_word() {
    let _turn = alone();
    let (mut cluster, quorum) = three(Plan::default());
    let lost = if quorum.leader(&cluster) == 3 { 2 } else { 3 };
    let number = lost.to_string();
    cluster.metadata_at(lost).kill();
    cluster.metadata_at(lost).wipe();
    cluster.metadata_at(lost).spawn();
    assert!(!cluster.metadata_at(lost).wait_exit().success(), "it is refused");
    let said = cluster.metadata_at(lost).log_text();
    assert!(said.contains(&format!("magnetar metadata remove {lost}")), "{said}");
    let (removed, text) = run(&cluster.metadata_addresses(), &["metadata", "remove", &number]);
    println!("metadata remove said: {text}");
    assert!(removed, "{text}");
    cluster.metadata_at(lost).restart();
    quorum.wait_settled(&cluster, &[1, 2, 3]);
}

#[test]
fn a_node_that_has_moved_tells_the_others_and_deposes_nobody() {
    let _turn = alone();
    let (mut cluster, quorum) = three(Plan::default());
    let leader = quorum.leader(&cluster);
    let term = quorum.statuses(&cluster)[0].term;
    let moved = if leader == 3 { 2 } else { 3 };
    let there = format!("127.0.0.1:{}", free_port());
    let node = cluster.metadata_at(moved);
    assert!(node.terminate().success());
    node.argue_anew("--peer-address", &there);
    node.restart();
    quorum.wait_settled(&cluster, &[1, 2, 3]);
    for one in quorum.statuses(&cluster) {
        let known = one.members.iter().find(|member| member.member.id == moved).expect("a member");
        assert_eq!(known.member.peer_address, there, "as node {} knows it", one.node);
        assert_eq!((one.term, one.leader), (term, Some(leader)), "as node {} knows it", one.node);
    }
}

#[test]
fn a_node_killed_while_a_snapshot_arrives_comes_back_and_can_lead() {
    let _turn = alone();
    let (mut cluster, quorum) = three(Plan::default());
    let leader = quorum.leader(&cluster);
    let behind = if leader == 3 { 2 } else { 3 };
    cluster.metadata_at(behind).kill();
    let metadata = cluster.metadata_addresses();
    let (filled, text) = run(&metadata, &["bench", "metadata", "fill", "--keys", "100000", "--value-size", "200"]);
    assert!(filled, "{text}");
    let service = quorum.client(&servers(&cluster), PATIENCE);
    // The log keeps some entries beside the snapshot; these push out all that the node lacks.
    for n in 0..1_100 {
        quorum.runtime.block_on(write(&service, "k", &n.to_string()));
    }
    let at_leader = cluster.metadata_at(leader).address().to_string();
    let (written, text) = run(&at_leader, &["metadata", "snapshot"]);
    assert!(written, "{text}");
    quorum.runtime.block_on(write(&service, "k", "last"));
    for kill in 1..=10 {
        let node = cluster.metadata_at(behind);
        let begun = |text: String| text.matches("receiving a metadata snapshot").count();
        let before = begun(node.log_text());
        node.spawn();
        wait_until("a snapshot arrives", || begun(node.log_text()) > before || node.is_ready());
        hold(std::time::Duration::from_millis(25 * kill));
        node.kill();
        // Others write on while it comes and goes.
        quorum.runtime.block_on(write(&service, "traffic", &kill.to_string()));
    }
    cluster.metadata_at(behind).restart();
    wait_until("it has caught up", || {
        let all = quorum.statuses(&cluster);
        all.len() == 3 && all.iter().all(|one| one.applied == all[0].applied)
    });
    assert!(
        cluster.metadata_at(behind).log_text().contains("metadata snapshot installed"),
        "otherwise nothing was shown"
    );
    let (moved, text) = run(&metadata, &["metadata", "transfer", &behind.to_string()]);
    assert!(moved, "{text}");
    assert_eq!(quorum.leader(&cluster), behind);
    assert_eq!(quorum.runtime.block_on(read(&service, "traffic")).as_deref(), Some("10"));
    let all = quorum.statuses(&cluster);
    assert!(all.iter().all(|one| one.keys == all[0].keys), "{all:?}");
}

#[test]
fn a_cluster_that_is_lost_begins_again_from_a_backup() {
    let _turn = alone();
    let (mut cluster, quorum) = three(Plan::default());
    let service = quorum.client(&servers(&cluster), PATIENCE);
    quorum.runtime.block_on(write(&service, "k", "kept"));
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let file = scratch.path().join("metadata.snapshot").display().to_string();
    let (written, text) = run(&cluster.metadata_addresses(), &["metadata", "snapshot", &file]);
    println!("metadata snapshot said: {text}");
    assert!(written, "{text}");
    let (twice, text) = run(&cluster.metadata_addresses(), &["metadata", "snapshot", &file]);
    assert!(!twice && text.contains("exist"), "a backup is never overwritten: {text}");
    quorum.runtime.block_on(write(&service, "k", "too late"));
    cluster.kill_all();
    (1..=3).for_each(|id| cluster.metadata_at(id).wipe());

    let home = cluster.metadata.data().display().to_string();
    let restore = ["metadata", "restore", &file, "--data-dir", &home];
    let (restored, text) = run("", &restore);
    println!("metadata restore said: {text}");
    assert!(restored, "{text}");
    let (again, text) = run("", &restore);
    assert!(!again && text.contains("is not empty"), "{text}");
    cluster.restart_metadata();
    quorum.wait_settled(&cluster, &[1, 2, 3]);
    let service = quorum.client(&servers(&cluster), PATIENCE);
    assert_eq!(quorum.runtime.block_on(read(&service, "k")).as_deref(), Some("kept"));

    let damaged = scratch.path().join("damaged");
    fs::copy(&file, &damaged).expect("copied");
    damage(&damaged);
    let elsewhere = scratch.path().join("elsewhere").display().to_string();
    let (taken, text) = run("", &["metadata", "restore", &damaged.display().to_string(), "--data-dir", &elsewhere]);
    assert!(!taken && text.contains("damaged"), "{text}");
}

#[test]
fn a_lock_on_the_command_line_lets_one_run_after_the_other() {
    let _turn = alone();
    let (mut cluster, quorum) = three(Plan::default());
    let metadata = cluster.metadata_addresses();
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let log = scratch.path().join("log").display().to_string();
    let script = format!("echo begin >> {log}; sleep 0.3; echo end >> {log}; echo token $MAGNETAR_TOKEN");
    let spawn = || {
        let mut command = Command::new(crate::support::binary());
        command.args(["metadata", "lock", "nightly", "--", "sh", "-c", &script]).env("MAGNETAR_METADATA", &metadata);
        command.stdout(std::process::Stdio::piped()).spawn().expect("the magnetar binary")
    };
    let all = [spawn(), spawn(), spawn()];
    // Meanwhile the leader goes, and nobody loses a turn by that.
    let leader = quorum.leader(&cluster);
    cluster.metadata_at(leader).kill();
    let mut tokens = Vec::new();
    for one in all {
        let output = one.wait_with_output().expect("ends");
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        tokens.push(said.trim().strip_prefix("token ").expect("its token").parse::<u64>().expect("a number"));
    }
    let lines = fs::read_to_string(&log).expect("written");
    assert_eq!(lines, "begin\nend\n".repeat(3), "never two at once");
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 3, "every turn has a token of its own");
    let (shown, text) = run(&metadata, &["metadata", "lock", "nightly", "--show"]);
    assert!(shown && text.contains("nobody holds it"), "{text}");
}
