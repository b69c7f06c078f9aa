//! `magnetar metadata`: runs a metadata node, shows how the nodes do, changes who they are, and reads and writes keys.
//! Owns the grammar and the way to the nodes; each group of commands has a file of its own.

mod backup;
mod keys;
mod members;
mod status;
mod turns;
mod value;

use super::{cluster_client::ClusterAddress, roles::MetadataStart};
use anyhow::{Context, bail};
use backup::{Restore, Snapshot};
use clap::Subcommand;
use keys::{Get, List, Put, Remove as RemoveKey, Watch};
use members::{Add, Members, Remove, Transfer};
use protocol::{
    runtime::Tasks,
    service::{
        metadata::MetadataService,
        quorum::{QuorumService, QuorumStatus},
    },
    wire::metadata::{RemoteMetadata, RemoteOptions, RemoteQuorum},
};
use status::Status;
use std::{process::ExitCode, sync::Arc, time::Duration};
use turns::{Elect, Hold};

/// How long a command waits for a metadata node.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a command waits for a change of membership.
const CHANGE: Duration = Duration::from_secs(30);

/// Runs and looks after the metadata service.
#[derive(Debug, Subcommand)]
pub enum MetadataCommand {
    /// Run a metadata node; they keep what exists, and who owns it
    Start(MetadataStart),
    /// Show every metadata node: whether it answers, who leads, what it holds
    Status(Status),
    /// List the metadata nodes, who leads, and how far the others are behind
    Members(Members),
    /// Give a vote to a node that was started with --learner
    Add(Add),
    /// Take a metadata node out, for good or before its lost disk is replaced
    Remove(Remove),
    /// Hand the lead to another node
    Transfer(Transfer),
    /// Write everything into a file, or have a node shorten its log
    Snapshot(Snapshot),
    /// Begin a new cluster with what a file of magnetar metadata snapshot holds
    Restore(Restore),
    /// Show what a key holds
    Get(Get),
    /// Write a key
    Put(Put),
    /// Delete a key
    Rm(RemoveKey),
    /// List keys
    Ls(List),
    /// Print changes as they happen
    Watch(Watch),
    /// Run something while holding a lock, so that nobody else does at the same time
    Lock(Hold),
    /// Run something while leading: of all that stand for election, one does
    Elect(Elect),
}

impl MetadataCommand {
    /// Does what was asked.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Start(args) => args.run(),
            Self::Status(args) => args.run(),
            Self::Members(args) => args.run(),
            Self::Add(args) => args.run(),
            Self::Remove(args) => args.run(),
            Self::Transfer(args) => args.run(),
            Self::Snapshot(args) => args.run(),
            Self::Restore(args) => args.run(),
            Self::Get(args) => args.run(),
            Self::Put(args) => args.run(),
            Self::Rm(args) => args.run(),
            Self::Ls(args) => args.run(),
            Self::Watch(args) => args.run(),
            Self::Lock(args) => args.run(),
            Self::Elect(args) => args.run(),
        }
    }
}

/// The metadata nodes, as commands reach them. The connections end when this is dropped.
struct Nodes {
    servers: Vec<String>,
    tasks: Tasks,
}

impl Nodes {
    /// The nodes at these addresses, with commas between them.
    fn at(address: &ClusterAddress) -> anyhow::Result<Self> {
        let parts = address.metadata.split(',').map(str::trim).filter(|part| !part.is_empty());
        let servers: Vec<String> = parts.map(str::to_owned).collect();
        if servers.is_empty() {
            bail!("no address was given; name one with --metadata");
        }
        Ok(Self { servers, tasks: Tasks::default() })
    }

    /// Runs the work of a command.
    fn run<T>(address: &ClusterAddress, work: impl AsyncFnOnce(&Self) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
        runtime.block_on(async { work(&Self::at(address)?).await })
    }

    /// The operators' service of whichever node answers.
    fn quorum(&self, patience: Duration) -> anyhow::Result<RemoteQuorum> {
        RemoteQuorum::connect(&self.servers, patience, &self.tasks).context("the addresses cannot be used")
    }

    /// The keys.
    fn keys(&self) -> anyhow::Result<Arc<dyn MetadataService>> {
        let options = RemoteOptions { deadline: PATIENCE, ..RemoteOptions::default() };
        Ok(Arc::new(RemoteMetadata::connect(&self.servers, options, &self.tasks)?))
    }

    /// What the first node that answers knows.
    async fn status(&self) -> anyhow::Result<QuorumStatus> {
        self.quorum(PATIENCE)?.status().await.with_context(|| self.hint())
    }

    /// The leader as the first node that answers knows it, and as it knows itself; only a leader knows how far the others are.
    async fn leader_status(&self) -> anyhow::Result<QuorumStatus> {
        let known = self.status().await?;
        let leader =
            known.members.iter().find(|m| Some(m.member.id) == known.leader && known.leader != Some(known.node));
        match leader {
            Some(leader) if !leader.member.address.is_empty() => {
                let leader = std::slice::from_ref(&leader.member.address);
                let asked = RemoteQuorum::connect(leader, PATIENCE, &self.tasks)?.status().await;
                Ok(asked.unwrap_or(known))
            }
            _ => Ok(known),
        }
    }

    fn hint(&self) -> String {
        let servers = self.servers.join(", ");
        format!("no metadata node answers at {servers}; is one running? Name another address with --metadata")
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        // Only a signal; nothing here needs to be waited for.
        self.tasks.stopping().cancel();
    }
}
