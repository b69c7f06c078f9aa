//! Bad input over a real socket: the connection gets Kafka's own error or is closed, and the server lives on with no
//! memory lost.

mod support;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};
use support::{Server, client};

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.bootstrap()).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream
}

/// A request frame: header version 1, no client id.
fn frame(api_key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut frame = ((10 + body.len()) as i32).to_be_bytes().to_vec();
    frame.extend(api_key.to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend(7i32.to_be_bytes());
    frame.extend((-1i16).to_be_bytes());
    frame.extend(body);
    frame
}

/// Sends bytes and reads until the server closes; the answer may be empty.
fn exchange(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(server);
    // The server may close while we still write; that is one of the legal answers.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("procfs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

#[test]
fn damaged_frames_do_no_harm() {
    let server = Server::start(&[]);
    let before = resident(&server);
    let huge = i32::MAX.to_be_bytes();
    // Produce v3: null transactional id, acks 1, timeout 0, then 2^31-1 topics.
    let mut claims = vec![0xff, 0xff, 0, 1, 0, 0, 0, 0];
    claims.extend(huge);
    let mut flexible = vec![0u8; 8];
    flexible.extend([0xff, 0xff, 0xff, 0xff, 0x0f, 0]);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a frame of 2 GiB", huge.to_vec()),
        ("a negative frame", (-5i32).to_be_bytes().to_vec()),
        ("an empty frame", 0i32.to_be_bytes().to_vec()),
        ("a frame cut short", frame(3, 1, &[0, 0])[..9].to_vec()),
        ("an unknown API", frame(999, 0, &[])),
        ("an unknown version", frame(3, 99, &[])),
        ("a huge array in Produce", frame(0, 3, &claims)),
        ("a huge array in Metadata", frame(3, 1, &huge)),
        ("a huge array in a flexible Metadata", frame(3, 9, &flexible)),
        ("a huge string in FindCoordinator", frame(10, 0, &[0x7f, 0xff])),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("a TLS hello", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
    ];
    for (what, bytes) in cases {
        let answer = exchange(&server, &bytes);
        assert!(answer.len() < 4096, "{what} was answered with {} bytes", answer.len());
    }
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..500 {
        let body: Vec<u8> = (0..random() % 64).map(|_| random() as u8).collect();
        exchange(&server, &frame((random() % 76) as i16, (random() % 14) as i16, &body));
    }
    let grown = resident(&server).saturating_sub(before);
    assert!(grown < 100 * 1024, "bad input cost {grown} KiB");
    let (producer, ledger) = client::producer(&server.bootstrap(), &[]);
    client::send(&producer, "alive", None, "x");
    client::flush(&producer);
    assert_eq!(ledger.acked.lock().expect("whole").len(), 1);
}

#[test]
fn an_unknown_version_of_api_versions_is_told_what_is_known() {
    let server = Server::start(&[]);
    let mut stream = connect(&server);
    stream.write_all(&frame(18, 99, &[])).expect("sent");
    let mut head = [0; 10];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(&head[4..8], 7i32.to_be_bytes(), "correlation id");
    assert_eq!(&head[8..10], 35i16.to_be_bytes(), "UNSUPPORTED_VERSION");
}

#[test]
fn ten_thousand_idle_connections_are_cheap() {
    let limit = std::fs::read_to_string("/proc/self/limits").expect("procfs");
    let open: usize = limit
        .lines()
        .find(|l| l.starts_with("Max open files"))
        .and_then(|l| l.split_whitespace().nth(3)?.parse().ok())
        .expect("a limit");
    // What the limit on open files allows, 10,000 at most; the bound is per connection.
    let count = 10_000.min(open.saturating_sub(200));
    let server = Server::start(&["max.connections=20000"]);
    let before = resident(&server);
    let connections: Vec<TcpStream> = (0..count).map(|_| connect(&server)).collect();
    support::wait_until("all connections are accepted", || {
        server.metric("magnetar_gateway_connections").is_some_and(|n| n as usize >= count)
    });
    let per_connection = resident(&server).saturating_sub(before) * 1024 / count as u64;
    assert!(per_connection < 10 * 1024, "{per_connection} bytes per idle connection");
    drop(connections);
}
