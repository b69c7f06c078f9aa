//! The power cut: takes the journal of the fault shim and turns a directory into one that could have survived the loss
//! of power. Owns the meaning of "durable": contents by a sync of the file, names by a sync of the directory, nothing
//! that a failed sync covered. Works on the files of a process that is dead; never runs beside one.

use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

const MAGIC: u32 = 0x4d47_5348;
const HEADER: usize = 64;
/// A journal that grew beyond this is rewritten before the next start.
const COMPACT_ABOVE: u64 = 8 << 20;

const WRITE: u32 = 1;
const RESIZE: u32 = 2;
const SYNC: u32 = 3;
const LOST: u32 = 4;
const CREATE: u32 = 5;
const RENAME: u32 = 6;
const UNLINK: u32 = 7;

/// Which changes that were not synced survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survivors {
    /// None: the longest loss there can be.
    Nothing,
    /// Of every file a random prefix of its changes, the last one of them torn; of all names a random prefix.
    Prefix(u64),
    /// Of every file a random selection of its changes, with zeroes where one before a survivor is missing.
    Some(u64),
}

/// What a cut undid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Writes and truncations that were undone, in whole or in part.
    pub changes: u64,
    /// Creations, renames and removals that were undone.
    pub names: u64,
    /// Changes that were not synced and survived in whole.
    pub survived: u64,
}

/// One journal record, as `struct record` has it.
#[derive(Debug, Clone)]
struct Record {
    kind: u32,
    seq: u64,
    ino: u64,
    offset: u64,
    len: u64,
    old_len: u64,
    dir: u64,
    paths: Vec<u8>,
    image: Vec<u8>,
}

impl Record {
    fn end(&self) -> u64 {
        if self.kind == RESIZE { self.offset } else { self.offset + self.len }
    }

    fn from(&self) -> PathBuf {
        PathBuf::from(self.path(0))
    }

    fn to(&self) -> PathBuf {
        PathBuf::from(self.path(1))
    }

    fn path(&self, n: usize) -> String {
        let text = self.paths.split(|b| *b == b'\n').nth(n).unwrap_or_default();
        String::from_utf8(text.to_vec()).expect("test paths are text")
    }

    fn encode(&self, out: &mut Vec<u8>) {
        for n in [MAGIC, self.kind, self.paths.len() as u32, self.image.len() as u32] {
            out.extend(n.to_ne_bytes());
        }
        for n in [self.seq, self.ino, self.offset, self.len, self.old_len, self.dir] {
            out.extend(n.to_ne_bytes());
        }
        out.extend(&self.paths);
        out.extend(&self.image);
    }
}

/// Everything in the journal; a record that was cut short by the death of the process had no effect yet.
fn parse(bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    let mut rest = bytes;
    while rest.len() >= HEADER {
        let small = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().expect("four bytes"));
        let large = |at: usize| u64::from_ne_bytes(rest[at..at + 8].try_into().expect("eight bytes"));
        assert_eq!(small(0), MAGIC, "the journal of the shim is damaged");
        let (paths, image) = (small(8) as usize, small(12) as usize);
        if rest.len() < HEADER + paths + image {
            break;
        }
        records.push(Record {
            kind: small(4),
            seq: large(16),
            ino: large(24),
            offset: large(32),
            len: large(40),
            old_len: large(48),
            dir: large(56),
            paths: rest[HEADER..HEADER + paths].to_vec(),
            image: rest[HEADER + paths..HEADER + paths + image].to_vec(),
        });
        rest = &rest[HEADER + paths + image..];
    }
    records
}

/// What is not durable of one file.
#[derive(Default)]
struct FileChanges {
    changes: Vec<Record>,
    /// Changes up to this number were covered by a sync that failed.
    lost: u64,
    /// The file is at least this long, because later changes are durable.
    floor: u64,
}

/// All that is not durable.
#[derive(Default)]
struct Pending {
    files: BTreeMap<u64, FileChanges>,
    names: Vec<Record>,
}

impl Pending {
    fn of(records: Vec<Record>) -> Self {
        let mut pending = Self::default();
        for record in records {
            pending.take(record);
        }
        pending
    }

    fn take(&mut self, record: Record) {
        match record.kind {
            WRITE | RESIZE => self.files.entry(record.ino).or_default().changes.push(record),
            SYNC => self.synced(record.ino, record.seq),
            LOST => {
                let file = self.files.entry(record.ino).or_default();
                file.lost = file.lost.max(record.seq);
            }
            CREATE | RENAME | UNLINK => {
                // A new file may have the inode of one that is gone. A second name (old_len 1) is not a new file.
                if record.kind == CREATE && record.old_len == 0 {
                    self.files.remove(&record.ino);
                }
                self.names.push(record);
            }
            kind => panic!("journal record of unknown kind {kind}"),
        }
    }

    fn synced(&mut self, ino: u64, seq: u64) {
        self.names.retain(|n| n.dir != ino || n.seq > seq);
        let Some(file) = self.files.get_mut(&ino) else { return };
        let lost = file.lost;
        let (durable, open): (Vec<_>, Vec<_>) =
            std::mem::take(&mut file.changes).into_iter().partition(|c| c.seq > lost && c.seq <= seq);
        file.changes = open;
        file.floor = durable.iter().map(Record::end).fold(file.floor, u64::max);
        if file.changes.is_empty() {
            self.files.remove(&ino);
        }
    }
}

