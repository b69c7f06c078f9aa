//! The proxy, between two sockets of this process.

use crate::support::{
    proxy::{Conditions, Proxy, Way},
    wait_until,
};
use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

/// Answers every byte with the same byte.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accepted");
            std::thread::spawn(move || {
                let mut bytes = [0; 1024];
                while let Ok(n @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..n]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    stream
}

fn exchange(stream: &mut TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).expect("sent");
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).expect("answered");
    String::from_utf8(answer).expect("text")
}

#[test]
fn bytes_pass_both_ways_and_the_end_of_a_stream_too() {
    let proxy = Proxy::start(echo());
    let mut stream = connect(&proxy);
    assert_eq!(exchange(&mut stream, "hello"), "hello");
    stream.shutdown(std::net::Shutdown::Write).expect("shut");
    assert_eq!(stream.read(&mut [0; 1]).expect("the end, not a reset"), 0);
    assert_eq!((proxy.passed(Way::Forth), proxy.passed(Way::Back)), (5, 5));
}

#[test]
fn a_cut_holds_bytes_back_and_healing_delivers_them() {
    let proxy = Proxy::start(echo());
    let mut stream = connect(&proxy);
    assert_eq!(exchange(&mut stream, "one"), "one");
    for way in [Way::Forth, Way::Back] {
        // The answer may be here before the proxy has counted it.
        wait_until("what came is counted", || proxy.passed(Way::Back) == proxy.passed(Way::Forth));
        let before = (proxy.passed(Way::Forth), proxy.passed(Way::Back));
        proxy.cut_one_way(way);
        stream.write_all(b"two").expect("the kernel takes it");
        if way == Way::Back {
            wait_until("the direction that is whole still works", || proxy.passed(Way::Forth) == before.0 + 3);
        }
        stream.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
        let silent = stream.read(&mut [0; 1]).expect_err("nothing comes");
        assert!(matches!(silent.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silent}");
        assert_eq!(proxy.passed(Way::Back), before.1);
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        proxy.heal();
        let mut late = [0; 3];
        stream.read_exact(&mut late).expect("delivered late");
        assert_eq!(&late, b"two");
    }
}

#[test]
fn a_connection_made_during_a_cut_works_after_it() {
    let proxy = Proxy::start(echo());
    proxy.cut();
    let mut stream = connect(&proxy);
    stream.write_all(b"x").expect("the kernel takes it");
    proxy.heal();
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("answered");
    assert_eq!(&byte, b"x");
}

#[test]
fn a_reset_ends_connections_and_new_ones_work() {
    let proxy = Proxy::start(echo());
    let mut stream = connect(&proxy);
    assert_eq!(exchange(&mut stream, "one"), "one");
    proxy.reset();
    let mut byte = [0];
    assert!(!matches!(stream.read(&mut byte), Ok(1..)), "the connection is gone");
    assert_eq!(exchange(&mut connect(&proxy), "two"), "two");
}

#[test]
fn delay_and_bandwidth_take_their_time() {
    let proxy = Proxy::start(echo());
    let mut stream = connect(&proxy);
    exchange(&mut stream, "warm");
    let slow =
        Conditions { delay: Duration::from_millis(80), jitter: Duration::from_millis(20), ..Conditions::default() };
    proxy.set(Way::Forth, slow);
    proxy.set(Way::Back, slow);
    let start = crate::support::now();
    exchange(&mut stream, "slow");
    assert!(start.elapsed() >= Duration::from_millis(160), "{:?}", start.elapsed());
    proxy.heal();
    proxy.set(Way::Back, Conditions { bandwidth: 20_000, ..Conditions::default() });
    let start = crate::support::now();
    for _ in 0..6 {
        exchange(&mut stream, &"x".repeat(1000));
    }
    assert!(start.elapsed() >= Duration::from_millis(240), "{:?}", start.elapsed());
}

#[test]
fn a_target_that_is_not_there_looks_like_a_refused_connection() {
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound").local_addr().expect("bound");
    let proxy = Proxy::start(gone);
    assert!(!matches!(connect(&proxy).read(&mut [0]), Ok(1..)));
}
