//! One stream of calls: makes them in the order in which they arrive, and answers each when it is done.

use super::{GREETING, Serving};
use crate::{
    id::SessionId,
    service::metadata::{MetadataError, MetadataService},
    wire::metadata::{
        check_message,
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
use tokio::{sync::mpsc, task::coop::unconstrained, time::timeout};
use tonic::{Status, Streaming};

/// The most bytes, and the most calls, of one stream that are worked on at a time; then no more are read.
const IN_FLIGHT: (usize, usize) = (32 * 1024 * 1024, 4_096);

/// The most bytes of one scan page; a single item always fits.
const MAX_PAGE: usize = 8 * 1024 * 1024;
/// What an item takes in its page beyond its own bytes.
const ITEM_OVERHEAD: usize = 8;

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
            // Outside of tokio's budget: when that is used up, all calls would be looked at in vain. Each answer that is
            // sent still gives way to others.
            Some((id, size, done)) = unconstrained(pending.next()) => {
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
    let mut greeted = serving.host().greet(&hello);
    if let Ok(answer) = &mut greeted
        && !hello.passed_on
    {
        answer.leader = serving.leader().await.unwrap_or_default();
    }
    let service = greeted.is_ok().then(|| Arc::clone(&serving.handles(hello.passed_on).service));
    send(answers, id, greeted.map(Done::Hello).map_err(MetadataError::Invalid)).await?;
    service
}

/// `None` if nobody listens any more. An answer that no message can carry would end the stream, and with it everybody
/// else's calls.
async fn send(answers: &Answers, id: u64, done: Result<Done, MetadataError>) -> Option<()> {
    let result = done.unwrap_or_else(|error| Done::Failed(error.into()));
    let mut answer = proto::CallAnswer { id, result: Some(result) };
    if let Err(too_large) = check_message("answer", &answer) {
        answer.result = Some(Done::Failed(too_large.into()));
    }
    answers.send(Ok(answer)).await.ok()
}

/// The page as far as a message carries it: what is left out follows after it.
fn fit(mut page: proto::Page) -> proto::Page {
    let mut bytes = 0;
    let fits = page.items.iter().take_while(|item| {
        let before = bytes;
        bytes += item.encoded_len() + ITEM_OVERHEAD;
        before == 0 || bytes <= MAX_PAGE
    });
    let count = fits.count();
    page.more |= count < page.items.len();
    page.items.truncate(count);
    page
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
        Some(Kind::Scan(scan)) => service.scan(scan.into()).map(|page| page.map(|p| Done::Page(fit(p.into())))).boxed(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::metadata::MAX_MESSAGE;

    fn item(bytes: usize) -> proto::Versioned {
        proto::Versioned { key: "k".into(), value: vec![0; bytes].into(), version: 1, session: None }
    }

    #[test]
    fn pages_are_cut_to_what_a_message_carries() {
        let page = |items, more| fit(proto::Page { items, more, revision: 1 });
        let cut = |page: &proto::Page| (page.items.len(), page.more);
        assert_eq!(cut(&page(vec![], false)), (0, false));
        assert_eq!(cut(&page(vec![item(1); 10_000], true)), (10_000, true));
        assert_eq!(cut(&page(vec![item(1 << 20); 20], false)), (7, true));
        assert_eq!(cut(&page(vec![item(MAX_PAGE + 1), item(1)], false)), (1, true), "there is always progress");
        let many = page(vec![item(0); 700_000], false);
        assert!(many.more && many.encoded_len() <= MAX_PAGE + ITEM_OVERHEAD);
    }

    #[tokio::test]
    async fn an_answer_that_no_message_can_carry_is_an_error() {
        let (answers, mut sent) = mpsc::channel(1);
        let value = proto::Value { item: Some(item(MAX_MESSAGE)) };
        send(&answers, 3, Ok(Done::Value(value))).await.expect("sends");
        match sent.recv().await {
            Some(Ok(proto::CallAnswer { id: 3, result: Some(Done::Failed(error)) })) => {
                assert!(matches!(error.into(), MetadataError::TooLarge { what: "answer", .. }));
            }
            _ => panic!("something else was sent"),
        }
    }
}
