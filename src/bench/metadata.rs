//! `magnetar bench metadata`: measures a metadata cluster, ours or one of the rivals that it replaces, with the same
//! clients. Owns the commands; a target's protocol is in a file of its own, and so is each measurement.

mod etcd;
mod fill;
mod hold;
mod magnetar;
mod puts;
mod target;
mod zookeeper;

use super::probe;
use crate::{
    cli::{client, cluster_client::DEFAULT},
    config::amount,
};
use anyhow::Context;
use clap::{Args, Subcommand};
use protocol::runtime::Tasks;
use std::{path::PathBuf, time::Duration};

/// How long connections may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// `bench metadata`
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchMetadata {
    /// Another measurement than puts.
    #[command(subcommand)]
    what: Option<Measurement>,
    /// Puts.
    #[command(flatten)]
    puts: puts::Puts,
}

/// What else is measured.
#[derive(Debug, Clone, Subcommand)]
enum Measurement {
    /// Write many keys as fast as possible, many in each transaction
    Fill(fill::Fill),
    /// Hold many sessions and watches, and see that they work
    Hold(hold::Hold),
    /// Append values of one size to a file and sync each: what the disk allows without a cluster
    Probe(Probe),
}

/// The servers of a cluster.
#[derive(Debug, Clone, Args)]
struct Servers {
    /// The servers of the cluster; clients are spread over them evenly
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',', env = "MAGNETAR_METADATA", default_value = DEFAULT)]
    servers: Vec<String>,
}

impl Servers {
    /// The server of a client.
    fn of(&self, client: usize) -> &str {
        &self.servers[client % self.servers.len()]
    }

    /// All of them, beginning with the one of this client.
    fn from(&self, client: usize) -> Vec<String> {
        let mut servers = self.servers.clone();
        servers.rotate_left(client % self.servers.len());
        servers
    }
}

/// `bench metadata probe`
#[derive(Debug, Clone, Args)]
struct Probe {
    /// Where it appends; the current folder if not given
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Bytes of an append
    #[arg(long, default_value = "200", value_parser = amount::size)]
    value_size: u64,
}

impl BenchMetadata {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self.what {
            None => self.puts.run(),
            Some(Measurement::Fill(fill)) => fill.run(),
            Some(Measurement::Hold(hold)) => hold.run(),
            Some(Measurement::Probe(probe)) => probe.run(),
        }
    }
}

impl Probe {
    /// Prints one line of JSON: programs read it, beside the figures of the targets.
    fn run(self) -> anyhow::Result<()> {
        let dir = self.data_dir.unwrap_or_else(|| PathBuf::from("."));
        let size = usize::try_from(self.value_size)?.max(1);
        let appends = probe::appends_of(&dir, size, &client::clock())?;
        let (count, latency) = (appends.latency.len(), &appends.latency);
        println!(
            "{}",
            serde_json::json!({
                "target": "disk", "value_size": size, "appends": count,
                "appends_per_second": appends.rate() / size as f64,
                "p50_us": super::figures::quantile_micros(latency, 0.5),
                "p99_us": super::figures::quantile_micros(latency, 0.99),
            })
        );
        Ok(())
    }
}

/// Runs a measurement with a runtime and tasks of its own, and lets its connections end.
fn with_tasks<T>(work: impl AsyncFnOnce(&Tasks) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    let tasks = Tasks::default();
    let result = runtime.block_on(work(&tasks));
    runtime.block_on(tasks.stop(PATIENCE));
    result
}

#[cfg(test)]
mod tests;
