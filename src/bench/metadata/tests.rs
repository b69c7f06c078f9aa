//! Filling and holding against a service in this process, over TCP.

use super::*;
use protocol::{runtime::TaskKind, testing::metadata::FakeMetadata, wire::metadata::MetadataServer};
use tokio::net::TcpListener;

/// A service over TCP, and its address.
pub(super) async fn serve_fake(tasks: &Tasks) -> (FakeMetadata, String) {
    let fake = FakeMetadata::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let serving = MetadataServer::of(fake.service(), tasks).serve(listener);
    tasks.spawn(TaskKind::Background, "server", async move { serving.await.map_err(|e| e.to_string()) });
    (fake, address)
}

/// The arguments of a command.
pub(super) fn parse<A: Args>(words: &[&str]) -> A {
    let command = A::augment_args(clap::Command::new("bench"));
    let matches = command.try_get_matches_from(std::iter::once(&"bench").chain(words)).expect("legal words");
    A::from_arg_matches(&matches).expect("legal words")
}

#[test]
fn the_servers_share_the_clients_evenly() {
    let servers: Servers = parse(&["--servers", "a:1,b:2,c:3"]);
    assert_eq!((0..6).map(|n| servers.of(n)).collect::<Vec<_>>(), ["a:1", "b:2", "c:3", "a:1", "b:2", "c:3"]);
}
