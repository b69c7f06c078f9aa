//! `magnetar metadata snapshot` and `restore`: everything in one file, and a cluster from it. Owns that a file is whole
//! before it has its name, and the words; what is in it belongs to the metadata role.

use super::{CHANGE, Nodes};
use crate::cli::{cluster_client::ClusterAddress, table};
use anyhow::{Context, bail};
use clap::Args;
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use metadata::{RestoreTo, restore};
use protocol::service::quorum::QuorumService;
use std::{
    fs::{self, File},
    io::{BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// `metadata snapshot`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar metadata snapshot /backup/metadata.snapshot     a consistent copy of everything\n  magnetar metadata snapshot                               have the node shorten its log now\n\nThe file holds the state after everything that was committed when the command began."
)]
pub struct Snapshot {
    /// The file to write; it must not exist
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The nodes to ask; the first that answers
    #[command(flatten)]
    pub connection: ClusterAddress,
}

/// `metadata restore`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar metadata restore /backup/metadata.snapshot --data-dir /srv/metadata\n  magnetar metadata start --data-dir /srv/metadata --address 0.0.0.0:9095 --peer-address 0.0.0.0:9094\n\nOnly for a cluster whose metadata nodes are lost: it begins a new one with one node, which others join on empty directories. What was written after the snapshot is gone; numbers that may have been given out since are skipped. Stop brokers and bookies first, and start them again afterwards: bookies, then brokers."
)]
pub struct Restore {
    /// The file that magnetar metadata snapshot wrote
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The data directory of the new node; its metadata directory must not exist yet
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The number of the new node
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pub id: u64,
}

impl Snapshot {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        Nodes::run(&self.connection.clone(), async |nodes| match &self.file {
            Some(file) => save(nodes, file).await,
            None => {
                let written = nodes.quorum(CHANGE * 4)?.snapshot().await.context("no snapshot was written")?;
                println!(
                    "a snapshot of {} holds everything up to log entry {}",
                    table::bytes(written.bytes),
                    written.index
                );
                Ok(ExitCode::SUCCESS)
            }
        })
    }
}

async fn save(nodes: &Nodes, file: &Path) -> anyhow::Result<ExitCode> {
    if file.exists() {
        bail!("{} exists; choose another name", file.display());
    }
    let unfinished = file.with_extension("part");
    let cannot = || format!("cannot write {}", unfinished.display());
    let progress = ProgressBar::new_spinner().with_style(
        ProgressStyle::with_template("{spinner} {bytes} at {bytes_per_sec}").context("the progress line is wrong")?,
    );
    let mut pieces = nodes.quorum(CHANGE * 4)?.backup().await.with_context(|| nodes.hint())?;
    let mut to = BufWriter::new(File::create(&unfinished).with_context(cannot)?);
    let copied = async {
        while let Some(piece) = pieces.next().await {
            let piece = piece.context("the snapshot broke off")?;
            to.write_all(&piece).with_context(cannot)?;
            progress.inc(piece.len() as u64);
        }
        anyhow::Ok(())
    };
    let copied = tokio::select! {
        copied = copied => copied,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("stopped; nothing was kept")),
    };
    progress.finish_and_clear();
    let finished = copied.and_then(|()| {
        to.flush().with_context(cannot)?;
        to.get_ref().sync_all().with_context(cannot)?;
        // Read back before it has its name: a backup that cannot be restored is none.
        let mut from = BufReader::new(File::open(&unfinished).with_context(cannot)?);
        let kept = metadata::state::State::read_snapshot(&mut from).context("what was written cannot be read back")?;
        fs::rename(&unfinished, file).with_context(cannot)?;
        Ok(kept)
    });
    match finished {
        Ok(kept) => {
            let size = fs::metadata(file).map_or(0, |m| m.len());
            let (keys, revision) = (table::number(kept.key_count() as u64), kept.revision());
            println!("{}: {}, {keys} keys, revision {revision}", file.display(), table::bytes(size));
            Ok(ExitCode::SUCCESS)
        }
        Err(problem) => {
            let _ = fs::remove_file(&unfinished);
            Err(problem)
        }
    }
}

impl Restore {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let dir = self.data_dir.join("metadata");
        let file = File::open(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?;
        let to = RestoreTo { dir: dir.clone(), id: self.id };
        let restored = restore(&mut BufReader::new(file), &to)
            .with_context(|| format!("{} was not restored", self.file.display()))?;
        println!(
            "{} holds {} keys now; it begins after revision {}.\nStart it with: magnetar metadata start --id {} --data-dir {}",
            dir.display(),
            table::number(restored.keys as u64),
            restored.revision,
            self.id,
            self.data_dir.display()
        );
        Ok(ExitCode::SUCCESS)
    }
}
