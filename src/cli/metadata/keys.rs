//! `magnetar metadata get`, `put`, `rm`, `ls` and `watch`: keys by hand. Owns what is printed, and that nobody writes the
//! records of the cluster by accident; the conditions of a write are the service's.

use super::{Nodes, value::shown};
use crate::cli::{cluster_client::ClusterAddress, table};
use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use futures::StreamExt;
use protocol::{
    id::Revision,
    model::{key, prefix},
    service::metadata::{
        Change, Condition, Consistency, MetadataError, Operation, Outcome, Scan, Transaction, Versioned,
    },
};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    process::ExitCode,
};

/// Keys per page of a listing.
const PAGE: u32 = 1_000;

/// `metadata get`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar metadata get cluster\n  magnetar metadata get my/key --raw > value\n\nExit status: 0 if the key exists, 1 if not."
)]
pub struct Get {
    /// The key
    #[arg(value_name = "KEY")]
    pub key: String,
    /// Only the bytes of the value
    #[arg(long, conflicts_with = "json")]
    pub raw: bool,
    /// As JSON, with version and session
    #[arg(long)]
    pub json: bool,
    /// What the node that answers has, without asking the leader: it may be behind
    #[arg(long)]
    pub stale: bool,
    /// The nodes to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
}

/// `metadata put`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar metadata put my/key hello\n  magnetar metadata put my/key - < value\n  magnetar metadata put my/key hello --if-absent\n  magnetar metadata put my/key hello --if-version 1234     the version that get --json shows\n\nExit status: 0 if it was written, 1 if the condition did not hold."
)]
pub struct Put {
    /// The key
    #[arg(value_name = "KEY")]
    pub key: String,
    /// The value; - reads it from standard input
    #[arg(value_name = "VALUE")]
    pub value: String,
    /// Only if the key does not exist
    #[arg(long, conflicts_with = "if_version")]
    pub if_absent: bool,
    /// Only if the key was last written at this revision
    #[arg(long, value_name = "REVISION")]
    pub if_version: Option<u64>,
    /// Write even a key of the cluster's own records, which can damage it
    #[arg(long)]
    pub force: bool,
    /// The nodes to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
}

/// `metadata rm`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar metadata rm my/key\n\nExit status: 0 if it was deleted, 1 if it did not exist or the condition did not hold."
)]
pub struct Remove {
    /// The key
    #[arg(value_name = "KEY")]
    pub key: String,
    /// Only if the key was last written at this revision
    #[arg(long, value_name = "REVISION")]
    pub if_version: Option<u64>,
    /// Delete even a key of the cluster's own records, which can damage it
    #[arg(long)]
    pub force: bool,
    /// The nodes to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
}

/// `metadata ls`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar metadata ls\n  magnetar metadata ls topics/ --values\n  magnetar metadata ls --json | jq .key"
)]
pub struct List {
    /// Only keys that begin with this
    #[arg(value_name = "PREFIX", default_value = "")]
    pub prefix: String,
    /// Also what they hold
    #[arg(long)]
    pub values: bool,
    /// As JSON, a line per key
    #[arg(long)]
    pub json: bool,
    /// At most so many
    #[arg(short = 'n', long, value_name = "N")]
    pub limit: Option<usize>,
    /// The nodes to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
}

/// `metadata watch`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar metadata watch\n  magnetar metadata watch topics/ --json\n  magnetar metadata watch --after 1234       everything after that revision, if it is still kept\n\nCtrl-C ends it. It goes on when a metadata node fails."
)]
pub struct Watch {
    /// Only keys that begin with this
    #[arg(value_name = "PREFIX", default_value = "")]
    pub prefix: String,
    /// Everything after this revision, not only what happens from now on
    #[arg(long, value_name = "REVISION")]
    pub after: Option<u64>,
    /// As JSON, a line per transaction
    #[arg(long)]
    pub json: bool,
    /// End after so many changes
    #[arg(short = 'n', long, value_name = "N")]
    pub limit: Option<usize>,
    /// The nodes to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
}

