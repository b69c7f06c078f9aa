//! `magnetar standalone`: a server in one process. Owns the flags, the runtime and the signals; the node does the rest.

use super::{
    banner::{self, Banner},
    client::name_and_value,
};
use crate::{
    admin::ConfigValue,
    config::{
        Config, key,
        layers::{Layers, Source},
    },
    node::Node,
    open_files, telemetry,
};
use anyhow::{Context, anyhow};
use clap::Args;
use protocol::{
    runtime::{Clock, SystemClock},
    settings::catalogue::{self, Scope},
};
use std::{collections::BTreeMap, path::PathBuf, process::ExitCode, time::Duration};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often the node is asked whether it is ready, until it is.
const LOOK: Duration = Duration::from_millis(2);
/// After this time the banner is printed with what is still missing.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Runs a server in one process.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar standalone\n  magnetar standalone --data-dir /srv/magnetar --set num.partitions=4 --set log.retention.hours=24\n  magnetar standalone --kafka-address 0.0.0.0:9092 --advertised kafka.example.com:9092\n  magnetar standalone --config magnetar.toml        (magnetar config > magnetar.toml writes one to start from)\n\nEnvironment: MAGNETAR_<SECTION>_<KEY>, for example MAGNETAR_NODE_DATA_DIR or MAGNETAR_KAFKA_NUM_PARTITIONS."
)]
pub struct Standalone {
    /// A configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where data is kept [default: ~/.local/share/magnetar]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where Kafka clients connect to [default: localhost:9092]
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka_address: Option<String>,
    /// What clients are told to connect to, if that is not the same
    #[arg(long, value_name = "HOST:PORT")]
    pub advertised: Option<String>,
    /// Where metrics and health are served [default: localhost:8080]
    #[arg(long, value_name = "HOST:PORT")]
    pub admin_address: Option<String>,
    /// A broker setting under Kafka's name, or a key of the file with its section; may be repeated
    #[arg(short, long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Which log lines are written: error, warn, info, debug, or per module
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

/// How a server ended.
enum End {
    Asked { clean: bool },
    Failed(String),
}

impl Standalone {
    /// Runs until a signal, or until something fails without which the server cannot go on.
    ///
    /// # Errors
    /// The configuration is not valid, or the server does not start.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let layers = self.layers(std::env::vars())?;
        let config = Config::read(&layers)?;
        telemetry::start_logs(&config.log, config.log_format).map_err(|e| anyhow!(e))?;
        open_files::raise_limit();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("magnetar")
            .build()
            .context("cannot start threads")?;
        let end = runtime.block_on(serve(config, &layers))?;
        // What was cut off may still hold a thread; the process ends all the same.
        runtime.shutdown_timeout(Duration::from_secs(1));
        match end {
            End::Asked { clean: true } => Ok(ExitCode::SUCCESS),
            End::Asked { clean: false } => Ok(ExitCode::from(3)),
            End::Failed(problem) => Err(anyhow!("the server cannot go on: {problem}")),
        }
    }

    /// File, environment and flags, in rising precedence.
    fn layers(&self, environment: impl Iterator<Item = (String, String)>) -> anyhow::Result<Layers> {
        let mut layers = Layers::default();
        if let Some(file) = &self.config {
            layers.file(file)?;
        }
        layers.environment(environment)?;
        let text = |path: &PathBuf| path.display().to_string();
        for (flag, path, value) in [
            ("--data-dir", "node.data_dir", self.data_dir.as_ref().map(text)),
            ("--kafka-address", "kafka.listeners", self.kafka_address.clone()),
            ("--advertised", "kafka.advertised.listeners", self.advertised.clone()),
            ("--admin-address", "admin.address", self.admin_address.clone()),
            ("--log", "node.log", self.log.clone()),
        ] {
            if let Some(value) = value {
                layers.set(path, value, Source::Flag(flag.into()))?;
            }
        }
        for option in &self.set {
            let (name, value) = name_and_value(option)?;
            // Kafka's names come first: node.id is both, and means the same.
            let ours = catalogue::find(Scope::Node, name).is_none() && key::find(name).is_some();
            let path = if ours || name.starts_with("kafka.") { name.into() } else { format!("kafka.{name}") };
            layers.set(&path, value.into(), Source::Flag("--set".into()))?;
        }
        Ok(layers)
    }
}

/// Starts the node, prints the banner, waits for the end, and stops the node.
async fn serve(config: Config, layers: &Layers) -> anyhow::Result<End> {
    let clock = SystemClock::default();
    let begin = clock.monotonic();
    let mut signals = Signals::new()?;
    let metrics = telemetry::start_metrics().context("cannot collect metrics")?;
    let data = config.data_dir.clone();
    let node = tokio::select! {
        started = Node::start(config, shown(layers), metrics) => started?,
        () = signals.next() => return Ok(End::Asked { clean: true }),
    };
    let asked = tokio::select! {
        () = wait_ready(&node) => None,
        () = signals.next() => Some(End::Asked { clean: true }),
        problem = node.failure() => Some(End::Failed(problem)),
    };
    let end = match asked {
        Some(end) => end,
        None => {
            let took = clock.monotonic().saturating_sub(begin);
            let program = banner::program(std::env::var_os("PATH").as_deref(), std::env::current_exe().ok().as_deref());
            let banner = Banner { kafka: node.kafka.to_string(), admin: node.admin, data, took, program };
            println!("\n{banner}");
            tokio::select! {
                () = signals.next() => End::Asked { clean: true },
                problem = node.failure() => End::Failed(problem),
            }
        }
    };
    let stopped = tokio::select! {
        clean = node.stop() => clean,
        () = signals.next() => {
            eprintln!("stopped at once; the next start recovers what was not closed");
            std::process::exit(130);
        }
    };
    Ok(match end {
        End::Asked { clean } => End::Asked { clean: clean && stopped },
        failed @ End::Failed(_) => failed,
    })
}

/// Waits until every role is ready; says what is missing if that takes long, and goes on.
async fn wait_ready(node: &Node) {
    let ready = async {
        while !node.obstacles().is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(START_PATIENCE, ready).await.is_err() {
        tracing::warn!(reasons = ?node.obstacles(), "not ready yet");
    }
}

/// Every value that was set, and every default of a key of ours, for `/config`.
fn shown(layers: &Layers) -> BTreeMap<String, ConfigValue> {
    let value = |value: &str, source: &Source| ConfigValue { value: value.into(), source: source.to_string() };
    let defaults = key::KEYS.iter().map(|key| (key.path.to_string(), value(key.default, &Source::Default)));
    let set = layers.iter().map(|(path, v, source)| (path.to_string(), value(v, source)));
    defaults.chain(set).collect()
}

/// The signals that ask for an end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let catch = |kind| signal(kind).context("cannot catch signals");
        Ok(Self { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn layers(flags: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Layers> {
        let all = ["magnetar", "standalone"].iter().chain(flags);
        let Command::Standalone(args) = Cli::try_parse_from(all)?.command else { panic!("another command") };
        args.layers(environment.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())))
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
