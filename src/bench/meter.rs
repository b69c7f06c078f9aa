//! What a run costs: CPU time, bytes handed to the system, bytes that reached the block device, memory, and space. Owns
//! reading `/proc` and `/sys`; where there is none, a figure is zero or missing.

use crate::process::{cpu_seconds, resident};
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Bytes of a sector of `/sys/dev/block`, whatever the device calls one.
const SECTOR: u64 = 512;
/// Bytes of a block of `st_blocks`.
const BLOCK: u64 = 512;

/// The counters at one time, or what they grew by.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Cost {
    /// CPU seconds of the process, user and system.
    pub(super) cpu: f64,
    /// Bytes in write calls of the process. `write_bytes`, which counts pages made dirty, is not used: it counts a large
    /// folio again in full each time a byte of it changes.
    pub(super) written: u64,
    /// Bytes written to the block devices, by every process and by the file system.
    pub(super) device: Option<u64>,
    /// Resident bytes of the process now; a level, not a growth.
    pub(super) resident: u64,
}

impl Cost {
    /// The growth since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            cpu: self.cpu - before.cpu,
            written: self.written.saturating_sub(before.written),
            device: self.device.zip(before.device).map(|(now, then)| now.saturating_sub(then)),
            resident: self.resident,
        }
    }
}

/// Reads the counters.
#[derive(Debug)]
pub(super) struct Meter {
    /// The `stat` files of the block devices.
    devices: Vec<PathBuf>,
}

impl Meter {
    /// A meter for the devices of these folders.
    pub(super) fn new(folders: &[&Path]) -> Self {
        let mut devices: Vec<_> = folders.iter().filter_map(|dir| device_of(dir)).collect();
        devices.sort();
        devices.dedup();
        Self { devices }
    }

    pub(super) fn read(&self) -> Cost {
        let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let sectors = |path: &PathBuf| sectors_written(&fs::read_to_string(path).ok()?);
        let written = self.devices.iter().map(sectors).sum::<Option<u64>>();
        Cost {
            cpu: cpu_seconds(&read("stat")).unwrap_or(0.0),
            written: write_calls(&read("io")).unwrap_or(0),
            device: written.filter(|_| !self.devices.is_empty()).map(|sectors| sectors * SECTOR),
            resident: resident(&read("statm")).unwrap_or(0),
        }
    }
}

/// Where the counters of the device of a folder stand.
fn device_of(dir: &Path) -> Option<PathBuf> {
    let device = fs::metadata(dir).ok()?.dev();
    let path =
        PathBuf::from(format!("/sys/dev/block/{}:{}/stat", rustix::fs::major(device), rustix::fs::minor(device)));
    path.exists().then_some(path)
}

/// The seventh field: sectors written.
fn sectors_written(stat: &str) -> Option<u64> {
    stat.split_whitespace().nth(6)?.parse().ok()
}

/// Bytes in write calls, from `/proc/self/io`.
fn write_calls(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("wchar: "))?.trim().parse().ok()
}

/// Bytes that the files below a folder occupy.
///
/// # Errors
/// What the file system says, except of files that went meanwhile.
pub(super) fn space_of(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for file in fs::read_dir(dir)? {
        let file = file?;
        match file.metadata() {
            Ok(meta) if meta.is_dir() => bytes += space_of(&file.path())?,
            Ok(meta) => bytes += meta.blocks() * BLOCK,
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
            Err(problem) => return Err(problem),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_where_the_system_writes_them() {
        assert_eq!(sectors_written(" 1 2 3 4 5 6 700 8 9 10 11\n"), Some(700));
        assert_eq!(write_calls("rchar: 5\nwchar: 1234\nsyscr: 1\nwrite_bytes: 9\n"), Some(1234));
        assert_eq!((sectors_written(""), write_calls("")), (None, None));
    }

    #[test]
    fn what_this_process_writes_is_counted() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let meter = Meter::new(&[dir.path(), dir.path()]);
        let before = meter.read();
        fs::create_dir(dir.path().join("below")).expect("made");
        fs::write(dir.path().join("below/file"), vec![7; 1 << 20]).expect("written");
        let grown = meter.read().since(before);
        assert!(meter.devices.len() <= 1, "one disk is counted once");
        if cfg!(target_os = "linux") {
            assert!(grown.written >= 1 << 20 && grown.resident > 0, "{grown:?}");
        }
        fs::File::open(dir.path().join("below/file")).expect("there").sync_all().expect("synced");
        assert!(space_of(dir.path()).expect("readable") >= 1 << 20);
    }
}
