//! `magnetar bench`: measures a running server, a metadata cluster or the store of a bookie, and beside it the bare disk
//! or network in the same run. Owns what is measured and how; what is measured does not know it.

mod consume;
mod fetcher;
mod figures;
mod metadata;
mod meter;
mod pace;
mod probe;
mod produce;
mod store;

use clap::Subcommand;

/// Measures a running server, a metadata cluster, or the store alone.
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
    /// Write entries with the store of a bookie, without a server
    #[command(
        after_help = "Examples:\n  magnetar bench store --quick                                 every kind of case, small\n  magnetar bench store --data-dir /mnt/disk                    on the disk that a bookie would use\n  magnetar bench store --entry-size 1KiB --ledgers 100 --in-flight 1    one entry at a time\n\nEach case makes a store of its own, writes it, deletes every second ledger if asked, and removes it."
    )]
    Store(store::BenchStore),
    /// Put keys into a metadata cluster: ours, ZooKeeper or etcd
    #[command(
        after_help = "Examples:\n  magnetar bench metadata --servers localhost:9095 --clients 64\n  magnetar bench metadata --target zookeeper --servers a:2181,b:2181,c:2181 --clients 64 --duration 10s\n  magnetar bench metadata --target etcd --servers a:2379,b:2379,c:2379 --mix read=90 --json\n  magnetar bench metadata fill --keys 1000000 --value-size 200\n  magnetar bench metadata hold --sessions 100000 --watches 100000\n\ntests/rivals.sh starts all three on this machine and compares them."
    )]
    Metadata(metadata::BenchMetadata),
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
            Self::Store(args) => args.run(),
            Self::Metadata(args) => args.run(),
        }
    }
}
