//! Configuration of a process: a TOML file, the environment and flags, in rising precedence. Owns which keys exist
//! ([`key`]), how the layers are merged ([`layers`]) and the typed result ([`Config`]).
//!
//! Nothing else reads the configuration file or `MAGNETAR_*` settings of the server. What Kafka has a broker setting for
//! is not a key of ours: it stands in `[kafka]`, under Kafka's name, and is checked by [`protocol::settings`].

pub mod address;
pub mod amount;
pub mod annotated;
pub mod key;
pub mod layers;
#[cfg(test)]
mod tests;

use ::bookie::OnEmptyDisk;
use address::{Address, ListenerError};
use layers::{Layers, Source};
use protocol::{
    id::{BookieId, NodeId},
    settings::{SettingsError, StaticSettings},
};
use std::{path::PathBuf, time::Duration};

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not valid TOML: {problem}")]
    NotToml {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column.
        problem: String,
    },
    /// No key has this name.
    #[error("unknown key \"{name}\" in {source_name}{}", nearest.as_ref().map(|n| format!("; did you mean \"{n}\"?")).unwrap_or_default())]
    Unknown {
        /// The name.
        name: String,
        /// Where it stands.
        source_name: String,
        /// The most similar known name.
        nearest: Option<String>,
    },
    /// A value is not of the key's type.
    #[error("invalid value \"{value}\" for {name} in {source_name}: {reason}")]
    Invalid {
        /// The key.
        name: String,
        /// The value.
        value: String,
        /// Where it stands.
        source_name: String,
        /// What would be valid.
        reason: String,
    },
    /// A Kafka setting was refused.
    #[error("{problem} (in {source_name})")]
    Kafka {
        /// What is wrong with it.
        problem: SettingsError,
        /// Where it stands.
        source_name: String,
    },
    /// An address cannot be used.
    #[error("{name}: {problem}")]
    Listener {
        /// The setting.
        name: &'static str,
        /// What is wrong with it.
        problem: ListenerError,
    },
    /// Two keys for the same thing disagree.
    #[error("{first} is {first_value}, but {second} is {second_value}; set only one of them")]
    Contradiction {
        /// One key.
        first: String,
        /// Its value.
        first_value: String,
        /// The other.
        second: String,
        /// Its value.
        second_value: String,
    },
    /// Where to keep data cannot be found out.
    #[error("there is no home directory to keep data in; name a directory with --data-dir")]
    NoHome,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The configuration of a process, typed and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The node's number.
    pub node: NodeId,
    /// Where everything is kept that is not given a place of its own.
    pub data_dir: PathBuf,
    /// Which log lines are written, as a filter of `tracing`; empty is the usual one.
    pub log: String,
    /// How they are written.
    pub log_format: LogFormat,
    /// How long a shutdown may take before what is left is cut off.
    pub stop_deadline: Duration,
    /// Settings under Kafka's own names.
    pub kafka: StaticSettings,
    /// Where Kafka clients connect to.
    pub listener: Address,
    /// What clients are told to connect to.
    pub advertised: Address,
    /// Where metrics and health are served.
    pub admin: Address,
    /// The metadata service.
    pub metadata: MetadataSection,
    /// The bookie.
    pub bookie: BookieSection,
    /// Repair.
    pub repair: RepairSection,
    /// The broker.
    pub broker: BrokerSection,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// The address.
    pub address: Address,
    /// Whether somebody asked for it, so that going without it would be wrong.
    pub is_explicit: bool,
}

/// `[metadata]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataSection {
    /// Its number; `None` takes what it is given.
    pub id: Option<u64>,
    /// Where it listens for other processes.
    pub listener: Listening,
    /// Where they reach it, if that is not where it listens.
    pub advertised: Option<Address>,
    /// Where it listens for other metadata nodes.
    pub peers: Listening,
    /// Where they reach it, if that is not where it listens.
    pub peer_advertised: Option<Address>,
    /// The cluster that it joins at its first start; empty if it founds one.
    pub join: Vec<Address>,
    /// Whether it has no vote.
    pub is_learner: bool,
    /// Where processes without a metadata service find one; at least one address.
    pub servers: Vec<Address>,
    /// Where it keeps its log and snapshots.
    pub data_dir: PathBuf,
    /// A snapshot is taken after this many log entries.
    pub snapshot_after_logs: u64,
}

/// `[bookie]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookieSection {
    /// The bookie's number.
    pub id: BookieId,
    /// Where it listens for brokers and other bookies.
    pub listener: Listening,
    /// Where others reach it, if that is not where it listens.
    pub advertised: Option<Address>,
    /// Where it keeps entries.
    pub data_dir: PathBuf,
    /// Where it keeps its journal, if that is another disk.
    pub wal_dir: Option<PathBuf>,
    /// Below this much free space, in bytes, it takes no new entries; the bookie's own default if none.
    pub reserve: Option<u64>,
    /// The operator accepts that acknowledged entries were lost.
    pub accept_lost_entries: bool,
    /// What it does when all of its directories are empty although the cluster knows it.
    pub on_empty_disk: OnEmptyDisk,
    /// How often all entries are read again; zero is never.
    pub scrub_interval: Duration,
    /// Bytes a second that may read.
    pub scrub_bandwidth: u64,
}

