//! `magnetar bench store`: what the store of a bookie does with a disk, without a network or a cluster around it. Owns the
//! cases and the table; a case is run by `load`, its costs are read by the `meter`.

mod load;

use super::{
    figures,
    probe::{self, Appends},
};
use crate::{
    cli::{client, table},
    config::amount,
};
use anyhow::{Context, bail};
use clap::Args;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use load::{Case, Outcome};
use protocol::ledger::entry::MAX_ENTRY;
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Bytes of the entries of one case.
const BYTES: u64 = 1 << 30;
/// The same with `--quick`.
const QUICK_BYTES: u64 = 128 << 20;
/// The least that is useful: an entry of each kind, and a few groups.
const LEAST_BYTES: u64 = 1 << 20;

/// Whether ledgers are deleted during a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Deletes {
    /// Every second ledger is.
    Yes,
    /// None is.
    No,
    /// One case with deletes and one without.
    Both,
}

impl Deletes {
    const fn cases(self) -> &'static [bool] {
        match self {
            Self::Yes => &[true],
            Self::No => &[false],
            Self::Both => &[false, true],
        }
    }
}

/// `bench store`
#[derive(Debug, Clone, Args)]
pub struct BenchStore {
    /// Where the stores are made, each in a folder that is removed afterwards; the current folder if not given
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// A folder on another disk for the journal; beside the data if not given
    #[arg(long, value_name = "DIR")]
    pub wal_dir: Option<PathBuf>,
    /// Bytes of an entry; several with commas
    #[arg(long, value_name = "SIZE", value_delimiter = ',', default_value = "1KiB,16KiB,64KiB", value_parser = amount::size)]
    pub entry_size: Vec<u64>,
    /// Ledgers that are written at a time; several with commas
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,100,10000", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub ledgers: Vec<u64>,
    /// Whether every second ledger is deleted while others are written
    #[arg(long, default_value = "both")]
    pub deletes: Deletes,
    /// Bytes of the entries of one case [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = amount::size)]
    pub bytes: Option<u64>,
    /// Bytes of entries that wait for their acknowledgement at a time; 1 is one entry at a time
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = amount::size)]
    pub in_flight: u64,
    /// 128 MiB for each case: the first look
    #[arg(long)]
    pub quick: bool,
    /// The store's write buffer, instead of its default
    #[arg(long, value_name = "SIZE", value_parser = amount::size)]
    pub write_buffer: Option<u64>,
    /// The smallest entry that goes to a blob file, instead of its default
    #[arg(long, value_name = "SIZE", value_parser = amount::size)]
    pub blob_min: Option<u64>,
    /// One line of JSON for each case
    #[arg(long)]
    pub json: bool,
}

/// A folder that is removed whatever happens.
struct Scratch(PathBuf);

impl Scratch {
    /// A new folder of this process below `dir`.
    fn below(dir: &Path, name: &str) -> anyhow::Result<Self> {
        let path = dir.join(format!("magnetar-{name}-{}", std::process::id()));
        let failed = || format!("cannot make {}; name another folder", path.display());
        std::fs::create_dir_all(&path).with_context(failed)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a case measured, and the bare disk beside it.
struct Line {
    case: Case,
    outcome: Outcome,
    bare: Appends,
}

impl BenchStore {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let interrupted = Arc::new(AtomicBool::new(false));
        client::on_interrupt({
            let interrupted = Arc::clone(&interrupted);
            move || interrupted.store(true, Ordering::Relaxed)
        })?;
        let lines = self.measure(&interrupted)?;
        if !self.json {
            self.report(&lines);
        }
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted; the scratch folders are removed");
        }
        Ok(())
    }

