//! `magnetar standalone`: every role in one process. Owns the flags and the banner of this command.

use super::{
    banner::{self, Banner},
    server::{Flag, Says, ServerArgs},
};
use crate::{node::Addresses, role::RoleSet};
use clap::Args;
use std::{io::Write, path::Path, process::ExitCode, time::Duration};

/// Runs a server in one process.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar standalone\n  magnetar standalone --data-dir /srv/magnetar --set num.partitions=4 --set log.retention.hours=24\n  magnetar standalone --kafka-address 0.0.0.0:9092 --advertised kafka.example.com:9092\n  magnetar standalone --config magnetar.toml        (magnetar config > magnetar.toml writes one to start from)\n\nMore copies: magnetar bookie start --id 2 --data-dir DIR --address localhost:9097 adds a bookie to it.\n\nEnvironment: MAGNETAR_<SECTION>_<KEY>, for example MAGNETAR_NODE_DATA_DIR or MAGNETAR_KAFKA_NUM_PARTITIONS."
)]
pub struct Standalone {
    /// What every server has.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Where Kafka clients connect to [default: localhost:9092]
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka_address: Option<String>,
    /// What clients are told to connect to, if that is not the same
    #[arg(long, value_name = "HOST:PORT")]
    pub advertised: Option<String>,
}

impl Standalone {
    /// Runs until a signal, or until something fails without which the server cannot go on.
    ///
    /// # Errors
    /// The configuration is not valid, or the server does not start.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        self.server.run(self.flags(), RoleSet::STANDALONE, &Welcome)
    }

    fn flags(&self) -> Vec<Flag> {
        vec![
            ("--kafka-address", "kafka.listeners", self.kafka_address.clone()),
            ("--advertised", "kafka.advertised.listeners", self.advertised.clone()),
        ]
    }
}

/// A server for people: a banner when it is ready.
struct Welcome;

impl Says for Welcome {
    fn listening(&self, _addresses: &Addresses) {}

    fn ready(&self, addresses: &Addresses, data: &Path, took: Duration) {
        let program = banner::program(std::env::var_os("PATH").as_deref(), std::env::current_exe().ok().as_deref());
        let kafka = addresses.kafka.as_ref().map(ToString::to_string).unwrap_or_default();
        let metadata = addresses.metadata.as_ref().map(ToString::to_string);
        let banner = Banner { kafka, metadata, admin: addresses.admin, data: data.into(), took, program };
        // Whoever started us may have stopped reading; that is no reason to stop serving.
        let _ = writeln!(std::io::stdout(), "\n{banner}");
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        cli::{Cli, Command},
        config::{Config, layers::Layers},
    };
    use clap::Parser;

    fn layers(flags: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Layers> {
        let all = ["magnetar", "standalone"].iter().chain(flags);
        let Command::Standalone(args) = Cli::try_parse_from(all)?.command else { panic!("another command") };
        let environment = environment.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string()));
        args.server.layers(environment, args.flags())
    }

    #[test]
    fn flags_reach_the_configuration_and_win() {
        let flags = [
            "--data-dir",
            "/d",
            "--kafka-address",
            "127.0.0.1:1",
            "--set",
            "num.partitions=4",
            "--set",
            "broker.cache=1MiB",
            "--set",
            "node.id=0",
        ];
        let environment = [("MAGNETAR_NODE_DATA_DIR", "/other"), ("MAGNETAR_KAFKA_NUM_PARTITIONS", "9")];
        let config = Config::read(&layers(&flags, &environment).expect("legal")).expect("consistent");
        assert_eq!((config.data_dir, config.node.0), ("/d".into(), 0));
        assert_eq!(
            (config.listener.to_string(), config.advertised.to_string()),
            ("127.0.0.1:1".into(), "127.0.0.1:1".into())
        );
        assert_eq!((config.kafka.get("num.partitions"), config.broker.cache), (Some("4"), 1 << 20));
    }

    #[test]
    fn a_mistyped_setting_names_the_nearest() {
        let problem = layers(&["--set", "num.partition=4"], &[]).expect_err("unknown").to_string();
        assert!(problem.contains("did you mean \"num.partitions\""), "{problem}");
        assert!(layers(&["--set", "num.partitions"], &[]).is_err(), "no value");
    }
}
