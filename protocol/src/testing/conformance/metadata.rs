//! The suite of [`MetadataService`].

use super::{until, within};
use crate::{
    id::{Revision, SessionId},
    service::metadata::{
        Change, Condition, Consistency, MAX_KEY, MAX_SCAN, MAX_TRANSACTION, MAX_VALUE, MetadataError, MetadataService,
        Operation, Outcome, RequestId, Scan, Transaction, Versioned, WatchEvent, WatchStream,
    },
};
use bytes::Bytes;
use futures::StreamExt;
use std::{sync::Arc, time::Duration};

/// Long enough that no session of the suite expires by itself.
const TTL: Duration = Duration::from_secs(600);

/// Checks a metadata service. It must hold no key and no sequence that begins with `conformance/`.
///
/// # Panics
/// At the first broken promise.
pub async fn metadata(service: Arc<dyn MetadataService>) {
    let desk = |name: &str| Desk { service: Arc::clone(&service), prefix: format!("conformance/{name}/") };
    keys_hold_what_was_written_last(&desk("keys")).await;
    conditions_hold_or_nothing_happens(&desk("conditions")).await;
    operations_happen_in_order(&desk("operations")).await;
    sequences_never_repeat(&desk("sequences")).await;
    scans_are_paged(&desk("scans")).await;
    limits_are_named(&desk("limits")).await;
    ephemeral_keys_die_with_their_session(&desk("sessions")).await;
    a_retry_gets_the_first_answer(&desk("retries")).await;
    watches_show_everything_once(&desk("watches")).await;
    watches_resume(&desk("resume")).await;
    calls_take_effect_in_call_order(&desk("order")).await;
    dropped_answers_do_not_stop_work(&desk("dropped")).await;
    every_admitted_call_is_answered(&desk("admission")).await;
}

/// Checks that a retry never takes effect behind a later request of the same client, for services that keep the order of
/// requests.
///
/// # Panics
/// At the first broken promise.
pub async fn metadata_keeps_the_order_of_requests(service: Arc<dyn MetadataService>) {
    let desk = Desk { service, prefix: "conformance/requests/".into() };
    let put = |client, sequence| Transaction {
        operations: vec![desk.put("x", &format!("{client}#{sequence}"))],
        conditions: Vec::new(),
        request: Some(RequestId { client, sequence }),
    };
    let first = desk.transact(put(0xf1, 3)).await.expect("commits");
    let later = desk.transact(put(0xf1, 5)).await.expect("commits");
    let late = desk.transact(put(0xf1, 4)).await;
    assert!(late.as_ref().is_err_and(MetadataError::is_overtaken), "{late:?}");
    assert_eq!(desk.value("x").await, Some("241#5".into()), "nothing happened");
    assert_eq!((desk.transact(put(0xf1, 3)).await, desk.transact(put(0xf1, 5)).await), (Ok(first), Ok(later)));
    assert!(desk.transact(put(0xf2, 1)).await.is_ok(), "each client has an order of its own");
}

/// Checks that a session without heartbeats expires by itself, and one with heartbeats does not; for services that
/// have a clock of their own.
///
/// # Panics
/// At the first broken promise.
pub async fn metadata_sessions_expire(service: Arc<dyn MetadataService>, ttl: Duration) {
    let desk = Desk { service: Arc::clone(&service), prefix: "conformance/expiry/".into() };
    let silent = within("open", service.open_session(ttl)).await.expect("opens");
    let alive = within("open", service.open_session(ttl)).await.expect("opens");
    desk.commit(vec![desk.put_in("silent", silent), desk.put_in("alive", alive)]).await;
    until("the silent session expires", async || {
        within("heartbeat", service.keep_alive(alive)).await.expect("the other one lives");
        desk.get("silent").await.is_none().then_some(())
    })
    .await;
    assert!(desk.get("alive").await.is_some());
    assert_eq!(within("heartbeat", service.keep_alive(silent)).await, Err(MetadataError::SessionExpired(silent)));
}

/// A service and the keys that one check works on.
struct Desk {
    service: Arc<dyn MetadataService>,
    prefix: String,
}

impl Desk {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn put(&self, name: &str, value: &str) -> Operation {
        Operation::Put { key: self.key(name), value: Bytes::from(value.to_string()), session: None }
    }

    fn put_in(&self, name: &str, session: SessionId) -> Operation {
        Operation::Put { key: self.key(name), value: Bytes::new(), session: Some(session) }
    }

    async fn transact(&self, transaction: Transaction) -> Result<Outcome, MetadataError> {
        within("transaction", self.service.transact(transaction)).await
    }

