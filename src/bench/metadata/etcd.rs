//! As much of etcd's protocol as a measurement needs: unary `Put` and `Range` over gRPC, one connection. The messages
//! are those of `etcdserverpb`, with the fields that are used; a reader of protobuf skips the others.

use super::target::{Answered, Call, PATIENCE, Ticket};
use anyhow::Context;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tonic::{
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// A read of one key; linearizable, as nothing else is asked for.
#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(int64, tag = "4")]
    count: i64,
}

pub(super) struct Etcd {
    channel: Channel,
    waiting: FuturesUnordered<BoxFuture<'static, Answered>>,
}

impl Etcd {
    pub(super) async fn connect(server: &str) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{server}"))?.timeout(PATIENCE).tcp_nodelay(true);
        let channel = endpoint.connect().await.with_context(|| format!("no etcd answers at {server}"))?;
        let client = Self { channel, waiting: FuturesUnordered::new() };
        let ask = RangeRequest { key: b"bench".to_vec() };
        let answered = unary::<_, RangeResponse>(client.channel.clone(), ask, "/etcdserverpb.KV/Range").await;
        answered.map_err(anyhow::Error::msg).with_context(|| format!("etcd at {server} does not serve"))?;
        Ok(client)
    }

    pub(super) fn call(&self, call: Call<'_>, ticket: Ticket) {
        let channel = self.channel.clone();
        let answer = match call {
            // There is no need to make a key first.
            Call::Create(key, value) | Call::Put(key, value) => {
                let put = PutRequest { key: key.into(), value: value.to_vec() };
                unary::<_, PutResponse>(channel, put, "/etcdserverpb.KV/Put").map(|put| put.map(drop)).boxed()
            }
            Call::Get(key) => {
                let get = RangeRequest { key: key.into() };
                let found = |range: RangeResponse| if range.count == 1 { Ok(()) } else { Err("not found".to_string()) };
                let range = unary(channel, get, "/etcdserverpb.KV/Range");
                range.map(move |range| range.and_then(found)).boxed()
            }
        };
        self.waiting.push(answer.map(move |answer| (ticket, answer)).boxed());
    }

    pub(super) async fn answer(&mut self) -> anyhow::Result<Answered> {
        self.waiting.next().await.context("no call waits for an answer")
    }
}

async fn unary<Q, A>(channel: Channel, ask: Q, path: &'static str) -> Result<A, String>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|problem| problem.to_string())?;
    let (ask, codec) = (tonic::Request::new(ask), ProstCodec::<Q, A>::default());
    let answer = client.unary(ask, PathAndQuery::from_static(path), codec).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn messages_are_laid_out_as_etcd_reads_them() {
        let put = PutRequest { key: b"k".to_vec(), value: b"vv".to_vec() };
        assert_eq!(put.encode_to_vec(), b"\x0a\x01k\x12\x02vv");
        assert_eq!(RangeRequest { key: b"k".to_vec() }.encode_to_vec(), b"\x0a\x01k");
        // A header (1), a key and value (2), no more (3), a count (4).
        let range = RangeResponse::decode(&b"\x0a\x02\x08\x01\x12\x03\x0a\x01k\x20\x01"[..]).expect("legal");
        assert_eq!(range.count, 1);
    }
}
