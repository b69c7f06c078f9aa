//! What the machine can do without Magnetar: appends to a file with fdatasync, and a copy over loopback TCP. Owns these
//! measurements and their scratch file, which it removes.

use super::figures::quantile_micros;
use anyhow::Context;
use hdrhistogram::Histogram;
use protocol::runtime::Clock;
use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

/// How long each measurement takes.
const TIME: Duration = Duration::from_secs(2);
/// The most that is written by one measurement, so that a fast disk is not filled.
const MOST: u64 = 2 << 30;
const LARGE: usize = 1 << 20;
const SMALL: usize = 4 << 10;

/// What the bare disk does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Disk {
    /// Bytes per second when 1 MiB is appended and synced at a time.
    pub(super) bytes_per_second: f64,
    /// Median of one append and sync of 4 KiB, in microseconds.
    pub(super) small_p50: u64,
}

impl Disk {
    /// The mean of two probes.
    pub(super) fn mean(self, other: Self) -> Self {
        Self {
            bytes_per_second: f64::midpoint(self.bytes_per_second, other.bytes_per_second),
            small_p50: u64::midpoint(self.small_p50, other.small_p50),
        }
    }
}

/// A scratch file that is removed whatever happens.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Measures the disk of a directory.
///
/// # Errors
/// The directory cannot be written to.
pub(super) fn disk(dir: &Path, clock: &dyn Clock) -> anyhow::Result<Disk> {
    let large = appends_of(dir, LARGE, clock)?;
    let small = appends_of(dir, SMALL, clock)?;
    Ok(Disk { bytes_per_second: large.rate(), small_p50: quantile_micros(&small.latency, 0.5) })
}

/// What appends and syncs of one size did.
#[derive(Debug, Clone)]
pub(super) struct Appends {
    bytes: u64,
    took: Duration,
    /// Microseconds of one append and its sync.
    pub(super) latency: Histogram<u64>,
}

impl Appends {
    /// Bytes per second.
    pub(super) fn rate(&self) -> f64 {
        per_second(self.bytes, self.took)
    }
}

/// Measures appends of `size` bytes, each synced, to the disk of a directory.
///
/// # Errors
/// The directory cannot be written to.
pub(super) fn appends_of(dir: &Path, size: usize, clock: &dyn Clock) -> anyhow::Result<Appends> {
    let scratch = Scratch(dir.join(format!("magnetar-probe-{}", std::process::id())));
    let failed = || format!("cannot probe the disk of {}; name another directory with --probe-dir", dir.display());
    let mut file = File::create(&scratch.0).with_context(failed)?;
    let mut chunk = vec![0; size];
    rand::fill(&mut chunk[..]);
    let mut latency = Histogram::new_with_bounds(1, 600_000_000, 3)?;
    let (start, mut bytes) = (clock.monotonic(), 0);
    loop {
        let before = clock.monotonic();
        if before.saturating_sub(start) >= TIME || bytes >= MOST {
            return Ok(Appends { bytes, took: before.saturating_sub(start), latency });
        }
        file.write_all(&chunk).with_context(failed)?;
        file.sync_data().with_context(failed)?;
        bytes += size as u64;
        let took = clock.monotonic().saturating_sub(before).as_micros();
        latency.saturating_record(u64::try_from(took).unwrap_or(u64::MAX).max(1));
    }
}

/// Bytes per second of a copy over loopback TCP, from one thread to another.
///
/// # Errors
/// Loopback cannot be used.
pub(super) fn loopback(clock: impl Clock + Copy) -> anyhow::Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
    let address = listener.local_addr()?;
    let sender = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let chunk = vec![7; LARGE];
        let start = clock.monotonic();
        while clock.monotonic().saturating_sub(start) < TIME {
            stream.write_all(&chunk)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(address).context("cannot connect over loopback")?;
    let (mut buffer, mut bytes, start) = (vec![0; LARGE], 0, clock.monotonic());
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            n => bytes += n as u64,
        }
    }
    let took = clock.monotonic().saturating_sub(start);
    sender.join().map_err(|_| anyhow::anyhow!("the sending thread panicked"))??;
    Ok(per_second(bytes, took))
}

/// A rate; 0 if no time passed.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn per_second(count: u64, took: Duration) -> f64 {
    if took.is_zero() { 0.0 } else { count as f64 / took.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A clock on which every look takes 100 ms.
    struct Ticking(AtomicU64);

    impl Clock for Ticking {
        fn monotonic(&self) -> Duration {
            Duration::from_millis(100 * self.0.fetch_add(1, Ordering::Relaxed))
        }
        fn wall(&self) -> protocol::id::Timestamp {
            protocol::id::Timestamp(0)
        }
    }

    #[test]
    fn the_disk_is_measured_and_left_as_it_was() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let found = disk(dir.path(), &Ticking(AtomicU64::new(0))).expect("writable");
        assert!(found.bytes_per_second > 0.0);
        assert!((99_000..=101_000).contains(&found.small_p50), "{found:?}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0, "the scratch file is gone");
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let problem = disk(Path::new("/does/not/exist"), &Ticking(AtomicU64::new(0))).expect_err("no directory");
        assert!(problem.to_string().contains("--probe-dir"), "{problem}");
    }
}
