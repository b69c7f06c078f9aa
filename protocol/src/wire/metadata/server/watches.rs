//! All watches of one client on one stream: opened and closed by id, and each on its own.
//!
//! A watch holds nothing here: it is asked for its next event when the connection has room for one, so a slow
//! connection costs the service no memory. The end of a watch is nobody else's.

use super::{GREETING, Serving};
use crate::{
    id::Revision,
    service::metadata::{MetadataError, MetadataService, WatchStream},
    wire::metadata::{
        MAX_WATCHES, check_message,
        proto::{self, watch_answer::Kind as Told, watch_call::Kind},
    },
};
use futures::{
    FutureExt, Stream, StreamExt,
    future::AbortHandle,
    stream::{self, BoxStream, SelectAll},
};
use std::{collections::HashMap, sync::Arc};
use tokio::{sync::mpsc, task::coop::unconstrained, time::timeout};
use tonic::{Status, Streaming};

/// Watches that were refused and not yet told so; then no more calls are read.
const REFUSALS: usize = 1_024;

type Answers = mpsc::Sender<Result<proto::WatchAnswer, Status>>;

/// Serves the watches of one stream until either side ends it.
pub(super) async fn work(serving: Arc<Serving>, mut calls: Streaming<proto::WatchCall>, answers: Answers) {
    let Some(service) = greet(&serving, &mut calls, &answers).await else { return };
    let mut watches = Watches::default();
    let mut next = None;
    loop {
        tokio::select! {
            call = calls.next(), if watches.told.len() < MAX_WATCHES + REFUSALS => {
                let Some(Ok(call)) = call else { return };
                if watches.take(&*service, call).is_none() {
                    return;
                }
            }
            // Outside of tokio's budget: when that is used up, thousands of watches would be looked at in vain, again and
            // again. What is told still takes a permit each, and so gives way to others.
            Some(told) = unconstrained(watches.told.next()), if next.is_none() => {
                watches.forget_ended(&told);
                next = Some(told);
            }
            permit = answers.reserve(), if next.is_some() => {
                let (Ok(permit), Some(told)) = (permit, next.take()) else { return };
                permit.send(Ok(told));
            }
        }
    }
}

/// Hears who calls; the handle that works for them, unless they are refused.
async fn greet(
    serving: &Serving,
    calls: &mut Streaming<proto::WatchCall>,
    answers: &Answers,
) -> Option<Arc<dyn MetadataService>> {
    let greeted = match timeout(GREETING, calls.next()).await.ok()??.ok()?.kind {
        Some(Kind::Hello(hello)) => serving.host().greet(&hello).map_err(MetadataError::Invalid),
        _ => Err(MetadataError::Invalid("the first call of a stream says hello".into())),
    };
    let (service, kind) = match greeted {
        Ok(hello) => (Some(Arc::clone(&serving.handles(hello.passed_on).service)), Told::Hello(hello)),
        Err(refused) => (None, Told::Failed(refused.into())),
    };
    answers.send(Ok(told(0, kind))).await.ok()?;
    service
}

const fn told(id: u64, kind: Told) -> proto::WatchAnswer {
    proto::WatchAnswer { id, kind: Some(kind) }
}

/// The open watches of a stream.
#[derive(Default)]
struct Watches {
    /// What they have to tell.
    told: SelectAll<BoxStream<'static, proto::WatchAnswer>>,
    open: HashMap<u64, AbortHandle>,
}

impl Watches {
    /// Opens or closes a watch; `None` if the caller breaks the rules of the stream.
    fn take(&mut self, service: &dyn MetadataService, call: proto::WatchCall) -> Option<()> {
        match call.kind {
            Some(Kind::Open(open)) => self.open(service, open),
            Some(Kind::Close(id)) => {
                // One that has just ended is not known any more.
                if let Some(watch) = self.open.remove(&id) {
                    watch.abort();
                }
                Some(())
            }
            Some(Kind::Hello(_)) | None => None,
        }
    }

    fn open(&mut self, service: &dyn MetadataService, open: proto::OpenWatch) -> Option<()> {
        let proto::OpenWatch { id, prefix, after } = open;
        if id == 0 || self.open.contains_key(&id) {
            return None;
        }
        if self.open.len() >= MAX_WATCHES {
            let reason = format!("a connection carries at most {MAX_WATCHES} watches");
            let refused = told(id, Told::Failed(MetadataError::Unavailable { reason }.into()));
            self.told.push(stream::iter([refused]).boxed());
            return Some(());
        }
        let opening = service.watch(prefix, Revision(after));
        let watch = opening.map(move |opened| match opened {
            Ok(events) => stream::iter([told(id, Told::Opened(proto::Done {}))]).chain(tell(id, events)).boxed(),
            Err(refused) => stream::iter([told(id, Told::Failed(refused.into()))]).boxed(),
        });
        let (watch, close) = stream::abortable(watch.flatten_stream());
        self.open.insert(id, close);
        self.told.push(watch.boxed());
        Some(())
    }

    /// Takes note of a watch that tells its end.
    fn forget_ended(&mut self, told: &proto::WatchAnswer) {
        if let Some(Told::Failed(_)) = &told.kind {
            self.open.remove(&told.id);
        }
    }
}

/// The events of a watch, and its end.
fn tell(id: u64, events: WatchStream) -> impl Stream<Item = proto::WatchAnswer> + Send {
    stream::unfold(Some(events), move |events| async move {
        let mut events = events?;
        let ended = |error: MetadataError| Some((told(id, Told::Failed(error.into())), None));
        match events.next().await {
            Some(Ok(event)) => {
                let event = told(id, Told::Event(event.into()));
                match check_message("event", &event) {
                    Ok(()) => Some((event, Some(events))),
                    Err(too_large) => ended(too_large),
                }
            }
            Some(Err(error)) => ended(error),
            None => ended(MetadataError::Unavailable { reason: "the watch ended without a word".into() }),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        service::metadata::{Change, WatchEvent},
        wire::metadata::MAX_MESSAGE,
    };

    async fn told(events: Vec<Result<WatchEvent, MetadataError>>) -> Vec<Result<u64, MetadataError>> {
        let told = tell(7, stream::iter(events).boxed()).collect::<Vec<_>>().await;
        let said = told.into_iter().map(|told| match (told.id, told.kind) {
            (7, Some(Told::Event(event))) => Ok(event.revision),
            (7, Some(Told::Failed(error))) => Err(error.into()),
            other => panic!("{other:?}"),
        });
        said.collect()
    }

    fn event(revision: u64, bytes: usize) -> Result<WatchEvent, MetadataError> {
        Ok(WatchEvent { revision: Revision(revision), changes: vec![Change::Deleted("k".repeat(bytes))] })
    }

    #[tokio::test]
    async fn a_watch_says_how_it_ends_and_then_nothing() {
        let gone = MetadataError::Invalid("gone".into());
        let ended = told(vec![event(1, 1), Err(gone.clone()), event(2, 1)]).await;
        assert_eq!(ended, [Ok(1), Err(gone)]);
        let silent = told(vec![event(1, 1)]).await;
        assert!(matches!(&silent[..], [Ok(1), Err(MetadataError::Unavailable { .. })]), "{silent:?}");
    }

    #[tokio::test]
    async fn an_event_that_no_message_can_carry_ends_its_own_watch() {
        let ended = told(vec![event(1, MAX_MESSAGE), event(2, 1)]).await;
        assert!(matches!(&ended[..], [Err(MetadataError::TooLarge { what: "event", .. })]), "{ended:?}");
    }
}