    async fn when(&self, conditions: Vec<Condition>, operations: Vec<Operation>) -> Outcome {
        let transaction = Transaction { conditions, operations, request: None };
        self.transact(transaction).await.expect("a legal transaction is decided")
    }

    async fn commit(&self, operations: Vec<Operation>) -> (Revision, Vec<u64>) {
        match self.when(Vec::new(), operations).await {
            Outcome::Committed { revision, sequences } => (revision, sequences),
            conflict @ Outcome::Conflict { .. } => panic!("without conditions: {conflict:?}"),
        }
    }

    async fn get(&self, name: &str) -> Option<Versioned> {
        within("get", self.service.get(self.key(name), Consistency::Linearizable)).await.expect("answers")
    }

    async fn value(&self, name: &str) -> Option<Bytes> {
        self.get(name).await.map(|item| item.value)
    }

    async fn watch(&self, after: Revision) -> WatchStream {
        within("watch", self.service.watch(self.prefix.clone(), after)).await.expect("watches")
    }
}

/// The next event with changes.
async fn next(watch: &mut WatchStream) -> WatchEvent {
    loop {
        let event = within("event", watch.next()).await.expect("the watch goes on").expect("without an error");
        if !event.changes.is_empty() {
            return event;
        }
    }
}

async fn keys_hold_what_was_written_last(desk: &Desk) {
    assert_eq!(desk.get("a").await, None);
    let (first, _) = desk.commit(vec![desk.put("a", "1"), desk.put("b", "1")]).await;
    let (second, _) = desk.commit(vec![desk.put("a", "2")]).await;
    assert!(second > first, "revisions grow");
    let item = |name: &str, value: &'static str, version| {
        Some(Versioned { key: desk.key(name), value: Bytes::from_static(value.as_bytes()), version, session: None })
    };
    assert_eq!(desk.get("a").await, item("a", "2", second));
    assert_eq!(desk.get("b").await, item("b", "1", first), "all keys of a transaction have its revision");
    desk.commit(vec![Operation::Delete(desk.key("a")), Operation::Delete(desk.key("never"))]).await;
    assert_eq!(desk.get("a").await, None);
    let stale = within("get", desk.service.get(desk.key("b"), Consistency::Stale)).await;
    assert!(stale.is_ok(), "{stale:?}");
}

async fn conditions_hold_or_nothing_happens(desk: &Desk) {
    let (version, _) = desk.commit(vec![desk.put("there", "1")]).await;
    let there = desk.get("there").await;
    let (key, gone) = (desk.key("there"), desk.key("gone"));
    let session = within("open", desk.service.open_session(TTL)).await.expect("opens");
    let good = vec![
        Condition::Absent(gone.clone()),
        Condition::Present(key.clone()),
        Condition::Version(key.clone(), version),
        Condition::Session(session),
    ];
    for (bad, current) in [
        (Condition::Absent(key.clone()), there.clone()),
        (Condition::Present(gone.clone()), None),
        (Condition::Version(key.clone(), Revision(version.0 + 1)), there.clone()),
        (Condition::Version(gone.clone(), version), None),
        (Condition::Session(SessionId(u64::MAX - 7)), None),
    ] {
        let mut conditions = good.clone();
        conditions.insert(2, bad.clone());
        let outcome = desk.when(conditions, vec![desk.put("there", "2"), desk.put("new", "2")]).await;
        assert_eq!(outcome, Outcome::Conflict { condition: 2, current }, "{bad:?}");
        assert_eq!((desk.get("there").await, desk.get("new").await), (there.clone(), None), "{bad:?}");
    }
    let outcome = desk.when(good, vec![desk.put("there", "2")]).await;
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    assert_eq!(desk.value("there").await, Some("2".into()));
}

async fn operations_happen_in_order(desk: &Desk) {
    let delete = || Operation::Delete(desk.key("x"));
    desk.commit(vec![desk.put("x", "1"), delete(), desk.put("x", "2")]).await;
    assert_eq!(desk.value("x").await, Some("2".into()));
    desk.commit(vec![desk.put("x", "3"), delete()]).await;
    assert_eq!(desk.value("x").await, None);
}

async fn sequences_never_repeat(desk: &Desk) {
    let take = |name: &str, count| Operation::Sequence { name: desk.key(name), count };
    let (_, first) = desk.commit(vec![take("a", 10), take("b", 1), take("a", 1)]).await;
    assert_eq!(first.len(), 3);
    assert_eq!(first[2], first[0] + 10, "each takes after the one before");
    let (_, second) = desk.commit(vec![take("a", 1)]).await;
    assert_eq!(second, [first[0] + 11]);
    let refused = desk.when(vec![Condition::Present(desk.key("no"))], vec![take("a", 5)]).await;
    assert!(matches!(refused, Outcome::Conflict { .. }));
    let (_, third) = desk.commit(vec![take("a", 1)]).await;
    assert!(third[0] > second[0], "never issued again");
    let none = desk.transact(Transaction { operations: vec![take("a", 0)], ..Transaction::default() }).await;
    assert!(matches!(none, Err(MetadataError::Invalid(_))), "{none:?}");
}

