//! The shim, shown on a program that does one system call per step: unsynced data vanishes, synced data stays, faults
//! hit and counters count.

use crate::support::shim::{Shim, cut::Survivors, probe};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

struct Rig {
    scratch: tempfile::TempDir,
    shim: Shim,
}

impl Rig {
    /// None where there is no C compiler.
    fn new() -> Option<Self> {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let root = scratch.path().join("data");
        fs::create_dir(&root).expect("made");
        let shim = Shim::new(&root, &scratch.path().join("state"))?;
        Some(Self { scratch, shim })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join("data").join(name)
    }

    fn text(&self, name: &str) -> Option<String> {
        fs::read(self.path(name)).ok().map(|b| String::from_utf8(b).expect("text"))
    }

    /// Runs the steps in a process under the shim, kills it, and returns what every step said. `@` is the directory.
    fn run(&self, steps: &[&str]) -> Vec<String> {
        let root = self.path("");
        let mut command = Command::new(probe().expect("the compiler was there before"));
        command.args(steps.iter().map(|s| s.replace('@', root.to_str().expect("text"))));
        self.shim.apply(&mut command);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the probe");
        let said = BufReader::new(child.stdout.take().expect("piped"));
        let said = said.lines().map(|l| l.expect("text")).take_while(|l| l != "done").collect();
        child.kill().expect("alive");
        child.wait().expect("reaped");
        said
    }

    fn run_well(&self, steps: &[&str]) {
        for (step, said) in steps.iter().zip(self.run(steps)) {
            assert!(said.ends_with(" ok"), "{step}: {said}");
        }
    }
}

#[test]
fn unsynced_appends_vanish_and_synced_ones_stay() {
    let Some(rig) = Rig::new() else { return };
    rig.run_well(&["append @log one", "sync @log", "sync @", "append @log two", "append @log three"]);
    assert_eq!(rig.text("log").as_deref(), Some("onetwothree"), "a killed process loses nothing");
    let report = rig.shim.power_cut(Survivors::Nothing);
    assert_eq!(rig.text("log").as_deref(), Some("one"));
    assert_eq!((report.changes, report.names), (2, 0));
    assert_eq!(rig.shim.power_cut(Survivors::Nothing).changes, 0, "a second cut finds nothing to undo");
}

#[test]
fn a_file_whose_directory_was_not_synced_has_no_name() {
    let Some(rig) = Rig::new() else { return };
    rig.run_well(&["append @kept x", "sync @kept", "sync @", "append @gone x", "sync @gone"]);
    rig.shim.power_cut(Survivors::Nothing);
    assert_eq!((rig.text("kept").as_deref(), rig.text("gone")), (Some("x"), None));
}

#[test]
fn overwrites_truncations_and_emptied_files_come_back() {
    let Some(rig) = Rig::new() else { return };
    let made = ["append @a 0123456789", "append @b 0123456789", "append @c 0123456789"];
    rig.run_well(&made);
    rig.run_well(&["sync @a", "sync @b", "sync @c", "sync @"]);
    rig.run_well(&["over @a 8 xyzt", "over @a 2 --", "truncate @b 4", "append @b new", "empty @c", "append @c n"]);
    assert_eq!(rig.text("a").as_deref(), Some("01--4567xyzt"));
    rig.shim.power_cut(Survivors::Nothing);
    for name in ["a", "b", "c"] {
        assert_eq!(rig.text(name).as_deref(), Some("0123456789"), "{name}");
    }
}

#[test]
fn renames_and_removals_come_back_until_the_directory_is_synced() {
    let Some(rig) = Rig::new() else { return };
    rig.run_well(&["append @current old", "append @next new", "append @junk j", "sync @current", "sync @next"]);
    rig.run_well(&["sync @junk", "sync @", "rename @next @current", "unlink @junk"]);
    assert_eq!((rig.text("current").as_deref(), rig.text("junk")), (Some("new"), None));
    rig.shim.power_cut(Survivors::Nothing);
    let there = ["current", "next", "junk"].map(|n| rig.text(n).unwrap_or_default());
    assert_eq!(there, ["old", "new", "j"]);

    rig.run_well(&["rename @next @current", "unlink @junk", "sync @"]);
    rig.shim.power_cut(Survivors::Nothing);
    assert_eq!((rig.text("current").as_deref(), rig.text("next"), rig.text("junk")), (Some("new"), None, None));
}