/// See [`super::Shim::power_cut`].
pub fn power_cut(root: &Path, state: &Path, how: Survivors) -> Report {
    let pending = Pending::of(parse(&fs::read(state.join("journal")).unwrap_or_default()));
    let mut random = StdRng::seed_from_u64(match how {
        Survivors::Nothing => 0,
        Survivors::Prefix(seed) | Survivors::Some(seed) => seed,
    });
    let mut report = Report::default();
    let paths = inodes(root, state);
    for (ino, file) in &pending.files {
        // A file that no name leads to has vanished for good.
        if let Some(path) = paths.get(ino) {
            let kept = choose(how, &file.changes, &mut random);
            undo_changes(path, file, &kept, &mut report);
        }
    }
    let kept = if how == Survivors::Nothing { 0 } else { random.random_range(0..=pending.names.len()) };
    for name in pending.names[kept..].iter().rev() {
        undo_name(name, state);
        report.names += 1;
    }
    clear(state);
    report
}

/// Removes the journal and what it kept.
pub fn clear(state: &Path) {
    for entry in fs::read_dir(state).expect("the shim's directory").flatten() {
        if entry.file_name() != "control" {
            fs::remove_file(entry.path()).expect("removed");
        }
    }
}

/// Rewrites a long journal without what is durable by now.
pub fn compact(root: &Path, state: &Path) {
    let path = state.join("journal");
    if fs::metadata(&path).map_or(0, |m| m.len()) < COMPACT_ABOVE {
        return;
    }
    let mut pending = Pending::of(parse(&fs::read(&path).expect("the journal")));
    let living = inodes(root, state);
    pending.files.retain(|ino, _| living.contains_key(ino));
    let graves: Vec<u64> = pending.names.iter().filter(|n| n.kind != CREATE).map(|n| n.offset).collect();
    for entry in fs::read_dir(state).expect("the shim's directory").flatten() {
        let name = entry.file_name().into_string().expect("text");
        if name.strip_prefix("grave-").is_some_and(|n| !graves.contains(&n.parse().expect("a number"))) {
            fs::remove_file(entry.path()).expect("removed");
        }
    }
    let mut records = pending.names;
    for (ino, file) in pending.files {
        if file.lost > 0 {
            let lost = Record { kind: LOST, seq: file.lost, ino, ..blank() };
            records.push(lost);
        }
        records.extend(file.changes);
    }
    // A creation resets its file, so order matters; a lost sync follows what it covered.
    records.sort_by_key(|r| (r.seq, r.kind == LOST));
    let mut bytes = Vec::new();
    records.iter().for_each(|r| r.encode(&mut bytes));
    fs::write(&path, bytes).expect("the journal");
}

fn blank() -> Record {
    let (paths, image) = (Vec::new(), Vec::new());
    Record { kind: 0, seq: 0, ino: 0, offset: 0, len: 0, old_len: 0, dir: 0, paths, image }
}

/// Where every file is now.
fn inodes(root: &Path, state: &Path) -> HashMap<u64, PathBuf> {
    let mut found = HashMap::new();
    let mut open = vec![state.to_path_buf(), root.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let meta = entry.metadata().expect("nobody changes it");
            if meta.is_dir() {
                open.push(entry.path());
            } else {
                found.insert(meta.ino(), entry.path());
            }
        }
    }
    found
}

/// How much of one change survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Whole,
    /// The first so many bytes.
    Torn(u64),
    Nothing,
}

fn choose(how: Survivors, changes: &[Record], random: &mut StdRng) -> Vec<Kept> {
    match how {
        Survivors::Nothing => vec![Kept::Nothing; changes.len()],
        Survivors::Prefix(_) => {
            let whole = random.random_range(0..=changes.len());
            let mut kept = vec![Kept::Nothing; changes.len()];
            kept[..whole].fill(Kept::Whole);
            if let Some(last) = changes.get(whole).filter(|c| c.kind == WRITE && c.len > 0) {
                kept[whole] = Kept::Torn(random.random_range(0..last.len));
            }
            kept
        }
        Survivors::Some(_) => {
            changes.iter().map(|_| if random.random() { Kept::Whole } else { Kept::Nothing }).collect()
        }
    }
}

fn undo_changes(path: &Path, file: &FileChanges, kept: &[Kept], report: &mut Report) {
    let handle = File::options().read(true).write(true).open(path).expect("a file of the dead process");
    let mut floor = file.floor;
    for (change, kept) in file.changes.iter().zip(kept).rev() {
        let start = match kept {
            Kept::Whole => {
                floor = floor.max(change.end());
                report.survived += 1;
                continue;
            }
            Kept::Torn(bytes) => change.offset + bytes,
            Kept::Nothing => change.offset,
        };
        report.changes += 1;
        if start > change.offset {
            floor = floor.max(start);
        }
        let skipped = ((start - change.offset) as usize).min(change.image.len());
        let restored = &change.image[skipped..];
        handle.write_all_at(restored, change.offset + skipped as u64).expect("restored");
        // What is new and stays below something that survives was never written: zeroes, as a hole reads.
        let hole = start.max(change.old_len)..change.end().min(floor);
        if change.kind == WRITE && !hole.is_empty() {
            handle.write_all_at(&vec![0; (hole.end - hole.start) as usize], hole.start).expect("zeroed");
        }
        handle.set_len(change.old_len.max(floor)).expect("resized");
    }
}

fn undo_name(name: &Record, state: &Path) {
    let is = |path: &Path| fs::metadata(path).is_ok_and(|m| m.ino() == name.ino);
    let grave = state.join(format!("grave-{}", name.offset));
    match name.kind {
        CREATE => {
            if is(&name.from()) {
                fs::remove_file(name.from()).expect("removed");
            }
        }
        UNLINK => fs::rename(&grave, name.from()).expect("brought back"),
        _ => {
            if is(&name.to()) {
                fs::rename(name.to(), name.from()).expect("renamed back");
            }
            if name.offset > 0 {
                fs::rename(&grave, name.to()).expect("brought back");
            }
        }
    }
}