/// `[repair]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepairSection {
    /// How long a bookie may be away before what it held is copied.
    pub grace: Duration,
    /// Bytes a second that one bookie may copy.
    pub bandwidth: u64,
    /// How often every ledger is audited.
    pub audit_interval: Duration,
}

/// `[broker]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokerSection {
    /// Bytes of recent entries kept in memory.
    pub cache: usize,
    /// Bytes of records that may wait to be written.
    pub queue: usize,
}

impl Config {
    /// Reads the merged layers.
    ///
    /// # Errors
    /// The first value that is not of its key's type, or that contradicts another.
    pub fn read(layers: &Layers) -> Result<Self, ConfigError> {
        let kafka = layers.kafka()?;
        let data_dir = match layers.path("node.data_dir")? {
            Some(dir) => dir,
            None => default_data_dir().ok_or(ConfigError::NoHome)?,
        };
        let (listener, advertised) = address::kafka(&kafka)?;
        Ok(Self {
            node: node_id(layers, &kafka)?,
            log: layers.value("node.log").to_string(),
            log_format: if layers.value("node.log_format") == "json" { LogFormat::Json } else { LogFormat::Text },
            stop_deadline: layers.duration("node.stop_deadline")?,
            listener,
            advertised,
            admin: address::own(layers, "admin.address")?,
            metadata: MetadataSection {
                id: layers.metadata_id()?,
                listener: address::listening(layers, "metadata.address")?,
                advertised: address::optional(layers, "metadata.advertised")?,
                peers: address::listening(layers, "metadata.peer_address")?,
                peer_advertised: address::optional(layers, "metadata.peer_advertised")?,
                join: match layers.given("metadata.join") {
                    Some(_) => address::list(layers, "metadata.join")?,
                    None => Vec::new(),
                },
                is_learner: layers.value("metadata.learner") == "true",
                servers: address::list(layers, "metadata.servers")?,
                data_dir: layers.path("metadata.data_dir")?.unwrap_or_else(|| data_dir.join("metadata")),
                snapshot_after_logs: layers.number("metadata.snapshot_after_logs")?,
            },
            bookie: BookieSection {
                id: BookieId(layers.number("bookie.id")?),
                listener: address::listening(layers, "bookie.address")?,
                advertised: address::optional(layers, "bookie.advertised")?,
                data_dir: layers.path("bookie.data_dir")?.unwrap_or_else(|| data_dir.join("bookie")),
                wal_dir: layers.path("bookie.wal_dir")?,
                reserve: layers.given("bookie.reserve").map(|_| layers.size("bookie.reserve")).transpose()?,
                accept_lost_entries: layers.value("bookie.accept_lost_entries") == "true",
                on_empty_disk: match layers.value("bookie.on_empty_disk") {
                    "refuse" => OnEmptyDisk::Refuse,
                    "discard" => OnEmptyDisk::Discard,
                    _ => OnEmptyDisk::Heal,
                },
                scrub_interval: layers.duration("bookie.scrub_interval")?,
                scrub_bandwidth: layers.size("bookie.scrub_bandwidth")?,
            },
            repair: RepairSection {
                grace: layers.duration("repair.grace")?,
                bandwidth: layers.size("repair.bandwidth")?,
                audit_interval: layers.duration("repair.audit_interval")?,
            },
            broker: BrokerSection { cache: layers.memory("broker.cache")?, queue: layers.memory("broker.queue")? },
            data_dir,
            kafka,
        })
    }
}

/// `[node] id`, or Kafka's `node.id` or `broker.id`: whichever is set; they must not disagree.
fn node_id(layers: &Layers, kafka: &StaticSettings) -> Result<NodeId, ConfigError> {
    let ours = Some(layers.value("node.id")).filter(|_| layers.source("node.id") != Source::Default);
    let names = [("node.id", kafka.get("node.id")), ("broker.id", kafka.get("broker.id")), ("[node] id", ours)];
    let mut given = names.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
    let Some((first, value)) = given.next() else { return Ok(NodeId(layers.number("node.id")?)) };
    if let Some((second, other)) = given.find(|(_, other)| *other != value) {
        return Err(ConfigError::Contradiction {
            first: first.into(),
            first_value: value.into(),
            second: second.into(),
            second_value: other.into(),
        });
    }
    Ok(NodeId(value.parse().unwrap_or_default()))
}

/// `$XDG_DATA_HOME/magnetar`, or what the standard says if that is not set.
fn default_data_dir() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?;
    Some(base.join("magnetar"))
}