#[test]
fn what_is_unsynced_stays_so_across_a_restart() {
    let Some(rig) = Rig::new() else { return };
    rig.run_well(&["append @log one", "sync @log", "sync @", "append @log two"]);
    rig.run_well(&["append @log three"]);
    rig.shim.power_cut(Survivors::Nothing);
    assert_eq!(rig.text("log").as_deref(), Some("one"));
}

#[test]
fn survivors_are_drawn_from_the_seed() {
    let mut prefixes = std::collections::BTreeSet::new();
    let mut holes = 0;
    for seed in 0..24 {
        for how in [Survivors::Prefix(seed), Survivors::Some(seed)] {
            let Some(rig) = Rig::new() else { return };
            rig.run_well(&["append @log base.", "sync @log", "sync @", "append @log aaaa", "append @log bbbb"]);
            rig.shim.power_cut(how);
            let text = rig.text("log").expect("it was synced");
            assert!(text.starts_with("base."), "{how:?}: {text}");
            match how {
                Survivors::Some(_) => holes += usize::from(text == "base.\0\0\0\0bbbb"),
                _ => {
                    assert!("base.aaaabbbb".starts_with(&text), "{how:?}: {text}");
                    prefixes.insert(text);
                }
            }
        }
    }
    assert!(prefixes.len() > 4, "torn at many places: {prefixes:?}");
    assert!(holes > 0, "a later write survives an earlier one");
}

#[test]
fn what_a_failed_sync_covered_is_lost_whatever_later_syncs_say() {
    let Some(rig) = Rig::new() else { return };
    rig.run_well(&["append @log one", "sync @log", "sync @"]);
    rig.shim.fail_nth_sync(2);
    let said =
        rig.run(&["append @log two", "sync @log", "append @log bad", "sync @log", "append @log end", "sync @log"]);
    assert_eq!(said, ["append ok", "sync ok", "append ok", "sync Input/output error", "append ok", "sync ok"]);
    rig.shim.power_cut(Survivors::Nothing);
    assert_eq!(rig.text("log").as_deref(), Some("onetwo\0\0\0end"), "the later sync lied about the earlier write");
}

#[test]
fn faults_hit_the_files_they_are_meant_for_and_end() {
    let Some(rig) = Rig::new() else { return };
    rig.run_well(&["append @a.log 123", "append @b.sst 123"]);
    rig.shim.only(".log");
    rig.shim.fail_syncs(true);
    assert_eq!(rig.run(&["sync @a.log", "sync @b.sst"]), ["sync Input/output error", "sync ok"]);
    rig.shim.heal();
    rig.shim.leave_room(Some(5));
    let said = rig.run(&["append @a.log 4444", "append @a.log 22", "over @a.log 0 999", "append @a.log 1"]);
    assert_eq!(said, ["append ok", "append No space left on device", "over ok", "append ok"]);
    rig.shim.heal();
    rig.shim.fail_reads(true);
    rig.shim.fail_writes(true);
    assert_eq!(rig.run(&["read @a.log", "append @a.log x"]), ["read Input/output error", "append Input/output error"]);
    rig.shim.heal();
    assert_eq!(rig.run(&["read @a.log", "append @a.log x", "sync @a.log"]), ["read ok", "append ok", "sync ok"]);
}

#[test]
fn it_counts_and_it_kills_at_the_sync_it_was_told() {
    let Some(rig) = Rig::new() else { return };
    rig.run_well(&["append @log 12345", "sync @log", "sync @", "over @log 0 ab"]);
    let counts = rig.shim.counts();
    assert_eq!((counts.syncs, counts.dir_syncs, counts.writes, counts.written), (1, 1, 2, 7));
    assert_eq!((counts.failed, counts.blind), (0, 0));
    rig.shim.crash_at_nth_sync(2);
    let steps = ["append @log x", "sync @log", "append @log y", "sync @log", "append @log z"];
    let root = rig.path("");
    let mut command = Command::new(probe().expect("built"));
    command.args(steps.iter().map(|s| s.replace('@', root.to_str().expect("text"))));
    rig.shim.apply(&mut command);
    let ended = command.stdout(Stdio::null()).status().expect("the probe");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9), "it died by itself");
    assert_eq!(rig.text("log").as_deref(), Some("ab345xy"), "before the sync, and never after it");
}
