//! Peers that hang, networks that say nothing, and peers that are only slow: told apart by signs of life.

use super::{AMPLE, by_hand, echo, of_bookie, of_coordinator, stop};
use crate::{
    id::{EntryId, LedgerId},
    runtime::Tasks,
    service::{
        bookie::{BookieService, ReadEntries},
        coordinator::{CoordinatorError, CoordinatorService},
    },
    testing::{FakeBookie, FakeCoordinator},
    transport::{Duplex, Listen, memory},
    wire::{
        RemoteSettings, ServeSettings, Services,
        bookie::RemoteBookie,
        coordinator::RemoteCoordinator,
        envelope::{PING, PING_CALL, ReplyHeader, RequestHeader, unpack},
        frame::{FrameReader, Outbox, WireError, exchange_prefaces},
        listen, serve,
    },
};
use bytes::{Buf, Bytes};
use std::{sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncWriteExt};

/// Quick to notice, for a peer that the test plays itself.
const QUICK: RemoteSettings =
    RemoteSettings { silence: (Duration::from_millis(100), Duration::from_millis(400)), ..AMPLE };
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes the next connection and says who we are.
async fn meet(acceptor: &mut memory::MemoryAcceptor) -> (FrameReader<impl AsyncRead + Unpin + use<>>, Duplex) {
    let mut stream = acceptor.accept().await.expect("connects");
    exchange_prefaces(&mut stream.read, &mut stream.write).await.expect("greets");
    let read = std::mem::replace(&mut stream.read, Box::new(tokio::io::empty()));
    (FrameReader::new(read), stream)
}

fn reply(call: u64) -> Bytes {
    let mut outbox = Outbox::default();
    outbox.push(&ReplyHeader { call, problem: None, message: Bytes::new() }, Vec::new());
    outbox.copy_to_bytes(outbox.remaining())
}

#[tokio::test]
async fn a_peer_that_hangs_is_given_up_long_before_the_deadline() {
    let tasks = Tasks::default();
    let (connector, mut acceptor) = by_hand();
    let remote = RemoteCoordinator::new(connector, RemoteSettings { deadline: PATIENCE * 100, ..QUICK }, &tasks);
    let call = remote.call(echo("anybody?"));
    // The connection stands, the kernel takes our bytes, and nobody ever answers: a process that was stopped.
    let (_reader, _stream) = meet(&mut acceptor).await;
    match tokio::time::timeout(PATIENCE, call).await.expect("is given up") {
        Err(CoordinatorError::OutcomeUnknown { reason }) => assert!(reason.contains("sign of life"), "{reason}"),
        other => panic!("{other:?}"),
    }
    stop(tasks).await;
}

#[tokio::test]
async fn a_peer_that_is_slow_but_says_that_it_lives_is_waited_for() {
    let tasks = Tasks::default();
    let (connector, mut acceptor) = by_hand();
    let remote = RemoteCoordinator::new(connector, QUICK, &tasks);
    let call = remote.call(echo("take your time"));
    let (mut reader, mut stream) = meet(&mut acceptor).await;
    let (mut pings, mut asked) = (0, None);
    // Each ping comes after a tenth of a second of silence: all of them together are longer than the patience.
    while pings < 8 {
        let frame = reader.next().await.expect("reads").expect("the link lives");
        let header: RequestHeader = unpack(frame.header).expect("a header");
        if header.method == PING.0 {
            assert_eq!(header.call, PING_CALL);
            pings += 1;
            stream.write.write_all(&reply(PING_CALL)).await.expect("writes");
        } else {
            asked = Some(header.call);
        }
    }
    stream.write.write_all(&reply(asked.expect("the call came first"))).await.expect("writes");
    assert!(tokio::time::timeout(PATIENCE, call).await.expect("answered").is_ok());
    stop(tasks).await;
}

#[tokio::test]
async fn a_server_answers_pings_while_a_service_hangs() {
    let tasks = Tasks::default();
    let fake = FakeCoordinator::new();
    fake.faults().hold_answers();
    let (mut client, server) = memory::pair("ping");
    tasks.spawn(crate::runtime::TaskKind::Request, "serve", async move {
        serve(server, of_coordinator(&fake), ServeSettings::default()).await.map_err(|e| e.to_string())
    });
    exchange_prefaces(&mut client.read, &mut client.write).await.expect("greets");
    let mut outbox = Outbox::default();
    outbox.push(&RequestHeader { call: PING_CALL, method: PING.0, message: Bytes::new() }, Vec::new());
    client.write.write_all(&outbox.copy_to_bytes(outbox.remaining())).await.expect("writes");
    let mut reader = FrameReader::new(client.read);
    let pong = tokio::time::timeout(PATIENCE, reader.next()).await.expect("in time").expect("reads").expect("a frame");
    let header: ReplyHeader = unpack(pong.header).expect("a header");
    assert_eq!((header.call, header.problem), (PING_CALL, None));
    stop(tasks).await;
}

#[tokio::test]
async fn a_server_lets_go_of_a_peer_that_says_nothing_any_more() {
    let (mut client, server) = memory::pair("silent");
    let settings = ServeSettings { silence: Duration::from_millis(50), ..ServeSettings::default() };
    let serving = tokio::spawn(serve(server, Services::default(), settings));
    exchange_prefaces(&mut client.read, &mut client.write).await.expect("greets");
    let ended = tokio::time::timeout(PATIENCE, serving).await.expect("in time").expect("never panics");
    assert_eq!(ended, Err(WireError::Slow("say anything")));
}

#[tokio::test]
async fn what_reads_ask_for_is_admitted_by_bytes_too() {
    let tasks = Tasks::default();
    let fake = FakeBookie::numbered(1);
    let (connector, acceptor) = memory::network("narrow");
    let settings = ServeSettings { in_flight_bytes: 100 << 10, reserve_bytes: 0, ..ServeSettings::default() };
    listen(acceptor, of_bookie(&fake), settings, &tasks);
    fake.faults().hold_answers();
    let remote = RemoteBookie::new(Arc::new(connector), AMPLE, &tasks);
    let member = fake.member();
    let read = |max_bytes| {
        let (ledger, first) = (LedgerId(1), EntryId(0));
        remote.read_entries(ReadEntries { member, ledger, first, max_count: 1, max_bytes, fence: None })
    };
    let large: Vec<_> = (0..3).map(|_| read(60 << 10)).collect();
    fake.faults().wait_held(1).await;
    assert_eq!(fake.faults().held(), 1, "the answer to a second one does not fit");
    fake.faults().release_answers();
    for answer in large {
        assert!(tokio::time::timeout(PATIENCE, answer).await.is_ok(), "every one is answered");
    }
    stop(tasks).await;
}