    /// Runs every case that was asked for, or as many as there was time for.
    fn measure(&self, interrupted: &AtomicBool) -> anyhow::Result<Vec<Line>> {
        let cases = self.cases()?;
        let data = self.data_dir.clone().unwrap_or_else(|| PathBuf::from("."));
        let bar = progress(cases.iter().map(|case| case.bytes).sum());
        let mut lines = Vec::new();
        for case in cases {
            bar.set_message(case.to_string());
            let outcome = {
                let scratch = Scratch::below(&data, "store")?;
                let wal = self.wal_dir.as_ref().map(|dir| Scratch::below(dir, "journal")).transpose()?;
                let place = load::Place { data: &scratch.0, wal: wal.as_ref().map(|wal| wal.0.as_path()) };
                load::run(&case, &place, interrupted, &|bytes| bar.inc(bytes))?
            };
            let Some(outcome) = outcome else { break };
            let batch = outcome.bytes / outcome.syncs.max(1);
            let journal = self.wal_dir.as_ref().unwrap_or(&data);
            let bare = probe::appends_of(journal, usize::try_from(batch)?.max(1), &client::clock())?;
            let line = Line { case, outcome, bare };
            if self.json {
                bar.suspend(|| println!("{}", line.json()));
            }
            lines.push(line);
        }
        bar.finish_and_clear();
        Ok(lines)
    }

    fn cases(&self) -> anyhow::Result<Vec<Case>> {
        let bytes = self.bytes.unwrap_or(if self.quick { QUICK_BYTES } else { BYTES }).max(LEAST_BYTES);
        let mut cases = Vec::new();
        for &entry_size in &self.entry_size {
            let entry_size = usize::try_from(entry_size)?;
            if !(load::LEAST_ENTRY..=MAX_ENTRY).contains(&entry_size) {
                bail!("--entry-size must be between {} and {MAX_ENTRY} bytes", load::LEAST_ENTRY);
            }
            for &ledgers in &self.ledgers {
                for &deletes in self.deletes.cases() {
                    let (in_flight, write_buffer, blob_min) = (self.in_flight, self.write_buffer, self.blob_min);
                    cases.push(Case { entry_size, ledgers, deletes, bytes, in_flight, write_buffer, blob_min });
                }
            }
        }
        Ok(cases)
    }

    fn report(&self, lines: &[Line]) {
        let heads = [
            "ENTRY",
            "LEDGERS",
            "DELETES",
            "RATE",
            "OF BARE",
            "CPU s/GB",
            "WRITTEN",
            "DEVICE",
            "SYNC OF",
            "P50",
            "P99",
            "P99.9",
            "BARE P50",
            "BARE P99",
            "BARE P99.9",
            "SPACE",
            "MEMORY",
        ];
        table::print(&heads, &heads[1..], lines.iter().map(Line::row));
        let data = self.data_dir.as_deref().unwrap_or(Path::new("."));
        println!(
            "\nRATE to OF BARE: acknowledged bytes a second, and the part it is of appends and syncs of SYNC OF bytes to {} in the same run.\n\
             CPU: of the whole process until nothing is left to flush or merge, with making and checking the entries.\n\
             WRITTEN, DEVICE: bytes for each byte of entries, until then: in write calls of this process; on the block device, by everybody.\n\
             P50 to P99.9: from the call of an add to its acknowledgement, {} in flight. BARE: one append and sync of SYNC OF bytes.\n\
             SPACE: bytes on the disk for each byte that is not deleted, at the end. MEMORY: resident, at the end of the load.",
            self.wal_dir.as_deref().unwrap_or(data).display(),
            if self.in_flight == 1 { "one entry".into() } else { table::bytes(self.in_flight) },
        );
    }
}

impl Line {
    fn row(&self) -> Vec<String> {
        let (case, outcome, bare) = (&self.case, &self.outcome, &self.bare);
        let rate = outcome.rate();
        let mut row = vec![
            size_of(case.entry_size),
            table::number(case.ledgers),
            if case.deletes { "half" } else { "none" }.into(),
            figures::rate(rate),
            format!("{:.2}", rate / bare.rate()),
            format!("{:.2}", outcome.per_gb(outcome.cost.cpu)),
            format!("{:.2}", outcome.per_byte(outcome.cost.written)),
            outcome.cost.device.map_or_else(|| "-".into(), |bytes| format!("{:.2}", outcome.per_byte(bytes))),
            table::bytes(outcome.bytes / outcome.syncs.max(1)),
        ];
        row.extend(quantiles(&outcome.latency).map(figures::micros));
        row.extend(quantiles(&bare.latency).map(figures::micros));
        row.push(format!("{:.2}", outcome.space()));
        row.push(table::bytes(outcome.cost.resident));
        row
    }

