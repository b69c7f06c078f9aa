//! `magnetar bench`: measures a running server, and beside it the bare disk or network in the same run. Owns what is
//! measured and how; the server does not know that it is measured.

mod consume;
mod fetcher;
mod figures;
mod pace;
mod probe;
mod produce;

use clap::Subcommand;

/// Measures a running server.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Produce at a rate, or as fast as possible
    #[command(
        after_help = "Examples:\n  magnetar bench produce --duration 10s                        as fast as possible\n  magnetar bench produce --rate 5000 --duration 30s            latency at 5,000 records a second\n  magnetar bench produce --in-flight 1 --producers 1           one record at a time\n\nLatency counts from the moment a record was due, so a server that stalls cannot hide it."
    )]
    Produce(produce::BenchProduce),
    /// Consume what is there, as fast as possible
    #[command(
        after_help = "Examples:\n  magnetar bench produce --records 100000 && magnetar bench consume\n  magnetar bench consume --consumers 4 --passes 5"
    )]
    Consume(consume::BenchConsume),
}

impl BenchCommand {
    /// Does what was asked.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Produce(args) => args.run(),
            Self::Consume(args) => args.run(),
        }
    }
}
