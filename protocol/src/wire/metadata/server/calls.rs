//! One stream of calls: makes them in the order in which they arrive, and answers each when it is done.

use super::{GREETING, Serving};
use crate::{
    id::SessionId,
    service::metadata::{MetadataError, MetadataService},
    wire::metadata::{
        convert::{consistency, incomplete},
        proto::{self, call::Kind, call_answer::Result as Done},
    },
};
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, ready},
    stream::FuturesUnordered,
};
use prost::Message;
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::timeout};
use tonic::{Status, Streaming};

/// The most bytes, and the most calls, of one stream that are worked on at a time; then no more are read.
const IN_FLIGHT: (usize, usize) = (32 * 1024 * 1024, 4_096);

type Answers = mpsc::Sender<Result<proto::CallAnswer, Status>>;

/// The id of a call, its bytes, and its answer.
type Worked = (u64, usize, Result<Done, MetadataError>);

/// Works off the calls of one stream until either side ends it. Calls that were made run on without it.
pub(super) async fn work(serving: Arc<Serving>, mut calls: Streaming<proto::Call>, answers: Answers) {
    let Some(service) = greet(&serving, &mut calls, &answers).await else { return };
    let mut bytes = 0;
    let mut pending = FuturesUnordered::<BoxFuture<'static, Worked>>::new();
    loop {
        let room = bytes < IN_FLIGHT.0 && pending.len() < IN_FLIGHT.1;
        tokio::select! {
            call = calls.next(), if room => {
                let Some(Ok(call)) = call else { return };
                let (id, size) = (call.id, call.encoded_len());
                bytes += size;
                pending.push(make(&*service, call.kind).map(move |done| (id, size, done)).boxed());
            }
            Some((id, size, done)) = pending.next() => {
                bytes -= size;
                if send(&answers, id, done).await.is_none() {
                    return;
                }
            }
        }
    }
}

/// Hears who calls; the handle that works for them, unless they are refused.
async fn greet(
    serving: &Serving,
    calls: &mut Streaming<proto::Call>,
    answers: &Answers,
) -> Option<Arc<dyn MetadataService>> {
    let proto::Call { id, kind } = timeout(GREETING, calls.next()).await.ok()??.ok()?;
    let Some(Kind::Hello(hello)) = kind else {
        send(answers, id, Err(MetadataError::Invalid("the first call of a stream says hello".into()))).await;
        return None;
    };
    let greeted = serving.host().greet(&hello);
    let service = greeted.is_ok().then(|| Arc::clone(&serving.handles(hello.passed_on).service));
    send(answers, id, greeted.map(Done::Hello).map_err(MetadataError::Invalid)).await?;
    service
}

/// `None` if nobody listens any more.
async fn send(answers: &Answers, id: u64, done: Result<Done, MetadataError>) -> Option<()> {
    let result = done.unwrap_or_else(|error| Done::Failed(error.into()));
    answers.send(Ok(proto::CallAnswer { id, result: Some(result) })).await.ok()
}

/// Makes a call; the future only waits for its answer.
fn make(service: &dyn MetadataService, kind: Option<Kind>) -> BoxFuture<'static, Result<Done, MetadataError>> {
    let refuse = |error| ready(Err(error)).boxed();
    match kind {
        None => refuse(incomplete("a call")),
        Some(Kind::Hello(_)) => refuse(MetadataError::Invalid("hello was said before".into())),
        Some(Kind::Get(get)) => {
            let value = service.get(get.key, consistency(get.stale));
            value.map(|v| v.map(|item| Done::Value(proto::Value { item: item.map(Into::into) }))).boxed()
        }
        Some(Kind::Scan(scan)) => service.scan(scan.into()).map(|page| page.map(|p| Done::Page(p.into()))).boxed(),
        Some(Kind::Transact(transaction)) => match transaction.try_into() {
            Ok(transaction) => service.transact(transaction).map(|outcome| outcome.map(Into::into)).boxed(),
            Err(incomplete) => refuse(incomplete),
        },
        Some(Kind::OpenSession(open)) => {
            let opened = service.open_session(Duration::from_micros(open.ttl_micros));
            opened.map(|session| session.map(|s| Done::Session(s.0))).boxed()
        }
        Some(Kind::KeepAlive(call)) => service.keep_alive(SessionId(call.session)).map(done).boxed(),
        Some(Kind::CloseSession(call)) => service.close_session(SessionId(call.session)).map(done).boxed(),
    }
}

fn done(result: Result<(), MetadataError>) -> Result<Done, MetadataError> {
    result.map(|()| Done::Done(proto::Done {}))
}
