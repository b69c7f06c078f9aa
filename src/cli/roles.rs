//! `magnetar metadata start`, `magnetar bookie start`, `magnetar broker start`: the roles of a cluster in processes of
//! their own. Owns their flags and what they print: a line per address as soon as it is bound, so that a program that let
//! the system choose the ports can read them, and a line when the process is ready.

use super::server::{Flag, Says, ServerArgs};
use crate::{node::Addresses, role::RoleSet};
use clap::{Args, Subcommand};
use std::{io::Write, path::Path, process::ExitCode, time::Duration};

/// What can be done with a broker.
#[derive(Debug, Subcommand)]
pub enum BrokerCommand {
    /// Run a broker with its gateway: what Kafka clients talk to
    Start(BrokerStart),
}

/// Runs a metadata node.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar metadata start --data-dir /srv/metadata\n  magnetar metadata start --data-dir /srv/metadata --address 0.0.0.0:9095 \\\n      --peer-address 0.0.0.0:9094                              the first of several\n  magnetar metadata start --data-dir /srv/metadata --address 0.0.0.0:9095 \\\n      --peer-address 0.0.0.0:9094 --join m1.example.com:9095   every other one\n\nThe first node founds a cluster; every other one joins it, catches up, and gets a vote. Three nodes survive the loss of one, five that of two. Every node needs a directory, and on one machine ports, of its own."
)]
pub struct MetadataStart {
    /// What every server has.
    #[command(flatten)]
    pub server: ServerArgs,
    /// The number of this metadata node [default: 1 for the first, given by the cluster to one that joins]
    #[arg(long, value_name = "N")]
    pub id: Option<u64>,
    /// Where it listens for brokers, bookies and commands [default: localhost:9095]
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<String>,
    /// What they are told to connect to, if that is not the same
    #[arg(long, value_name = "HOST:PORT")]
    pub advertised: Option<String>,
    /// Where it listens for other metadata nodes [default: localhost:9094]
    #[arg(long, value_name = "HOST:PORT")]
    pub peer_address: Option<String>,
    /// What they are told to connect to, if that is not the same
    #[arg(long, value_name = "HOST:PORT")]
    pub peer_advertised: Option<String>,
    /// Join the cluster of these metadata nodes; counts only while the directory is empty, and may stay
    #[arg(long, value_name = "HOST:PORT[,..]")]
    pub join: Option<String>,
    /// Only follow, without a vote; magnetar metadata add gives it one later
    #[arg(long)]
    pub learner: bool,
}

/// Runs a bookie.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar bookie start --id 1 --data-dir /srv/bookie-1 --address localhost:9096 --admin-address localhost:8091\n  magnetar bookie start --id 2 --data-dir /srv/bookie --metadata meta.example.com:9095 --address 0.0.0.0:9096 --advertised b2.example.com:9096"
)]
pub struct BookieStart {
    /// What every server has.
    #[command(flatten)]
    pub server: ServerArgs,
    /// The number of this bookie, unique in its cluster [default: 1]
    #[arg(long, value_name = "N")]
    pub id: Option<u32>,
    /// Where brokers and other bookies reach it [default: localhost:9096]
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<String>,
    /// What they are told to connect to, if that is not the same
    #[arg(long, value_name = "HOST:PORT")]
    pub advertised: Option<String>,
    /// Where the metadata service listens [default: localhost:9095]
    #[arg(long, value_name = "HOST:PORT[,..]")]
    pub metadata: Option<String>,
}

/// Runs a broker.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar broker start --data-dir /srv/broker\n  magnetar broker start --id 7 --data-dir /srv/broker --metadata meta.example.com:9095 --kafka-address 0.0.0.0:9092 --advertised kafka.example.com:9092"
)]
pub struct BrokerStart {
    /// What every server has.
    #[command(flatten)]
    pub server: ServerArgs,
    /// The number of this node, unique in its cluster [default: 1]
    #[arg(long, value_name = "N")]
    pub id: Option<u32>,
    /// Where Kafka clients connect to [default: localhost:9092]
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka_address: Option<String>,
    /// What clients are told to connect to, if that is not the same
    #[arg(long, value_name = "HOST:PORT")]
    pub advertised: Option<String>,
    /// Where the metadata service listens [default: localhost:9095]
    #[arg(long, value_name = "HOST:PORT[,..]")]
    pub metadata: Option<String>,
}

impl MetadataStart {
    /// Runs until a signal, or until something fails without which it cannot go on.
    ///
    /// # Errors
    /// The configuration is not valid, or the server does not start.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let name = self.id.map_or_else(|| "metadata".into(), |id| format!("metadata {id}"));
        self.server.run(self.flags(), RoleSet::METADATA, &Lines(name))
    }

    fn flags(&self) -> Vec<Flag> {
        vec![
            ("--id", "metadata.id", self.id.map(|id| id.to_string())),
            ("--address", "metadata.address", self.address.clone()),
            ("--advertised", "metadata.advertised", self.advertised.clone()),
            ("--peer-address", "metadata.peer_address", self.peer_address.clone()),
            ("--peer-advertised", "metadata.peer_advertised", self.peer_advertised.clone()),
            ("--join", "metadata.join", self.join.clone()),
            ("--learner", "metadata.learner", self.learner.then(|| "true".into())),
        ]
    }
}

