//! A client of our own metadata service for measurements: the one that brokers and bookies use. Owns nothing but the
//! tickets of its calls.

use super::target::{Answered, Call, PATIENCE, Ticket};
use anyhow::Context;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use protocol::{
    runtime::Tasks,
    service::metadata::{Condition, Consistency, MetadataService, Operation, Transaction},
    wire::metadata::{RemoteMetadata, RemoteOptions},
};
use std::sync::Arc;

/// A handle of its own connection to one of these servers: to the leader, if it is among them.
///
/// # Errors
/// One is not an address.
pub(super) fn handle(servers: &[impl AsRef<str>], tasks: &Tasks) -> anyhow::Result<Arc<dyn MetadataService>> {
    let options = RemoteOptions { deadline: PATIENCE, ..RemoteOptions::default() };
    Ok(Arc::new(RemoteMetadata::connect(servers, options, tasks)?))
}

pub(super) struct Magnetar {
    handle: Arc<dyn MetadataService>,
    waiting: FuturesUnordered<BoxFuture<'static, Answered>>,
}

impl Magnetar {
    pub(super) async fn connect(servers: &[String], tasks: &Tasks) -> anyhow::Result<Self> {
        let handle = handle(servers, tasks)?;
        let answered = handle.get("bench".into(), Consistency::Linearizable).await;
        answered.with_context(|| format!("no metadata service serves at {}", servers.join(" or ")))?;
        Ok(Self { handle, waiting: FuturesUnordered::new() })
    }

    pub(super) fn call(&self, call: Call<'_>, ticket: Ticket) {
        let put = |key: &str, value: &[u8]| {
            vec![Operation::Put { key: key.into(), value: Bytes::copy_from_slice(value), session: None }]
        };
        let (conditions, operations) = match call {
            Call::Create(key, value) => (vec![Condition::Absent(key.into())], put(key, value)),
            Call::Put(key, value) => (Vec::new(), put(key, value)),
            Call::Get(key) => {
                let answer = self.handle.get(key.into(), Consistency::Linearizable);
                let answer = answer.map(move |got| (ticket, got.map(drop).map_err(|problem| problem.to_string())));
                return self.waiting.push(answer.boxed());
            }
        };
        let answer = self.handle.transact(Transaction { conditions, operations, request: None });
        let answer = answer.map(move |outcome| (ticket, outcome.map(drop).map_err(|problem| problem.to_string())));
        self.waiting.push(answer.boxed());
    }

    pub(super) async fn answer(&mut self) -> anyhow::Result<Answered> {
        self.waiting.next().await.context("no call waits for an answer")
    }
}
