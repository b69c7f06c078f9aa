//! `magnetar group`: lists and describes consumer groups, with their lag. Owns the words and tables of these commands.

use super::{
    client::{Connection, PATIENCE, explain, explain_code},
    lag::{self, PartitionLag},
    table,
};
use anyhow::bail;
use clap::{Args, Subcommand};
use rdkafka::{
    consumer::Consumer,
    error::{KafkaError, RDKafkaErrorCode},
    groups::{GroupInfo, GroupList},
};
use serde_json::json;

/// Lists and describes consumer groups.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// List groups
    List(List),
    /// Show members, committed offsets and lag of groups
    #[command(after_help = "Examples:\n  magnetar group describe billing\n  magnetar group describe --all")]
    Describe(Describe),
}

/// `group list`
#[derive(Debug, Args)]
pub struct List {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The server to ask.
    #[command(flatten)]
    pub connection: Connection,
}

/// `group describe`
#[derive(Debug, Args)]
pub struct Describe {
    /// The groups
    #[arg(required_unless_present = "all", value_name = "GROUP")]
    pub groups: Vec<String>,
    /// All groups
    #[arg(long, conflicts_with = "groups")]
    pub all: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The server to ask.
    #[command(flatten)]
    pub connection: Connection,
}

impl GroupCommand {
    /// Does what was asked.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List(args) => args.run(),
            Self::Describe(args) => args.run(),
        }
    }
}

/// Groups of the server: one, or all. A server on which no group ever existed has none.
fn fetch(connection: &Connection, group: Option<&str>) -> anyhow::Result<Option<GroupList>> {
    match connection.observer()?.fetch_group_list(group, PATIENCE) {
        Ok(list) => Ok(Some(list)),
        Err(KafkaError::GroupListFetch(RDKafkaErrorCode::CoordinatorNotAvailable)) => Ok(None),
        Err(KafkaError::GroupListFetch(code)) => bail!("{}", explain_code(code)),
        Err(e) => Err(explain(&e)),
    }
}

impl List {
    fn run(self) -> anyhow::Result<()> {
        let list = fetch(&self.connection, None)?;
        let mut groups: Vec<&GroupInfo> = list.iter().flat_map(GroupList::groups).collect();
        groups.sort_by_key(|g| g.name());
        if self.json {
            let row = |g: &&GroupInfo| json!({"group": g.name(), "state": g.state(), "members": g.members().len()});
            println!("{}", serde_json::to_string_pretty(&groups.iter().map(row).collect::<Vec<_>>())?);
        } else if groups.is_empty() {
            println!("no groups yet; one begins with: magnetar consume TOPIC --group NAME");
        } else {
            let row = |g: &GroupInfo| vec![g.name().into(), g.state().into(), g.members().len().to_string()];
            table::print(&["GROUP", "STATE", "MEMBERS"], &["MEMBERS"], groups.into_iter().map(row));
        }
        Ok(())
    }
}

impl Describe {
    fn run(self) -> anyhow::Result<()> {
        let names = if self.all {
            let list = fetch(&self.connection, None)?;
            list.iter().flat_map(GroupList::groups).map(|g| g.name().to_string()).collect()
        } else {
            self.groups.clone()
        };
        let mut described = Vec::new();
        for name in names {
            let list = fetch(&self.connection, Some(&name))?;
            let lags = lag::of_group(&self.connection, &name)?;
            let info = list.iter().flat_map(GroupList::groups).find(|g| g.name() == name);
            if lags.is_empty() && info.is_none_or(|g| g.state() == "Dead") {
                bail!("there is no group \"{name}\"; \"magnetar group list\" shows what exists");
            }
            if self.json {
                described.push(as_json(&name, info, &lags));
            } else {
                print(&name, info, &lags);
            }
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&described)?);
        }
        Ok(())
    }
}

fn as_json(name: &str, info: Option<&GroupInfo>, lags: &[PartitionLag]) -> serde_json::Value {
    let partition = |p: &PartitionLag| json!({"topic": p.topic, "partition": p.partition, "committed": p.committed, "end": p.end, "lag": p.records()});
    let members: Vec<_> = info
        .map(|g| {
            g.members().iter().map(|m| json!({"member": m.id(), "client": m.client_id(), "host": m.client_host()}))
        })
        .into_iter()
        .flatten()
        .collect();
    json!({
        "group": name,
        "state": info.map(GroupInfo::state),
        "members": members,
        "lag": lags.iter().map(PartitionLag::records).sum::<u64>(),
        "partitions": lags.iter().map(partition).collect::<Vec<_>>(),
    })
}

fn print(name: &str, info: Option<&GroupInfo>, lags: &[PartitionLag]) {
    let total: u64 = lags.iter().map(PartitionLag::records).sum();
    let state = info.map_or("Empty", GroupInfo::state);
    let members = info.map_or(0, |g| g.members().len());
    println!("GROUP {name}   STATE {state}   MEMBERS {members}   LAG {}", table::count(total, "record"));
    if !lags.is_empty() {
        let row = |p: &PartitionLag| {
            let (committed, end) = (p.committed.to_string(), p.end.to_string());
            vec![p.topic.clone(), p.partition.to_string(), committed, end, table::number(p.records())]
        };
        let heads = ["TOPIC", "PARTITION", "COMMITTED", "END", "LAG"];
        table::print(&heads, &["PARTITION", "COMMITTED", "END", "LAG"], lags.iter().map(row));
    }
    if let Some(group) = info.filter(|g| !g.members().is_empty()) {
        let row =
            |m: &rdkafka::groups::GroupMemberInfo| vec![m.id().into(), m.client_id().into(), m.client_host().into()];
        table::print(&["MEMBER", "CLIENT", "HOST"], &[], group.members().iter().map(row));
    }
    println!();
}