impl BookieStart {
    /// Runs until a signal, or until something fails without which it cannot go on.
    ///
    /// # Errors
    /// The configuration is not valid, or the server does not start.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let name = self.id.map_or_else(|| "bookie".into(), |id| format!("bookie {id}"));
        self.server.run(self.flags(), RoleSet::BOOKIE, &Lines(name))
    }

    fn flags(&self) -> Vec<Flag> {
        vec![
            ("--id", "bookie.id", self.id.map(|id| id.to_string())),
            ("--address", "bookie.address", self.address.clone()),
            ("--advertised", "bookie.advertised", self.advertised.clone()),
            ("--metadata", "metadata.servers", self.metadata.clone()),
        ]
    }
}

impl BrokerStart {
    /// Runs until a signal, or until something fails without which it cannot go on.
    ///
    /// # Errors
    /// The configuration is not valid, or the server does not start.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let name = self.id.map_or_else(|| "broker".into(), |id| format!("broker {id}"));
        self.server.run(self.flags(), RoleSet::BROKER, &Lines(name))
    }

    fn flags(&self) -> Vec<Flag> {
        vec![
            ("--id", "node.id", self.id.map(|id| id.to_string())),
            ("--kafka-address", "kafka.listeners", self.kafka_address.clone()),
            ("--advertised", "kafka.advertised.listeners", self.advertised.clone()),
            ("--metadata", "metadata.servers", self.metadata.clone()),
        ]
    }
}

/// A server for programs: one line per fact, flushed at once.
struct Lines(String);

impl Lines {
    fn say(text: &str) {
        // Whoever started us may have gone; that is no reason to stop.
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

impl Says for Lines {
    fn listening(&self, addresses: &Addresses) {
        Self::say(&addresses.to_string());
    }

    fn ready(&self, _addresses: &Addresses, data: &Path, took: Duration) {
        let (version, name) = (env!("CARGO_PKG_VERSION"), &self.0);
        let (data, took) = (data.display(), took.as_secs_f64());
        Self::say(&format!("ready: Magnetar {version}, {name}, after {took:.2} s; data in {data}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::{Cli, Command, bookie::BookieCommand, metadata::MetadataCommand},
        config::Config,
    };
    use clap::Parser;

    fn config(args: &[&str]) -> Config {
        let parsed = Cli::try_parse_from(["magnetar"].iter().chain(args)).expect("legal flags").command;
        let (server, flags) = match parsed {
            Command::Metadata(MetadataCommand::Start(start)) => (start.flags(), start.server),
            Command::Bookie(BookieCommand::Start(start)) => (start.flags(), start.server),
            Command::Broker(BrokerCommand::Start(start)) => (start.flags(), start.server),
            other => panic!("{other:?}"),
        };
        let layers = flags.layers(std::iter::empty(), server).expect("legal values");
        Config::read(&layers).expect("consistent")
    }

    #[test]
    fn flags_of_each_role_reach_the_configuration() {
        let metadata = config(&["metadata", "start", "--data-dir", "/d", "--address", "localhost:0"]);
        assert_eq!((metadata.metadata.listener.address.port, metadata.metadata.listener.is_explicit), (0, true));
        assert!(metadata.metadata.id.is_none() && metadata.metadata.join.is_empty());
        let joining = ["--id", "2", "--peer-address", "localhost:3", "--join", "m1:1,m3:2", "--learner"];
        let joining = config(&[&["metadata", "start", "--data-dir", "/d"][..], &joining].concat()).metadata;
        assert_eq!((joining.id, joining.peers.address.port, joining.join.len()), (Some(2), 3, 2));
        assert!(joining.is_learner);

        let flags = ["bookie", "start", "--data-dir", "/d", "--id", "3", "--metadata", "m1:1,m2:2"];
        let bookie = config(&[&flags[..], &["--address", "localhost:7", "--advertised", "b:8"]].concat());
        assert_eq!((bookie.bookie.id.0, bookie.bookie.listener.address.port), (3, 7));
        assert_eq!(bookie.bookie.advertised.map(|a| a.to_string()).as_deref(), Some("b:8"));
        assert_eq!(bookie.metadata.servers.len(), 2);

        let flags = ["broker", "start", "--data-dir", "/d", "--id", "5", "--kafka-address", "localhost:9"];
        let broker = config(&[&flags[..], &["--metadata", "m:1", "--set", "num.partitions=3"]].concat());
        assert_eq!((broker.node.0, broker.listener.port), (5, 9));
        assert_eq!(broker.kafka.get("num.partitions"), Some("3"));
    }
}
