//! A real `magnetar standalone` process for tests, and the client side of what they check. Owns the process: it is
//! killed when the test ends, however it ends. Waits for conditions with a deadline, never for time.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

pub mod checker;
pub mod client;
pub mod cluster;
pub mod lan;
pub mod load;
pub mod member;
pub mod proxy;
pub mod quorum;
pub mod shim;

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long anything may take before a test fails; generous, because the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Checks `condition` until it holds; panics with `what` when patience ends.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = deadline();
    while !condition() {
        assert!(!passed(deadline), "waited in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// The end of the patience that starts now.
#[allow(clippy::disallowed_methods, reason = "tests own their deadlines")]
pub fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

/// Whether a deadline is over.
#[allow(clippy::disallowed_methods, reason = "tests own their deadlines")]
pub fn passed(deadline: Instant) -> bool {
    Instant::now() > deadline
}

/// The program under test: what this build made, or another one that `MAGNETAR_BINARY` names.
pub fn binary() -> PathBuf {
    std::env::var_os("MAGNETAR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_magnetar").into(), PathBuf::from)
}

/// Keeps a fault up for a while: the length is part of the fault, not a wait for something to happen.
pub fn hold(duration: Duration) {
    let end = now() + duration;
    while now() < end {
        std::thread::park_timeout(end - now());
    }
}

/// This moment, for tests that measure.
#[allow(clippy::disallowed_methods, reason = "tests own their deadlines")]
pub fn now() -> Instant {
    Instant::now()
}

/// A port nobody listens on, below those the system gives to clients: a server that was killed must find its port free
/// again, even though reconnecting clients draw ports all the time.
pub fn free_port() -> u16 {
    static DRAWN: AtomicU32 = AtomicU32::new(0);
    loop {
        let draw = std::process::id().wrapping_mul(7919).wrapping_add(DRAWN.fetch_add(1, Ordering::Relaxed) * 13);
        let port = 10_000 + (draw % 20_000) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Says that something is not tested here, where the output of a test that passes is shown, too.
pub fn skip(why: &str) {
    writeln!(std::io::stderr(), "SKIPPED: {why}").expect("standard error");
}

/// An HTTP GET; none if nobody answers.
pub fn http_get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_string())?;
    Some((status, body))
}

/// A standalone server with its own data directory, which outlives restarts.
pub struct Server {
    child: Option<Child>,
    data: TempDir,
    settings: Vec<String>,
    pub kafka: u16,
    pub admin: u16,
}

impl Server {
    /// Starts a server with these `name=value` settings and waits until it is ready.
    pub fn start(settings: &[&str]) -> Self {
        let mut server = Self {
            child: None,
            data: tempfile::tempdir().expect("a scratch folder"),
            settings: settings.iter().map(ToString::to_string).collect(),
            kafka: free_port(),
            admin: free_port(),
        };
        server.spawn();
        server.wait_ready();
        server
    }

    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.kafka)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.data.path().join("data")
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    fn log(&self) -> PathBuf {
        self.data.path().join("log")
    }

    /// Starts the process without waiting for it.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "already running");
        let log = File::options().create(true).append(true).open(self.log()).expect("a log file");
        let mut command = Command::new(binary());
        command
            .arg("standalone")
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--kafka-address", &self.bootstrap()])
            .args(["--admin-address", &format!("127.0.0.1:{}", self.admin)]);
        for setting in ["group.initial.rebalance.delay.ms=0"].into_iter().chain(self.settings.iter().map(|s| &**s)) {
            command.args(["--set", setting]);
        }
        let errors = log.try_clone().expect("a second handle");
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        self.child = Some(command.spawn().expect("the magnetar binary"));
    }

    /// Waits until `/ready` says so.
    pub fn wait_ready(&mut self) {
        let deadline = deadline();
        loop {
            if self.get("/ready").is_some_and(|(status, _)| status == 200) {
                return;
            }
            let ended = self.child.as_mut().and_then(|c| c.try_wait().expect("a child"));
            assert!(ended.is_none() && !passed(deadline), "not ready ({ended:?}):\n{}", self.log_text());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// What the server printed so far.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// An HTTP GET at the admin address; none if it does not answer.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        http_get((Ipv4Addr::LOCALHOST, self.admin).into(), path)
    }

    /// The value of a metric whose line starts with `series`.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let (_, body) = self.get("/metrics")?;
        body.lines().find(|l| l.starts_with(series)).and_then(|l| l.rsplit(' ').next()?.parse().ok())
    }

    /// SIGKILL: no destructor, no flush.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("running");
        child.kill().expect("alive");
        child.wait().expect("reaped");
    }

    /// SIGTERM, as an operator does; returns whether it ended cleanly.
    pub fn terminate(&mut self) -> bool {
        let mut child = self.child.take().expect("running");
        let signalled =
            Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().expect("a shell");
        assert!(signalled.success());
        let deadline = deadline();
        loop {
            if let Some(status) = child.try_wait().expect("a child") {
                return status.success();
            }
            assert!(!passed(deadline), "did not stop:\n{}", self.log_text());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Starts again on the same data and addresses, and waits until it is ready.
    pub fn restart(&mut self) {
        self.spawn();
        self.wait_ready();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- server log\n{}", self.log_text());
        }
    }
}
