//! A client that writes what it is told, and a gateway in front of a fake cluster for it to talk to.

use crate::{Endpoint, Gateway, GatewayConfig, GatewayDeps, kafka::message};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{ApiKey, TopicName},
    protocol::{Decodable, Encodable, Request, StrBytes},
};
use protocol::{
    id::NodeId,
    runtime::{SystemClock, Tasks},
    settings::StaticSettings,
    testing::{FakeCluster, FakeMetadata},
};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// The deadline of everything a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running gateway (of node 0) and what stands behind it.
pub(super) struct Running {
    pub(super) cluster: FakeCluster,
    pub(super) metadata: FakeMetadata,
    pub(super) gateway: Gateway,
}

impl Running {
    /// A gateway in front of a cluster of so many nodes, with Kafka's default settings.
    pub(super) async fn start(nodes: i32) -> Self {
        Self::with(nodes, &[]).await
    }

    /// The same, with settings.
    pub(super) async fn with(nodes: i32, settings: &[(&str, &str)]) -> Self {
        let (cluster, metadata) = (FakeCluster::new(nodes), FakeMetadata::new());
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = GatewayConfig {
            node: NodeId(0),
            settings: StaticSettings::parse(settings).expect("settings of a test"),
            advertised: Endpoint { host: "localhost".into(), port: 9092 },
        };
        let deps = GatewayDeps {
            listener: TcpListener::bind("127.0.0.1:0").await.expect("a free port"),
            nodes: cluster.directory(),
            metadata: metadata.service(),
            view: cluster.view(),
            clock: Arc::new(SystemClock::default()),
            tasks: Tasks::default(),
        };
        let gateway = Gateway::start(config, deps).expect("a usable listener");
        Self { cluster, metadata, gateway }
    }

    /// Creates a topic behind the gateway's back.
    pub(super) fn topic(&self, name: &str, partitions: u32) {
        let id = self.cluster.create_topic(name, partitions);
        assert!(self.cluster.view().snapshot().topic_by_id(id).is_some());
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.gateway.local_addr()).await.expect("the gateway listens");
        Client { stream, next: 1, expected: VecDeque::new() }
    }
}

/// A connection of a client.
pub(super) struct Client {
    stream: TcpStream,
    next: i32,
    expected: VecDeque<i32>,
}

impl Client {
    /// Writes bytes as they are.
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("an open connection");
    }

    /// Writes a frame around a header and a body, and expects an answer to it.
    pub(super) async fn send_body(&mut self, key: i16, version: i16, body: &[u8]) {
        let frame = frame(key, version, self.next, body);
        self.expected.push_back(self.next);
        self.next += 1;
        self.write(&frame).await;
    }

    /// Sends a request and expects an answer to it.
    pub(super) async fn send<Q: Request>(&mut self, version: i16, request: &Q) {
        let body = message::encode(request, version).expect("a request of this version");
        self.send_body(Q::KEY, version, &body).await;
    }

    /// Expects an answer to a frame that was written by hand with the next correlation id.
    pub(super) fn expect_next(&mut self) {
        self.expected.push_back(self.next);
        self.next += 1;
    }

    /// Sends a request that has no answer.
    pub(super) async fn send_silent<Q: Request>(&mut self, version: i16, request: &Q) {
        self.send(version, request).await;
        self.expected.pop_back();
    }

    /// The next frame: correlation id and what follows it.
    async fn receive_frame(&mut self) -> (i32, Bytes) {
        let read = async {
            let size = self.stream.read_u32().await.expect("an answer");
            let mut frame = vec![0; size as usize];
            self.stream.read_exact(&mut frame).await.expect("a whole answer");
            Bytes::from(frame)
        };
        let mut frame = timeout(PATIENCE, read).await.expect("an answer in time");
        (frame.get_i32(), frame)
    }

    /// The body of the next answer, which must be that to the oldest unanswered request.
    pub(super) async fn receive_body(&mut self, key: i16, version: i16) -> Bytes {
        let (correlation, mut body) = self.receive_frame().await;
        assert_eq!(Some(correlation), self.expected.pop_front(), "answers come in the order of requests");
        let key = ApiKey::try_from(key).expect("a known API");
        if key.response_header_version(version) >= 1 {
            assert_eq!(body.get_u8(), 0, "no tagged fields in the header");
        }
        body
    }

    /// The next answer.
    pub(super) async fn receive<Q: Request>(&mut self, version: i16) -> Q::Response {
        let mut body = self.receive_body(Q::KEY, version).await;
        let response = Q::Response::decode(&mut body, version).expect("a well-formed response");
        assert!(body.is_empty(), "bytes after the response");
        response
    }

    /// Sends a request and receives its answer.
    pub(super) async fn call<Q: Request>(&mut self, version: i16, request: &Q) -> Q::Response {
        self.send(version, request).await;
        self.receive::<Q>(version).await
    }

    /// Whether the gateway closes the connection without a further answer.
    pub(super) async fn is_closed(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_u8()).await.expect("closed in time");
        read.is_err()
    }
}

/// A frame: length, header, body.
pub(super) fn frame(key: i16, version: i16, correlation: i32, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_i16(key);
    frame.put_i16(version);
    frame.put_i32(correlation);
    frame.put_i16(4);
    frame.put_slice(b"test");
    let flexible = ApiKey::try_from(key).is_ok_and(|key| key.request_header_version(version) >= 2);
    if flexible {
        frame.put_u8(0);
    }
    frame.put_slice(body);
    let mut whole = BytesMut::new();
    whole.put_u32(u32::try_from(frame.len()).expect("small"));
    whole.put_slice(&frame);
    whole.freeze()
}

/// A string of the message crate.
pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A topic name of the message crate.
pub(super) fn topic(name: &str) -> TopicName {
    TopicName(text(name))
}

/// A message as it is encoded.
pub(super) fn encoded<M: Encodable>(message: &M, version: i16) -> Bytes {
    message::encode(message, version).expect("a message of this version")
}

/// A message as it is decoded.
pub(super) fn decoded<M: Decodable>(mut body: Bytes, version: i16) -> M {
    M::decode(&mut body, version).expect("a well-formed message")
}
