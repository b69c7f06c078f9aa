//! What all commands that run roles have in common: flags, runtime, signals, and what they say when they are reached and
//! ready. Owns the life of the process; the node does the rest.

use super::client::name_and_value;
use crate::{
    admin::ConfigValue,
    config::{
        Config, key,
        layers::{Layers, Source},
    },
    node::{Addresses, Listeners, Node},
    open_files,
    role::RoleSet,
    telemetry,
};
use anyhow::{Context, anyhow};
use clap::Args;
use protocol::{
    runtime::{Clock, SystemClock},
    settings::catalogue::{self, Scope},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often the node is asked whether it is ready, until it is.
const LOOK: Duration = Duration::from_millis(2);
/// After this time a server that is not ready says what is missing, and goes on.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Flags of every command that runs roles.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// A configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where data is kept [default: ~/.local/share/magnetar]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
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

/// A flag of one command: its name, the key it sets, and the value if it was given.
pub type Flag = (&'static str, &'static str, Option<String>);

impl ServerArgs {
    /// File, environment and flags, in rising precedence.
    ///
    /// # Errors
    /// An unknown key, or a value of the wrong type.
    pub fn layers(
        &self,
        environment: impl Iterator<Item = (String, String)>,
        flags: Vec<Flag>,
    ) -> anyhow::Result<Layers> {
        let mut layers = Layers::default();
        if let Some(file) = &self.config {
            layers.file(file)?;
        }
        layers.environment(environment)?;
        let common = [
            ("--data-dir", "node.data_dir", self.data_dir.as_ref().map(|dir| dir.display().to_string())),
            ("--admin-address", "admin.address", self.admin_address.clone()),
            ("--log", "node.log", self.log.clone()),
        ];
        for (flag, path, value) in common.into_iter().chain(flags) {
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

    /// Runs these roles until a signal, or until something fails without which they cannot go on.
    ///
    /// # Errors
    /// The configuration is not valid, or the server does not start.
    pub fn run(&self, flags: Vec<Flag>, roles: RoleSet, says: &dyn Says) -> anyhow::Result<ExitCode> {
        let layers = self.layers(std::env::vars(), flags)?;
        let config = Config::read(&layers)?;
        telemetry::start_logs(&config.log, config.log_format).map_err(|e| anyhow!(e))?;
        open_files::raise_limit();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("magnetar")
            .build()
            .context("cannot start threads")?;
        let end = runtime.block_on(serve(config, &layers, roles, says))?;
        // What was cut off may still hold a thread; the process ends all the same.
        runtime.shutdown_timeout(Duration::from_secs(1));
        match end {
            End::Asked { clean: true } => Ok(ExitCode::SUCCESS),
            End::Asked { clean: false } => Ok(ExitCode::from(3)),
            End::Failed(problem) => Err(anyhow!("the server cannot go on: {problem}")),
        }
    }
}

/// What a server says on standard output.
pub trait Says {
    /// It listens, but may not be ready for long.
    fn listening(&self, addresses: &Addresses);
    /// It is ready, after this time.
    fn ready(&self, addresses: &Addresses, data: &Path, took: Duration);
}

/// How a server ended.
enum End {
    Asked { clean: bool },
    Failed(String),
}

/// Starts the node, says where it is, waits for the end, and stops the node.
async fn serve(config: Config, layers: &Layers, roles: RoleSet, says: &dyn Says) -> anyhow::Result<End> {
    let clock = SystemClock::default();
    let begin = clock.monotonic();
    let mut signals = Signals::new()?;
    let metrics = telemetry::start_metrics().context("cannot collect metrics")?;
    let data = config.data_dir.clone();
    let listeners = Listeners::bind(&config, roles).await?;
    says.listening(&listeners.addresses);
    let node = tokio::select! {
        started = Node::start(config, shown(layers), metrics, listeners) => started?,
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
            says.ready(&node.addresses, &data, clock.monotonic().saturating_sub(begin));
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
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Catches them from now on.
    ///
    /// # Errors
    /// The system does not let us.
    pub(super) fn new() -> anyhow::Result<Self> {
        let catch = |kind| signal(kind).context("cannot catch signals");
        Ok(Self { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())? })
    }

    /// The next one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