/// Refuses keys that the cluster itself writes.
fn refuse_records(name: &str, force: bool) -> anyhow::Result<()> {
    let records = [
        prefix::NODES,
        prefix::BOOKIES,
        prefix::COOKIES,
        prefix::TOPICS,
        prefix::DELETING,
        prefix::PARTITIONS,
        prefix::CLOSED,
        prefix::DEAD,
        prefix::DECOMMISSIONS,
        prefix::REPAIRS,
        prefix::REPAIRING,
        prefix::STRAYS,
        prefix::SCRUBS,
        prefix::CONFIG,
        prefix::LOCKS,
        prefix::ELECTIONS,
    ];
    let is_record = name == key::cluster() || records.iter().any(|record| name.starts_with(record));
    if is_record && !force {
        bail!("{name} is one of the cluster's own records; writing it by hand can lose data. If you must: --force");
    }
    Ok(())
}

impl Get {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        Nodes::run(&self.connection.clone(), async |nodes| {
            let consistency = if self.stale { Consistency::Stale } else { Consistency::Linearizable };
            let found = nodes.keys()?.get(self.key.clone(), consistency).await.with_context(|| nodes.hint())?;
            let Some(item) = found else {
                eprintln!("{} does not exist", self.key);
                return Ok(ExitCode::FAILURE);
            };
            if self.raw {
                std::io::stdout().lock().write_all(&item.value).context("cannot write")?;
            } else if self.json {
                println!("{}", json_of(&item));
            } else {
                println!("{}", shown(&item.value));
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

fn json_of(item: &Versioned) -> Value {
    json!({
        "key": item.key, "value": shown(&item.value), "version": item.version.0,
        "session": item.session.map(|session| session.0),
    })
}

/// Does one thing to one key; the exit status says whether its condition held.
async fn change(
    nodes: &Nodes,
    conditions: Vec<Condition>,
    operation: Operation,
    done: &str,
) -> anyhow::Result<ExitCode> {
    let transaction = Transaction { conditions, operations: vec![operation], request: None };
    match nodes.keys()?.transact(transaction).await.with_context(|| nodes.hint())? {
        Outcome::Committed { revision, .. } => {
            println!("{done} at revision {revision}");
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Conflict { current: Some(current), .. } => {
            eprintln!("nothing was changed: {} was last written at revision {}", current.key, current.version);
            Ok(ExitCode::FAILURE)
        }
        Outcome::Conflict { current: None, .. } => {
            eprintln!("nothing was changed: the key does not exist");
            Ok(ExitCode::FAILURE)
        }
    }
}

impl Put {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        refuse_records(&self.key, self.force)?;
        let mut value = self.value.clone().into_bytes();
        if self.value == "-" {
            value.clear();
            std::io::stdin().lock().read_to_end(&mut value).context("cannot read standard input")?;
        }
        let condition = match self.if_version {
            Some(version) => Some(Condition::Version(self.key.clone(), Revision(version))),
            None => self.if_absent.then(|| Condition::Absent(self.key.clone())),
        };
        let put = Operation::Put { key: self.key.clone(), value: Bytes::from(value), session: None };
        Nodes::run(&self.connection, async |nodes| change(nodes, condition.into_iter().collect(), put, "written").await)
    }
}

impl Remove {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        refuse_records(&self.key, self.force)?;
        let condition = match self.if_version {
            Some(version) => Condition::Version(self.key.clone(), Revision(version)),
            None => Condition::Present(self.key.clone()),
        };
        let delete = Operation::Delete(self.key.clone());
        Nodes::run(&self.connection, async |nodes| change(nodes, vec![condition], delete, "deleted").await)
    }
}

impl List {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        Nodes::run(&self.connection.clone(), async |nodes| {
            let (keys, mut after, mut rows) = (nodes.keys()?, None, Vec::new());
            let mut left = self.limit.unwrap_or(usize::MAX);
            loop {
                let limit = PAGE.min(u32::try_from(left).unwrap_or(PAGE));
                if limit == 0 {
                    break;
                }
                let scan = Scan { prefix: self.prefix.clone(), after, limit, consistency: Consistency::Linearizable };
                let page = keys.scan(scan).await.with_context(|| nodes.hint())?;
                left -= page.items.len();
                after = page.items.last().map(|item| item.key.clone());
                for item in page.items {
                    if self.json {
                        println!("{}", json_of(&item));
                    } else if self.values {
                        let session = item.session.map_or_else(|| "-".into(), |session| session.to_string());
                        rows.push(vec![item.key, item.version.to_string(), session, shown(&item.value)]);
                    } else {
                        println!("{}", item.key);
                    }
                }
                if !page.more || after.is_none() {
                    break;
                }
            }
            if self.values && !self.json {
                table::print(&["KEY", "VERSION", "SESSION", "VALUE"], &["VERSION", "SESSION"], rows);
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

impl Watch {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        Nodes::run(&self.connection.clone(), async |nodes| {
            let keys = nodes.keys()?;
            let after = match self.after {
                Some(after) => Revision(after),
                None => {
                    let now = Scan {
                        prefix: self.prefix.clone(),
                        after: None,
                        limit: 1,
                        consistency: Consistency::Linearizable,
                    };
                    keys.scan(now).await.with_context(|| nodes.hint())?.revision
                }
            };
            let mut watch = keys.watch(self.prefix.clone(), after).await.map_err(explain)?;
            eprintln!(
                "watching {} after revision {after}; Ctrl-C ends it",
                if self.prefix.is_empty() { "everything" } else { &self.prefix }
            );
            let mut left = self.limit.unwrap_or(usize::MAX);
            while left > 0 {
                let event = tokio::select! {
                    event = watch.next() => event,
                    _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
                };
                let event = event.context("the watch has ended")?.map_err(explain)?;
                for change in event.changes.iter().take(left) {
                    println!(
                        "{}",
                        if self.json {
                            json_change(event.revision, change).to_string()
                        } else {
                            line(event.revision, change)
                        }
                    );
                }
                left = left.saturating_sub(event.changes.len());
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

fn explain(problem: MetadataError) -> anyhow::Error {
    match problem {
        MetadataError::Compacted { oldest, .. } => {
            anyhow::anyhow!("that far back nothing is kept; the oldest revision to watch after is {oldest}")
        }
        other => other.into(),
    }
}

fn line(revision: Revision, change: &Change) -> String {
    match change {
        Change::Put(item) => format!("{revision} put {} {}", item.key, shown(&item.value)),
        Change::Deleted(key) => format!("{revision} deleted {key}"),
    }
}

fn json_change(revision: Revision, change: &Change) -> Value {
    match change {
        Change::Put(item) => json!({ "revision": revision.0, "put": json_of(item) }),
        Change::Deleted(key) => json!({ "revision": revision.0, "deleted": key }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clusters_own_records_are_not_written_by_accident() {
        for name in ["cluster", "topics/a", "partitions/x/0", "bookies/1"] {
            let refused = refuse_records(name, false).expect_err("a record").to_string();
            assert!(refused.contains("--force"), "{refused}");
            assert!(refuse_records(name, true).is_ok());
        }
        assert!(refuse_records("my/topics/a", false).is_ok() && refuse_records("clusters", false).is_ok());
    }

    #[test]
    fn changes_are_a_line_each() {
        let item = Versioned { key: "k".into(), value: "v".into(), version: Revision(7), session: None };
        assert_eq!(line(Revision(7), &Change::Put(item.clone())), "7 put k v");
        assert_eq!(line(Revision(8), &Change::Deleted("k".into())), "8 deleted k");
        assert_eq!(json_change(Revision(7), &Change::Put(item))["put"]["version"], 7);
    }
}
