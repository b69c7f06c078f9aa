//! The load against services in this process: ours over TCP, and a server of ZooKeeper's protocol.

use super::{
    super::tests::{parse, serve_fake},
    *,
};
use bytes::{Buf, BufMut};
use protocol::{service::metadata::MetadataError, testing::Fault};
use std::collections::BTreeMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

fn args(target: &str, server: &str, more: &[&str]) -> Puts {
    let words = ["--target", target, "--servers", server, "--clients", "3", "--keys", "100"];
    let times = ["--duration", "300ms", "--warm-up", "0s", "--value-size", "50"];
    parse(&[&words[..], &times, more].concat())
}

#[tokio::test]
async fn puts_and_reads_are_counted_and_reach_every_key() {
    let tasks = Tasks::default();
    let (fake, address) = serve_fake(&tasks).await;
    let args = args("magnetar", &address, &["--mix", "read=50", "--in-flight", "4"]);
    let tally = args.measure(&tasks).await.expect("measured");
    assert!(!tally.puts.is_empty() && !tally.reads.is_empty() && tally.errors == 0);
    let keys = fake.peek_all("bench-");
    assert_eq!(keys.len(), 100);
    assert!(keys.iter().all(|item| item.value.len() == 50));
    assert!(tally.calls >= 100 + tally.puts.len() + tally.reads.len(), "keys are made by calls, too");
    let json = args.json(&tally);
    let rate = json["puts"]["per_second"].as_f64().expect("a rate");
    assert!((rate - per_second(tally.puts.len(), args.duration)).abs() < 1.0, "{json}");
    assert!(json["puts"]["p50_us"].as_u64() <= json["puts"]["p99_us"].as_u64(), "{json}");
}

#[tokio::test]
async fn failures_are_counted_and_the_first_is_named() {
    let tasks = Tasks::default();
    let (fake, address) = serve_fake(&tasks).await;
    // Three clients look whether the service serves, and make a hundred keys; what follows is the load.
    for _ in 0..103 {
        fake.faults().push(Fault::Pass);
    }
    // One that no client tries again.
    fake.faults().push(Fault::Refuse(MetadataError::Invalid("for a test".into())));
    let tally = args("magnetar", &address, &[]).measure(&tasks).await.expect("measured");
    assert_eq!(tally.errors, 1);
    assert!(tally.problem.is_some_and(|problem| problem.contains("for a test")));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    for target in ["magnetar", "zookeeper", "etcd"] {
        let tasks = Tasks::default();
        let problem = args(target, &address, &[]).measure(&tasks).await.map(drop).expect_err("nobody").to_string();
        assert!(problem.contains(&address), "{target}: {problem}");
    }
}

#[test]
fn a_mix_is_a_share_of_reads() {
    assert_eq!((read_share("read=0"), read_share("read=100")), (Ok(0), Ok(100)));
    for wrong in ["read=101", "90", "write=10", "read="] {
        assert!(read_share(wrong).is_err(), "{wrong}");
    }
}

/// A server of ZooKeeper's protocol with one map of nodes, for one connection. Answers `refuse` to every setData.
async fn zookeeper(
    mut stream: TcpStream,
    nodes: &Mutex<BTreeMap<String, Vec<u8>>>,
    refuse: i32,
) -> std::io::Result<()> {
    let mut hello = receive(&mut stream).await?;
    let (version, zxid, millis, session) = (hello.get_i32(), hello.get_i64(), hello.get_i32(), hello.get_i64());
    assert_eq!((version, zxid, millis, session), (0, 0, 30_000, 0));
    assert_eq!((take(&mut hello), hello.get_u8(), hello.len()), (vec![0; 16], 0, 0));
    let mut welcome = Vec::new();
    welcome.put_i32(0);
    welcome.put_i32(30_000);
    welcome.put_i64(7);
    send(&mut stream, &welcome).await?;
    loop {
        let mut request = receive(&mut stream).await?;
        let (xid, kind) = (request.get_i32(), request.get_i32());
        let code = match kind {
            1 => {
                let (path, data) = (path(&mut request), take(&mut request));
                let acl = (request.get_i32(), request.get_i32(), take(&mut request), take(&mut request));
                assert_eq!(acl, (1, 31, b"world".to_vec(), b"anyone".to_vec()));
                assert_eq!(request.get_i32(), 0, "a persistent node");
                if nodes.lock().insert(path, data).is_some() { -110 } else { 0 }
            }
            5 => {
                let (path, data) = (path(&mut request), take(&mut request));
                assert_eq!(request.get_i32(), -1, "any version");
                if refuse == 0 && nodes.lock().insert(path, data).is_none() { -101 } else { refuse }
            }
            11 => {
                assert_eq!(xid, -2);
                0
            }
            -11 => 0,
            other => panic!("request {other}"),
        };
        assert!(request.is_empty(), "{} bytes too many", request.len());
        let mut reply = Vec::new();
        reply.put_i32(xid);
        reply.put_i64(1);
        reply.put_i32(code);
        send(&mut stream, &reply).await?;
        if kind == -11 {
            return Ok(());
        }
    }
}

async fn receive(stream: &mut TcpStream) -> std::io::Result<std::collections::VecDeque<u8>> {
    let mut frame = vec![0; usize::try_from(stream.read_i32().await?).expect("a length")];
    stream.read_exact(&mut frame).await?;
    Ok(frame.into())
}

async fn send(stream: &mut TcpStream, record: &[u8]) -> std::io::Result<()> {
    stream.write_i32(i32::try_from(record.len()).expect("small")).await?;
    stream.write_all(record).await
}

fn take(record: &mut impl Buf) -> Vec<u8> {
    let length = usize::try_from(record.get_i32()).expect("a length");
    record.copy_to_bytes(length).to_vec()
}

fn path(record: &mut impl Buf) -> String {
    let path = String::from_utf8(take(record)).expect("text");
    assert!(path.starts_with('/'), "{path}");
    path
}

/// Serves so many connections, and says how it went.
async fn served(refuse: i32) -> (anyhow::Result<Tally>, BTreeMap<String, Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let nodes = Arc::new(Mutex::new(BTreeMap::new()));
    let mut servers = tokio::task::JoinSet::new();
    let tasks = Tasks::default();
    let args = args("zookeeper", &address, &["--in-flight", "5"]);
    let serve = async {
        for _ in 0..3 {
            let (stream, _) = listener.accept().await.expect("accepts");
            let nodes = Arc::clone(&nodes);
            servers.spawn(async move { zookeeper(stream, &nodes, refuse).await });
        }
        servers.join_all().await
    };
    let (tally, ended) = tokio::join!(args.measure(&tasks), serve);
    assert!(ended.iter().all(Result::is_ok), "every session was closed: {ended:?}");
    let nodes = nodes.lock().clone();
    (tally, nodes)
}

#[tokio::test]
async fn zookeeper_is_spoken_to_in_its_own_words() {
    let (tally, nodes) = served(0).await;
    let tally = tally.expect("measured");
    assert!(!tally.puts.is_empty() && tally.errors == 0, "{:?}", tally.problem);
    assert_eq!(nodes.len(), 100);
    assert!(nodes.values().all(|value| value.len() == 50));
}

#[tokio::test]
async fn errors_of_zookeeper_are_counted() {
    let (tally, _) = served(-101).await;
    let tally = tally.expect("measured");
    assert!(tally.puts.is_empty() && tally.errors > 0);
    assert_eq!(tally.problem.as_deref(), Some("ZooKeeper's error -101"));
}
