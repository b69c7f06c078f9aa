//! A user-space TCP proxy on 127.0.0.1 that makes a network bad: delay, jitter, bandwidth, one-way and two-way cuts,
//! resets, changed while traffic flows. Owns its listener and its connections, on a thread of its own.
//!
//! A cut holds bytes back, as TCP does while it retransmits: what was under way arrives when the cut heals, in order,
//! unless an end has given up meanwhile. New connections are accepted (a kernel does that for us) and stay silent.

use rand::Rng;
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

const CHUNK: usize = 16 << 10;
/// Chunks under way per direction of a connection.
const UNDER_WAY: usize = 64;

/// How one direction of the network is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Nothing gets through until it heals.
    pub cut: bool,
    /// Every chunk takes this much longer.
    pub delay: Duration,
    /// And up to this much more, without overtaking.
    pub jitter: Duration,
    /// Bytes per second; 0 is as fast as it goes.
    pub bandwidth: u64,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the one who connects to the one who listens.
    Forth,
    /// The answers.
    Back,
}

/// One proxied address.
pub struct Proxy {
    address: SocketAddr,
    forth: watch::Sender<Conditions>,
    back: watch::Sender<Conditions>,
    resets: watch::Sender<u64>,
    stop: watch::Sender<bool>,
    passed: Arc<[AtomicU64; 2]>,
    thread: Option<JoinHandle<()>>,
}

/// What every connection needs.
#[derive(Clone)]
struct Shared {
    target: SocketAddr,
    forth: watch::Receiver<Conditions>,
    back: watch::Receiver<Conditions>,
    resets: watch::Receiver<u64>,
    passed: Arc<[AtomicU64; 2]>,
}

impl Proxy {
    /// Listens on a port of 127.0.0.1 and forwards every connection to `target`, which may start later.
    pub fn start(target: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        // Others have learned this port; unlike a server's it is never bound a second time.
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (forth, forth_seen) = watch::channel(Conditions::default());
        let (back, back_seen) = watch::channel(Conditions::default());
        let (resets, resets_seen) = watch::channel(0);
        let (stop, mut stopped) = watch::channel(false);
        let passed = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let shared =
            Shared { target, forth: forth_seen, back: back_seen, resets: resets_seen, passed: Arc::clone(&passed) };
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped.wait_for(|stop| *stop) => {}
                    () = accept(listener, shared) => {}
                }
            });
        });
        Self { address, forth, back, resets, stop, passed, thread: Some(thread) }
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes one direction, for connections of now and later.
    pub fn set(&self, way: Way, conditions: Conditions) {
        self.sender(way).send_replace(conditions);
    }

    /// Cuts both directions.
    pub fn cut(&self) {
        self.cut_one_way(Way::Forth);
        self.cut_one_way(Way::Back);
    }

    /// A half-open network: bytes of one direction vanish, those of the other arrive.
    pub fn cut_one_way(&self, way: Way) {
        self.sender(way).send_modify(|c| c.cut = true);
    }

    /// A good network again, for both directions.
    pub fn heal(&self) {
        self.set(Way::Forth, Conditions::default());
        self.set(Way::Back, Conditions::default());
    }

    /// Ends every connection with a reset.
    pub fn reset(&self) {
        self.resets.send_modify(|n| *n += 1);
    }

    /// Bytes that got through in this direction.
    pub fn passed(&self, way: Way) -> u64 {
        self.passed[way as usize].load(Ordering::Relaxed)
    }

    fn sender(&self, way: Way) -> &watch::Sender<Conditions> {
        match way {
            Way::Forth => &self.forth,
            Way::Back => &self.back,
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, shared: Shared) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let shared = shared.clone();
        tokio::spawn(async move {
            // Either end is free to vanish at any moment.
            let _ = serve(client, shared).await;
        });
    }
}

async fn serve(client: TcpStream, mut shared: Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    shared.resets.mark_unchanged();
    // A connection is made by packets of both directions.
    while shared.forth.borrow().cut || shared.back.borrow().cut {
        tokio::select! {
            _ = shared.forth.wait_for(|c| !c.cut) => {}
            _ = shared.resets.changed() => return client.set_zero_linger(),
        }
        tokio::select! {
            _ = shared.back.wait_for(|c| !c.cut) => {}
            _ = shared.resets.changed() => return client.set_zero_linger(),
        }
    }
    let Ok(server) = TcpStream::connect(shared.target).await else { return client.set_zero_linger() };
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    {
        let forth = pump(&mut from_client, &mut to_server, shared.forth.clone(), (&shared.passed, Way::Forth));
        let back = pump(&mut from_server, &mut to_client, shared.back.clone(), (&shared.passed, Way::Back));
        tokio::select! {
            ended = async { tokio::try_join!(forth, back) } => return ended.map(|_| ()),
            _ = shared.resets.changed() => {}
        }
    }
    from_client.as_ref().set_zero_linger()?;
    from_server.as_ref().set_zero_linger()
}

/// Moves bytes one way until the sender is done or an end is gone.
async fn pump(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut conditions: watch::Receiver<Conditions>,
    (passed, way): (&[AtomicU64; 2], Way),
) -> io::Result<()> {
    let (send, mut receive) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let seen = conditions.clone();
    let reading = async {
        let mut due = now();
        loop {
            let mut chunk = vec![0; CHUNK];
            let got = from.read(&mut chunk).await?;
            chunk.truncate(got);
            let Conditions { delay, jitter, .. } = *seen.borrow();
            let extra =
                if jitter.is_zero() { Duration::ZERO } else { rand::rng().random_range(Duration::ZERO..jitter) };
            due = due.max(now() + delay + extra);
            if got == 0 || send.send((due, chunk)).await.is_err() {
                drop(send);
                return io::Result::Ok(());
            }
        }
    };
    let writing = async {
        while let Some((due, chunk)) = receive.recv().await {
            sleep_until(due).await;
            let bandwidth = match conditions.wait_for(|c| !c.cut).await {
                Ok(c) => c.bandwidth,
                Err(_) => break,
            };
            to.write_all(&chunk).await?;
            passed[way as usize].fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if bandwidth > 0 {
                sleep_until(now() + Duration::from_secs_f64(chunk.len() as f64 / bandwidth as f64)).await;
            }
        }
        conditions.wait_for(|c| !c.cut).await.ok();
        to.shutdown().await
    };
    tokio::try_join!(reading, writing).map(|_| ())
}

#[allow(clippy::disallowed_methods, reason = "a network has real time")]
fn now() -> Instant {
    Instant::now()
}
