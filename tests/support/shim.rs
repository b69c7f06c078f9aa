//! The fault shim: a library preloaded into a server that journals what a power cut would undo and injects storage
//! faults (`tests/shim/shim.c`). Owns building it, its control file and its counters; the cut itself is in `cut`.
//! Never touches files outside of the watched directory and its own state directory.

pub mod cut;

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Fields of the control file: 8 bytes each, in the order of `struct control`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Syncs = 2,
    DirSyncs = 3,
    Writes = 4,
    Written = 5,
    Failed = 6,
    Blind = 7,
    FailSyncAt = 8,
    FailSyncs = 9,
    CrashSyncAt = 10,
    DelayUs = 11,
    RoomSet = 12,
    Room = 13,
    FailReads = 14,
    FailWrites = 15,
}

const MATCH_AT: u64 = 128;
const MATCH_BYTES: usize = 128;
const CONTROL_BYTES: u64 = MATCH_AT + MATCH_BYTES as u64;

/// What the shim has counted since its state directory was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Syncs of files that were asked for.
    pub syncs: u64,
    /// Syncs of directories that were asked for.
    pub dir_syncs: u64,
    /// Writes that were let through.
    pub writes: u64,
    /// Bytes of those writes.
    pub written: u64,
    /// Calls that failed on purpose.
    pub failed: u64,
    /// Mappings through which a watched file changes unseen; the power cut is not faithful if there are any.
    pub blind: u64,
}

/// The shim of one server: which directory it watches, and what it is told to break.
pub struct Shim {
    root: PathBuf,
    state: PathBuf,
    control: File,
}

impl Shim {
    /// A shim that watches `root` and keeps its journal in `state`, which must lie outside of it on the same file
    /// system. None, with a line that says so, where there is no C compiler.
    pub fn new(root: &Path, state: &Path) -> Option<Self> {
        library()?;
        assert!(!state.starts_with(root), "the journal must survive the cut");
        fs::create_dir_all(state).expect("a directory for the shim");
        let path = state.join("control");
        let control = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let control = control.expect("a control file");
        control.set_len(CONTROL_BYTES).expect("room for the control file");
        Some(Self { root: root.to_path_buf(), state: state.to_path_buf(), control })
    }

    /// Makes `command` run under the shim. The process before it must be gone.
    pub fn apply(&self, command: &mut Command) {
        cut::compact(&self.root, &self.state);
        command.env("LD_PRELOAD", library().expect("built before"));
        command.env("MAGNETAR_SHIM_ROOT", &self.root).env("MAGNETAR_SHIM_STATE", &self.state);
    }

    /// Pulls the plug: changes the directory to what could have survived. The process must be dead.
    pub fn power_cut(&self, how: cut::Survivors) -> cut::Report {
        assert_eq!(self.counts().blind, 0, "a mapped file escapes the journal: the cut would not be faithful");
        cut::power_cut(&self.root, &self.state, how)
    }

    /// Forgets what is not durable, for a directory that was emptied by hand. The process must be dead.
    pub fn forget(&self) {
        cut::clear(&self.state);
    }

    /// The n-th sync from now on fails with EIO, and what it covered is lost; the later ones succeed.
    pub fn fail_nth_sync(&self, n: u64) {
        self.set(Field::FailSyncAt, self.get(Field::Syncs) + n);
    }

    /// Every sync fails with EIO from now on, or no longer.
    pub fn fail_syncs(&self, on: bool) {
        self.set(Field::FailSyncs, u64::from(on));
    }

    /// The process dies of SIGKILL at the n-th sync from now on, before the sync.
    pub fn crash_at_nth_sync(&self, n: u64) {
        self.set(Field::CrashSyncAt, self.get(Field::Syncs) + n);
    }

    /// Every sync takes this much longer.
    pub fn delay_syncs(&self, by: std::time::Duration) {
        self.set(Field::DelayUs, u64::try_from(by.as_micros()).expect("a short delay"));
    }

    /// After this many more bytes the disk is full; none: it never is.
    pub fn leave_room(&self, bytes: Option<u64>) {
        self.set(Field::Room, bytes.unwrap_or(0));
        self.set(Field::RoomSet, u64::from(bytes.is_some()));
    }

    /// Reads fail with EIO, or no longer.
    pub fn fail_reads(&self, on: bool) {
        self.set(Field::FailReads, u64::from(on));
    }

    /// Writes fail with EIO, or no longer.
    pub fn fail_writes(&self, on: bool) {
        self.set(Field::FailWrites, u64::from(on));
    }

    /// Faults touch only files whose path holds this.
    pub fn only(&self, part: &str) {
        assert!(part.len() < MATCH_BYTES);
        let mut text = [0; MATCH_BYTES];
        text[..part.len()].copy_from_slice(part.as_bytes());
        self.control.write_all_at(&text, MATCH_AT).expect("the control file");
    }

    /// No faults any more. The journal goes on.
    pub fn heal(&self) {
        for field in [
            Field::FailSyncAt,
            Field::FailSyncs,
            Field::CrashSyncAt,
            Field::DelayUs,
            Field::RoomSet,
            Field::FailReads,
            Field::FailWrites,
        ] {
            self.set(field, 0);
        }
        self.only("");
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        Counts {
            syncs: self.get(Field::Syncs),
            dir_syncs: self.get(Field::DirSyncs),
            writes: self.get(Field::Writes),
            written: self.get(Field::Written),
            failed: self.get(Field::Failed),
            blind: self.get(Field::Blind),
        }
    }

    fn get(&self, field: Field) -> u64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, field as u64 * 8).expect("the control file");
        u64::from_ne_bytes(bytes)
    }

    fn set(&self, field: Field, value: u64) {
        self.control.write_all_at(&value.to_ne_bytes(), field as u64 * 8).expect("the control file");
    }
}

/// The built library; none, said once and loudly, without a C compiler.
fn library() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(|| build("shim.c", &["-shared", "-fPIC"])).as_deref()
}

/// The program that does one system call per step.
pub fn probe() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(|| build("probe.c", &[])).as_deref()
}

fn build(source: &str, flags: &[&str]) -> Option<PathBuf> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shim").join(source);
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{source}.built"));
    // Other test programs may build or use the same file at this moment: it appears whole or not at all.
    let fresh = to.with_extension(format!("{}", std::process::id()));
    let built = Command::new("cc").args(["-O2", "-Wall", "-o"]).arg(&fresh).args(flags).arg(&from).output();
    match built {
        Ok(output) => assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(problem) => {
            super::skip(&format!("no C compiler (cc: {problem}), so there are no power cuts and no storage faults"));
            return None;
        }
    }
    fs::rename(&fresh, &to).expect("a built library");
    Some(to)
}