    fn json(&self) -> serde_json::Value {
        let (case, outcome, bare) = (&self.case, &self.outcome, &self.bare);
        let ([p50, p99, p999], [bare_p50, bare_p99, bare_p999]) =
            (quantiles(&outcome.latency), quantiles(&bare.latency));
        serde_json::json!({
            "entry_size": case.entry_size, "ledgers": case.ledgers, "deletes": case.deletes,
            "bytes": outcome.bytes, "seconds": outcome.took.as_secs_f64(), "syncs": outcome.syncs,
            "bytes_per_second": outcome.rate(), "bare_bytes_per_second": bare.rate(),
            "cpu_seconds_per_gb": outcome.per_gb(outcome.cost.cpu),
            "written_per_byte": outcome.per_byte(outcome.cost.written),
            "device_per_byte": outcome.cost.device.map(|bytes| outcome.per_byte(bytes)),
            "p50_us": p50, "p99_us": p99, "p999_us": p999,
            "bare_p50_us": bare_p50, "bare_p99_us": bare_p99, "bare_p999_us": bare_p999,
            "live_bytes": outcome.live, "disk_bytes": outcome.disk, "resident_bytes": outcome.cost.resident,
        })
    }
}

/// The size of an entry, in the units it was asked for.
fn size_of(bytes: usize) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} B"),
    }
}

fn quantiles(histogram: &Histogram<u64>) -> [u64; 3] {
    [0.5, 0.99, 0.999].map(|quantile| figures::quantile_micros(histogram, quantile))
}

/// A bar over all bytes of all cases.
fn progress(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    let look = "{bar:30} {percent:>3}%  {elapsed} of about {duration}  {bytes_per_sec}  {msg}";
    if let Ok(style) = ProgressStyle::with_template(look) {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        args: BenchStore,
    }

    fn args(words: &[&str]) -> BenchStore {
        Words::try_parse_from(["bench"].iter().chain(words)).expect("legal words").args
    }

    #[test]
    fn every_combination_is_a_case() {
        let cases = args(&["--quick"]).cases().expect("legal");
        assert_eq!(cases.len(), 3 * 3 * 2);
        assert!(cases.iter().all(|case| case.bytes == QUICK_BYTES));
        let one = args(&["--entry-size", "64KiB", "--ledgers", "7", "--deletes", "no"]).cases().expect("legal");
        assert_eq!(one.iter().map(|c| (c.entry_size, c.ledgers, c.deletes)).collect::<Vec<_>>(), [(65536, 7, false)]);
        for size in ["1", "100MiB"] {
            let refused = args(&["--entry-size", size]).cases().expect_err("out of bounds").to_string();
            assert!(refused.contains("--entry-size"), "{refused}");
        }
    }

    #[test]
    fn a_small_run_measures_everything_and_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let wal = tempfile::tempdir().expect("a scratch folder");
        let (data, journal) = (dir.path().display().to_string(), wal.path().display().to_string());
        let words = ["--data-dir", &data, "--wal-dir", &journal, "--bytes", "4MiB", "--ledgers", "1,3"];
        let lines = args(&words).measure(&AtomicBool::new(false)).expect("measured");
        assert_eq!(lines.len(), 3 * 2 * 2);
        for line in &lines {
            let outcome = &line.outcome;
            assert!(outcome.bytes >= 4 << 20 && outcome.rate() > 0.0 && outcome.syncs > 0, "{}", line.case);
            assert_eq!(outcome.latency.len(), outcome.bytes / line.case.entry_size as u64, "every add is counted");
            assert!(line.bare.rate() > 0.0);
            assert!(outcome.live < outcome.bytes || !line.case.deletes, "half of it is deleted");
            if cfg!(target_os = "linux") {
                assert!(outcome.per_byte(outcome.cost.written) > 1.0, "the journal alone is one");
            }
            assert_eq!(line.row().len(), 17);
        }
        for dir in [dir, wal] {
            assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0, "scratch folders are removed");
        }
    }

    #[test]
    fn an_interrupted_run_cleans_up() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let data = dir.path().display().to_string();
        let lines = args(&["--data-dir", &data, "--quick"]).measure(&AtomicBool::new(true)).expect("ended");
        assert!(lines.is_empty());
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0);
    }
}
