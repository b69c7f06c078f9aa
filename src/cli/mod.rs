//! The command line: what commands there are, and what they say when asked for help. Owns the grammar; each command has
//! a file of its own. Never starts a server by itself: that is [`crate::node`].

pub mod audit;
pub mod banner;
pub mod bookie;
pub mod client;
pub mod cluster;
pub mod cluster_client;
pub mod config;
pub mod consume;
pub mod decommission;
pub mod format;
pub mod group;
pub mod inventory;
pub mod lag;
pub mod ledger;
mod loss;
pub mod metadata;
pub mod offsets;
pub mod produce;
pub mod replica;
pub mod roles;
pub mod scrub;
pub mod server;
pub mod standalone;
pub mod table;
pub mod topic;
pub mod verify;

use crate::bench;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// What is shown below the list of commands.
const EXAMPLES: &str = "\
The first five minutes:
  magnetar standalone                                  a server on localhost:9092, data is kept
  echo hello | magnetar produce demo                   in another terminal: one record
  magnetar consume demo --from-beginning -n 1          and back
  magnetar topic describe demo                         where it is
  magnetar bench produce --duration 10s                how fast it is

Every Kafka client works too: point it at localhost:9092.";

/// The version; a build for tests says so, because it is far slower.
const fn version() -> &'static str {
    if ::metadata::CHECKS_INVARIANTS {
        concat!(env!("CARGO_PKG_VERSION"), " (for tests: checks its invariants after every step)")
    } else {
        env!("CARGO_PKG_VERSION")
    }
}

/// A streaming platform with compute and storage apart, for the Kafka clients you already have.
#[derive(Debug, Parser)]
#[command(name = "magnetar", version = version(), about, after_help = EXAMPLES, max_term_width = 110, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a server in one process: everything a cluster has, on one disk
    Standalone(standalone::Standalone),
    /// Run a cluster on this machine: every role in a process of its own
    Cluster(cluster::Cluster),
    /// Run and look after the metadata service
    #[command(subcommand)]
    Metadata(metadata::MetadataCommand),
    /// Run and look after bookies
    #[command(subcommand)]
    Bookie(bookie::BookieCommand),
    /// Run a broker
    #[command(subcommand)]
    Broker(roles::BrokerCommand),
    /// Create, list, describe and delete topics
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Send the lines of standard input to a topic
    Produce(produce::Produce),
    /// Print the records of a topic
    Consume(consume::Consume),
    /// Look into ledgers
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// Read every copy of a topic, and say what is missing
    Verify(verify::Verify),
    /// List and describe consumer groups
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Measure a running server, beside its own disk and network
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Print every setting with its default, or check a file
    Config(config::ConfigArgs),
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// What went wrong, in words for the person who typed the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Standalone(args) => return args.run(),
            Command::Cluster(args) => return args.run(),
            Command::Metadata(command) => return command.run(),
            Command::Bookie(command) => return command.run(),
            Command::Broker(roles::BrokerCommand::Start(args)) => return args.run(),
            Command::Ledger(command) => return command.run(),
            Command::Verify(args) => return args.run(),
            Command::Topic(command) => command.run()?,
            Command::Produce(args) => args.run()?,
            Command::Consume(args) => args.run()?,
            Command::Group(command) => command.run()?,
            Command::Bench(command) => command.run()?,
            Command::Config(args) => args.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_teaches() {
        let help = Cli::command().render_long_help().to_string();
        for part in ["magnetar standalone", "produce demo", "--from-beginning", "localhost:9092"] {
            assert!(help.contains(part), "{part} is missing in\n{help}");
        }
        for name in ["standalone", "produce", "consume"] {
            let mut command = Cli::command();
            let sub = command.find_subcommand_mut(name).expect("a command");
            let help = sub.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{name} shows no example:\n{help}");
        }
    }

    #[test]
    fn a_mistyped_command_finds_the_right_one() {
        let problem = Cli::try_parse_from(["magnetar", "topc", "list"]).expect_err("no such command").to_string();
        assert!(problem.contains("'topic'"), "{problem}");
    }
}
