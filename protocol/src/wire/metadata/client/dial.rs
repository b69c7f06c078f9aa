//! The way to one server: opens connections, and probes them while they last.

use super::super::{MAX_MESSAGE, proto::metadata_client::MetadataClient};
use futures::{FutureExt, future::BoxFuture};
use std::{error::Error, fmt, sync::Arc, time::Duration};
use tonic::{
    Status,
    transport::{self, Channel, Endpoint},
};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(1);
/// How often a silent connection is probed, and how long the probe may take: a server that hangs is left within about
/// a second, well before sessions expire.
const PROBE: (Duration, Duration) = (Duration::from_millis(400), Duration::from_millis(800));

/// A connection to a server.
pub(in super::super) type Connection = MetadataClient<Channel>;

type Open = dyn Fn() -> BoxFuture<'static, Result<Channel, transport::Error>> + Send + Sync;

/// The way to one server. Clones are the same way.
#[derive(Clone)]
pub(in super::super) struct Server {
    name: Arc<str>,
    open: Arc<Open>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.name)
    }
}

impl Server {
    /// A server at `host:port`; the name is looked up anew for each connection. Why it is not an address, otherwise.
    pub(in super::super) fn at(address: &str) -> Result<Self, String> {
        let not_one = |e| format!("\"{address}\" is not an address: {e}");
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(not_one)?;
        let endpoint = probed(endpoint.connect_timeout(CONNECT).tcp_nodelay(true));
        Ok(Self::over(address, move || {
            let endpoint = endpoint.clone();
            async move { endpoint.connect().await }.boxed()
        }))
    }

    /// A server that is reached in some other way.
    pub(in super::super) fn over(
        name: &str,
        open: impl Fn() -> BoxFuture<'static, Result<Channel, transport::Error>> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), open: Arc::new(open) }
    }

    /// What it is called in logs and errors.
    pub(in super::super) fn name(&self) -> &str {
        &self.name
    }

    /// A new connection, or why there is none. It ends when the last clone is dropped.
    pub(in super::super) async fn connect(&self) -> Result<Connection, String> {
        let channel = (self.open)().await.map_err(|problem| root(&problem))?;
        let client = MetadataClient::new(channel);
        Ok(client.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
    }
}

/// An endpoint whose connections are probed.
pub(in super::super) fn probed(endpoint: Endpoint) -> Endpoint {
    endpoint.http2_keep_alive_interval(PROBE.0).keep_alive_timeout(PROBE.1).keep_alive_while_idle(true)
}

/// What is at the bottom of an error: tonic's own texts only say that something failed.
fn root(problem: &dyn Error) -> String {
    let mut deepest = problem;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    deepest.to_string()
}

/// Why a stream or a call failed.
pub(in super::super) fn lost(status: &Status) -> String {
    let cause = Error::source(status).map(root).filter(|cause| cause != status.message());
    cause.map_or_else(|| status.message().to_owned(), |cause| format!("{} ({cause})", status.message()))
}
