//! How commands reach the cluster itself, past any broker: the metadata service, the cluster view, and the bookies.
//! Owns the connection and what it says when nothing answers; never changes a record.

use crate::bookies::ClusterBookies;
use anyhow::{Context, anyhow};
use clap::Args;
use protocol::{
    cluster::ClusterView,
    model::key,
    runtime::Tasks,
    service::{
        directory::BookieDirectory,
        metadata::{Consistency, MetadataService},
    },
    wire::{
        RemoteSettings,
        metadata::{RemoteMetadata, RemoteOptions},
    },
};
use std::{sync::Arc, time::Duration};

/// Where the metadata service listens if nothing else is said.
pub const DEFAULT: &str = "localhost:9095";
/// How long a command waits for the metadata service.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which cluster a command talks to.
#[derive(Debug, Clone, Args)]
pub struct ClusterAddress {
    /// Where the metadata service listens; several addresses with commas between them
    #[arg(long, env = "MAGNETAR_METADATA", default_value = DEFAULT, value_name = "HOST:PORT")]
    pub metadata: String,
}

impl ClusterAddress {
    /// Connects.
    ///
    /// # Errors
    /// See [`ClusterClient::connect`].
    pub async fn connect(&self) -> anyhow::Result<ClusterClient> {
        ClusterClient::connect(&self.metadata).await
    }

    /// Connects, does the work of a command, and lets the connection go.
    ///
    /// # Errors
    /// Nothing answers, or what the work says.
    pub fn with<T>(&self, work: impl AsyncFnOnce(&ClusterClient) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
        runtime.block_on(async { work(&self.connect().await?).await })
    }
}

/// A connection to a cluster. It ends when this is dropped.
pub struct ClusterClient {
    /// The metadata service.
    pub metadata: Arc<dyn MetadataService>,
    /// The cluster as it is.
    pub view: ClusterView,
    /// Its bookies.
    pub bookies: Arc<dyn BookieDirectory>,
    tasks: Tasks,
}

impl ClusterClient {
    /// Connects to any of these addresses (`host:port`, commas between several) that answers, and reads the cluster's
    /// state. Needs a runtime.
    ///
    /// # Errors
    /// Nothing answers in time, or there is no cluster.
    pub async fn connect(address: &str) -> anyhow::Result<Self> {
        let tasks = Tasks::default();
        let hint = || {
            format!(
                "the metadata service does not answer at {address}; is it running? Name another address with --metadata"
            )
        };
        let servers: Vec<&str> = address.split(',').map(str::trim).filter(|server| !server.is_empty()).collect();
        let options = RemoteOptions { deadline: PATIENCE, ..RemoteOptions::default() };
        let metadata = RemoteMetadata::connect(&servers, options, &tasks).with_context(hint)?;
        let metadata: Arc<dyn MetadataService> = Arc::new(metadata);
        let cluster = metadata.get(key::cluster(), Consistency::Linearizable).await.with_context(hint)?;
        cluster.ok_or_else(|| anyhow!("there is no cluster at {address} yet")).with_context(hint)?;
        let view = ClusterView::start(Arc::clone(&metadata), &tasks).await.with_context(hint)?;
        let bookies = Arc::new(ClusterBookies::new(view.clone(), RemoteSettings::default(), &tasks));
        Ok(Self { metadata, view, bookies, tasks })
    }
}

impl Drop for ClusterClient {
    fn drop(&mut self) {
        // Only a signal; nothing here needs to be waited for.
        self.tasks.stopping().cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{
        model::ClusterRecord, runtime::TaskKind, testing::metadata::FakeMetadata, wire::metadata::MetadataServer,
    };
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn it_connects_to_any_address_that_answers_and_says_so_if_none_does() {
        let (tasks, fake) = (Tasks::default(), FakeMetadata::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let serving = MetadataServer::of(fake.service(), &tasks).serve(listener);
        tasks.spawn(TaskKind::Background, "server", async move { serving.await.map_err(|e| e.to_string()) });

        let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let deaf = nobody.local_addr().expect("bound").to_string();
        drop(nobody);
        let Err(refused) = ClusterClient::connect(&deaf).await else { panic!("nobody listens") };
        assert!(refused.to_string().contains("is it running?"), "{refused}");
        let Err(empty) = ClusterClient::connect(&address).await else { panic!("no cluster") };
        assert!(format!("{empty:#}").contains("no cluster"), "{empty:#}");

        let record = ClusterRecord { cluster_id: "abc".into(), created_at: protocol::id::Timestamp(0) };
        fake.put(key::cluster(), &record);
        let client = ClusterClient::connect(&format!("{deaf}, {address}")).await.expect("connects");
        let known = client.view.snapshot().cluster.clone().expect("a cluster");
        assert_eq!(known.cluster_id, "abc");
        assert!(client.bookies.live().is_empty());
        drop(client);
        assert!(tasks.stop(Duration::from_secs(20)).await);
    }
}