async fn scans_are_paged(desk: &Desk) {
    let names: Vec<String> = (0..25).map(|n| format!("k{n:02}")).collect();
    let (revision, _) = desk.commit(names.iter().map(|name| desk.put(name, name)).collect()).await;
    desk.commit(vec![Operation::Put { key: desk.prefix.replace('/', "0"), value: Bytes::new(), session: None }]).await;
    let scan = |prefix: &str, after: Option<String>, limit| {
        let scan = Scan { prefix: desk.key(prefix), after, limit, consistency: Consistency::Linearizable };
        within("scan", desk.service.scan(scan))
    };
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = scan("", after, 10).await.expect("answers");
        assert!(page.items.len() <= 10 && page.revision >= revision);
        seen.extend(page.items.iter().map(|item| item.key.clone()));
        if !page.more {
            break;
        }
        after = seen.last().cloned();
    }
    assert_eq!(seen, names.iter().map(|name| desk.key(name)).collect::<Vec<_>>(), "all of them, in order, once");
    let some = scan("k1", None, 100).await.expect("answers");
    assert_eq!((some.items.len(), some.more), (10, false));
    let rest = scan("", Some(desk.key("k23")), 1).await.expect("answers");
    assert_eq!((rest.items[0].key.clone(), rest.more), (desk.key("k24"), false));
    assert!(scan("none", None, 1).await.expect("answers").items.is_empty());
    for limit in [0, MAX_SCAN + 1] {
        let refused = scan("", None, limit).await;
        assert!(matches!(refused, Err(MetadataError::Invalid(_))), "limit {limit}: {refused:?}");
    }
}

async fn limits_are_named(desk: &Desk) {
    let put = |key: String, size: usize| Operation::Put { key, value: vec![0; size].into(), session: None };
    let longest = format!("{}{}", desk.prefix, "x".repeat(MAX_KEY - desk.prefix.len()));
    desk.commit(vec![put(longest.clone(), MAX_VALUE)]).await;
    let chunk = MAX_TRANSACTION / 5;
    let many = (0..6).map(|n| put(desk.key(&n.to_string()), chunk)).collect();
    for operations in [vec![put(longest + "x", 1)], vec![put(desk.key("v"), MAX_VALUE + 1)], many] {
        let refused = desk.transact(Transaction { operations, ..Transaction::default() }).await;
        assert!(matches!(refused, Err(MetadataError::TooLarge { .. })), "{refused:?}");
    }
    assert_eq!((desk.get("v").await, desk.get("0").await), (None, None));
}

async fn ephemeral_keys_die_with_their_session(desk: &Desk) {
    let open = || within("open", desk.service.open_session(TTL));
    let (mine, other) = (open().await.expect("opens"), open().await.expect("opens"));
    assert_ne!(mine, other);
    desk.commit(vec![desk.put_in("mine", mine), desk.put_in("other", other), desk.put_in("kept", mine)]).await;
    assert_eq!(desk.get("mine").await.and_then(|item| item.session), Some(mine));
    desk.commit(vec![desk.put("kept", "no longer ephemeral")]).await;
    assert_eq!(within("heartbeat", desk.service.keep_alive(mine)).await, Ok(()));
    assert_eq!(within("close", desk.service.close_session(mine)).await, Ok(()));
    assert!(desk.get("mine").await.is_none());
    assert!(desk.get("other").await.is_some() && desk.get("kept").await.is_some());
    let expired = MetadataError::SessionExpired(mine);
    assert_eq!(within("heartbeat", desk.service.keep_alive(mine)).await, Err(expired.clone()));
    let operations = vec![desk.put("beside", "x"), desk.put_in("late", mine)];
    assert_eq!(desk.transact(Transaction { operations, ..Transaction::default() }).await, Err(expired));
    assert!(desk.get("late").await.is_none() && desk.get("beside").await.is_none(), "all or nothing");
}

async fn a_retry_gets_the_first_answer(desk: &Desk) {
    let request = |sequence| Some(RequestId { client: 0xc0ffee, sequence });
    let take = Operation::Sequence { name: desk.key("s"), count: 1 };
    let once = Transaction { operations: vec![desk.put("x", "1"), take], request: request(1), conditions: Vec::new() };
    let first = desk.transact(once.clone()).await.expect("commits");
    desk.commit(vec![desk.put("x", "2")]).await;
    assert_eq!(desk.transact(once.clone()).await, Ok(first.clone()));
    assert_eq!(desk.value("x").await, Some("2".into()), "it happened once");
    let again = desk.transact(Transaction { request: request(2), ..once }).await;
    assert_ne!(again, Ok(first), "another request is another transaction");
}

