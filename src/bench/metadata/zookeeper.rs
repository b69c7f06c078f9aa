//! As much of ZooKeeper's protocol as a measurement needs: connect, create, setData, getData, ping and close. Frames are
//! a length and a record of its serialization "jute"; answers come in the order of the calls. Watches are not used.

use super::target::{Answered, Call, PATIENCE, Ticket};
use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut};
use std::{collections::VecDeque, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

/// The session's time to live, which no call of ours leaves unused.
const SESSION: Duration = Duration::from_secs(30);
/// The largest answer that is believed; the servers' own limit is 1 MiB.
const MAX_ANSWER: usize = 4 << 20;

const CREATE: i32 = 1;
const GET_DATA: i32 = 4;
const SET_DATA: i32 = 5;
const PING: i32 = 11;
const CLOSE: i32 = -11;
/// The number of every ping, and of its answer.
const PING_XID: i32 = -2;
/// "There is such a node already."
const NODE_EXISTS: i32 = -110;
/// All that may be done with a node, by anyone.
const ALL: i32 = 31;
/// "Whatever the version."
const ANY_VERSION: i32 = -1;

pub(super) struct ZooKeeper {
    stream: BufReader<TcpStream>,
    /// The number of the latest call.
    xid: i32,
    waiting: VecDeque<(i32, Ticket)>,
    answer: Vec<u8>,
}

impl ZooKeeper {
    pub(super) async fn connect(server: &str) -> anyhow::Result<Self> {
        let failed = || format!("no ZooKeeper serves at {server}");
        let stream = timeout(PATIENCE, TcpStream::connect(server)).await.with_context(failed)?.with_context(failed)?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream: BufReader::new(stream), xid: 0, waiting: VecDeque::new(), answer: Vec::new() };
        let mut hello = Vec::new();
        hello.put_i32(0); // version of the protocol
        hello.put_i64(0); // the last transaction seen
        hello.put_i32(i32::try_from(SESSION.as_millis())?);
        hello.put_i64(0); // a new session
        put_bytes(&mut hello, &[0; 16]);
        hello.put_u8(0); // not read-only
        client.send(&hello).await?;
        client.receive().await.with_context(failed)?;
        let mut answer = &client.answer[..];
        ensure!(answer.remaining() >= 16, "a short answer to connecting");
        answer.advance(4);
        let (granted, session) = (answer.get_i32(), answer.get_i64());
        ensure!(granted > 0 && session != 0, "ZooKeeper at {server} grants no session");
        client.ping().await?;
        Ok(client)
    }

    pub(super) async fn call(&mut self, call: Call<'_>, ticket: Ticket) -> anyhow::Result<()> {
        self.xid += 1;
        let mut request = Vec::with_capacity(512);
        request.put_i32(self.xid);
        match call {
            Call::Create(key, value) => {
                request.put_i32(CREATE);
                put_path(&mut request, key);
                put_bytes(&mut request, value);
                request.put_i32(1); // one entry of access control
                request.put_i32(ALL);
                put_bytes(&mut request, b"world");
                put_bytes(&mut request, b"anyone");
                request.put_i32(0); // persistent
            }
            Call::Put(key, value) => {
                request.put_i32(SET_DATA);
                put_path(&mut request, key);
                put_bytes(&mut request, value);
                request.put_i32(ANY_VERSION);
            }
            Call::Get(key) => {
                request.put_i32(GET_DATA);
                put_path(&mut request, key);
                request.put_u8(0); // no watch
            }
        }
        self.waiting.push_back((self.xid, ticket));
        self.send(&request).await
    }

    pub(super) async fn answer(&mut self) -> anyhow::Result<Answered> {
        let (expected, ticket) = self.waiting.pop_front().context("no call waits for an answer")?;
        let (xid, code) = self.reply().await?;
        ensure!(xid == expected, "the answer to call {xid} came instead of that to {expected}");
        let result = if code == 0 || code == NODE_EXISTS { Ok(()) } else { Err(format!("ZooKeeper's error {code}")) };
        Ok((ticket, result))
    }

    /// Asks for a sign of life, while nothing else is under way.
    async fn ping(&mut self) -> anyhow::Result<()> {
        let mut ping = Vec::new();
        ping.put_i32(PING_XID);
        ping.put_i32(PING);
        self.send(&ping).await?;
        match self.reply().await? {
            (PING_XID, 0) => Ok(()),
            other => bail!("{other:?} answers a ping"),
        }
    }

    /// Ends the session, so that the server need not wait for its end.
    pub(super) async fn close(mut self) -> anyhow::Result<()> {
        self.xid += 1;
        let mut close = Vec::new();
        close.put_i32(self.xid);
        close.put_i32(CLOSE);
        self.send(&close).await?;
        self.reply().await.map(drop)
    }

    async fn send(&mut self, record: &[u8]) -> anyhow::Result<()> {
        let mut frame = Vec::with_capacity(4 + record.len());
        put_bytes(&mut frame, record);
        timeout(PATIENCE, self.stream.get_mut().write_all(&frame)).await.context("ZooKeeper takes no more calls")??;
        Ok(())
    }

    /// The number and the error code of the next answer.
    async fn reply(&mut self) -> anyhow::Result<(i32, i32)> {
        self.receive().await?;
        let mut answer = &self.answer[..];
        ensure!(answer.remaining() >= 16, "an answer of {} bytes", answer.remaining());
        let xid = answer.get_i32();
        answer.advance(8); // the transaction
        Ok((xid, answer.get_i32()))
    }

    async fn receive(&mut self) -> anyhow::Result<()> {
        let receive = async {
            let size = usize::try_from(self.stream.read_i32().await?).context("a negative size")?;
            ensure!(size <= MAX_ANSWER, "an answer of {size} bytes");
            self.answer.resize(size, 0);
            self.stream.read_exact(&mut self.answer).await?;
            Ok(())
        };
        timeout(PATIENCE, receive).await.context("ZooKeeper does not answer")?
    }
}

fn put_bytes(record: &mut Vec<u8>, bytes: &[u8]) {
    record.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
    record.put_slice(bytes);
}

/// Paths begin with a slash; our keys do not.
fn put_path(record: &mut Vec<u8>, key: &str) {
    put_bytes(record, format!("/{key}").as_bytes());
}