async fn watches_show_everything_once(desk: &Desk) {
    let (start, _) = desk.commit(vec![desk.put("before", "0")]).await;
    let mut watch = desk.watch(start).await;
    let (first, _) = desk.commit(vec![desk.put("a", "1"), desk.put("b", "1")]).await;
    let elsewhere = Operation::Put { key: "conformance/elsewhere".into(), value: Bytes::new(), session: None };
    desk.commit(vec![elsewhere.clone()]).await;
    let (second, _) = desk.commit(vec![Operation::Delete(desk.key("a")), elsewhere, desk.put("b", "2")]).await;
    let put = |name: &str, value: &str, version| {
        let (key, value) = (desk.key(name), Bytes::from(value.to_string()));
        Change::Put(Versioned { key, value, version, session: None })
    };
    let expected = WatchEvent { revision: first, changes: vec![put("a", "1", first), put("b", "1", first)] };
    assert_eq!(next(&mut watch).await, expected, "one event for one transaction");
    let changes = vec![Change::Deleted(desk.key("a")), put("b", "2", second)];
    assert_eq!(next(&mut watch).await, WatchEvent { revision: second, changes });
    let session = within("open", desk.service.open_session(TTL)).await.expect("opens");
    desk.commit(vec![desk.put_in("e", session)]).await;
    next(&mut watch).await;
    within("close", desk.service.close_session(session)).await.expect("closes");
    assert_eq!(next(&mut watch).await.changes, [Change::Deleted(desk.key("e"))], "the end of a session is seen");
}

async fn watches_resume(desk: &Desk) {
    let mut revisions = Vec::new();
    for n in 0..10 {
        revisions.push(desk.commit(vec![desk.put("x", &n.to_string())]).await.0);
    }
    let mut watch = desk.watch(revisions[3]).await;
    for revision in &revisions[4..] {
        assert_eq!(next(&mut watch).await.revision, *revision);
    }
    drop(watch);
    let mut watch = desk.watch(revisions[8]).await;
    assert_eq!(next(&mut watch).await.revision, revisions[9]);
    let (live, _) = desk.commit(vec![desk.put("x", "live")]).await;
    assert_eq!(next(&mut watch).await.revision, live, "history hands over to the present");
}

async fn calls_take_effect_in_call_order(desk: &Desk) {
    let put = |n: usize| Transaction { operations: vec![desk.put("x", &n.to_string())], ..Transaction::default() };
    let calls: Vec<_> = (0..50).map(|n| desk.service.transact(put(n))).collect();
    let read = desk.service.get(desk.key("x"), Consistency::Linearizable);
    assert_eq!(within("get", read).await.map(|item| item.map(|i| i.value)), Ok(Some("49".into())));
    let mut last = Revision(u64::MAX);
    for call in calls.into_iter().rev() {
        match within("transaction", call).await {
            Ok(Outcome::Committed { revision, .. }) => {
                assert!(revision < last, "in call order");
                last = revision;
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn dropped_answers_do_not_stop_work(desk: &Desk) {
    let take = || Transaction {
        operations: vec![Operation::Sequence { name: desk.key("n"), count: 1 }],
        ..Transaction::default()
    };
    let (_, first) = desk.commit(take().operations).await;
    for _ in 0..20 {
        drop(desk.service.transact(take()));
    }
    let (_, last) = desk.commit(take().operations).await;
    assert_eq!(last[0], first[0] + 21);
}

async fn every_admitted_call_is_answered(desk: &Desk) {
    let put = |n: usize| {
        let key = desk.key(&n.to_string());
        let operations = vec![Operation::Put { key, value: vec![1; 256 * 1024].into(), session: None }];
        Transaction { operations, ..Transaction::default() }
    };
    let calls: Vec<_> = (0..60).map(|n| desk.service.transact(put(n))).collect();
    for (n, call) in calls.into_iter().enumerate() {
        let answer = within("transaction", call).await;
        let there = desk.get(&n.to_string()).await.is_some();
        match answer {
            Ok(_) => assert!(there),
            Err(MetadataError::Unavailable { .. }) => assert!(!there, "refused means nothing happened"),
            Err(other) => panic!("{other}"),
        }
    }
    let names = (0..60).map(|n| Operation::Delete(desk.key(&n.to_string())));
    desk.commit(names.collect()).await;
}
