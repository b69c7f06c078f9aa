//! Between the contract's types and the generated ones. What the wire leaves out, and the contract does not allow to be
//! left out, is an error here, once.

mod quorum;

use super::proto;
use crate::{
    id::{Revision, SessionId},
    service::metadata::{
        Change, Condition, Consistency, MetadataError, Operation, Outcome, RequestId, Scan, ScanPage, Transaction,
        Versioned, WatchEvent,
    },
};

/// "The other side sent something without the part that says what it is."
pub(super) fn incomplete(what: &str) -> MetadataError {
    MetadataError::Invalid(format!("{what} is incomplete; the other side may be of another version"))
}

pub(super) const fn consistency(stale: bool) -> Consistency {
    if stale { Consistency::Stale } else { Consistency::Linearizable }
}

impl From<Scan> for proto::Scan {
    fn from(s: Scan) -> Self {
        let stale = s.consistency == Consistency::Stale;
        Self { prefix: s.prefix, after: s.after, limit: s.limit, stale }
    }
}

impl From<proto::Scan> for Scan {
    fn from(s: proto::Scan) -> Self {
        Self { prefix: s.prefix, after: s.after, limit: s.limit, consistency: consistency(s.stale) }
    }
}

impl From<Transaction> for proto::Transaction {
    fn from(t: Transaction) -> Self {
        Self {
            conditions: t.conditions.into_iter().map(Into::into).collect(),
            operations: t.operations.into_iter().map(Into::into).collect(),
            request: t.request.map(|r| proto::RequestId {
                client_high: (r.client >> 64) as u64,
                client_low: r.client as u64,
                sequence: r.sequence,
            }),
        }
    }
}

impl TryFrom<proto::Transaction> for Transaction {
    type Error = MetadataError;
    fn try_from(t: proto::Transaction) -> Result<Self, MetadataError> {
        Ok(Self {
            conditions: t.conditions.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            operations: t.operations.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            request: t.request.map(|r| RequestId {
                client: (u128::from(r.client_high) << 64) | u128::from(r.client_low),
                sequence: r.sequence,
            }),
        })
    }
}

impl From<Condition> for proto::Condition {
    fn from(c: Condition) -> Self {
        use proto::condition::Kind;
        let kind = match c {
            Condition::Absent(key) => Kind::Absent(key),
            Condition::Present(key) => Kind::Present(key),
            Condition::Version(key, version) => Kind::Version(proto::KeyVersion { key, version: version.0 }),
            Condition::Session(session) => Kind::Session(session.0),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::Condition> for Condition {
    type Error = MetadataError;
    fn try_from(c: proto::Condition) -> Result<Self, MetadataError> {
        use proto::condition::Kind;
        Ok(match c.kind.ok_or_else(|| incomplete("a condition"))? {
            Kind::Absent(key) => Self::Absent(key),
            Kind::Present(key) => Self::Present(key),
            Kind::Version(v) => Self::Version(v.key, Revision(v.version)),
            Kind::Session(session) => Self::Session(SessionId(session)),
        })
    }
}

impl From<Operation> for proto::Operation {
    fn from(o: Operation) -> Self {
        use proto::operation::Kind;
        let kind = match o {
            Operation::Put { key, value, session } => {
                Kind::Put(proto::Put { key, value, session: session.map(|s| s.0) })
            }
            Operation::Delete(key) => Kind::Delete(key),
            Operation::Sequence { name, count } => Kind::Sequence(proto::Sequence { name, count }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::Operation> for Operation {
    type Error = MetadataError;
    fn try_from(o: proto::Operation) -> Result<Self, MetadataError> {
        use proto::operation::Kind;
        Ok(match o.kind.ok_or_else(|| incomplete("an operation"))? {
            Kind::Put(p) => Self::Put { key: p.key, value: p.value, session: p.session.map(SessionId) },
            Kind::Delete(key) => Self::Delete(key),
            Kind::Sequence(s) => Self::Sequence { name: s.name, count: s.count },
        })
    }
}

impl From<Versioned> for proto::Versioned {
    fn from(v: Versioned) -> Self {
        Self { key: v.key, value: v.value, version: v.version.0, session: v.session.map(|s| s.0) }
    }
}

impl From<proto::Versioned> for Versioned {
    fn from(v: proto::Versioned) -> Self {
        Self { key: v.key, value: v.value, version: Revision(v.version), session: v.session.map(SessionId) }
    }
}

impl From<ScanPage> for proto::Page {
    fn from(p: ScanPage) -> Self {
        Self { items: p.items.into_iter().map(Into::into).collect(), more: p.more, revision: p.revision.0 }
    }
}

impl From<proto::Page> for ScanPage {
    fn from(p: proto::Page) -> Self {
        Self { items: p.items.into_iter().map(Into::into).collect(), more: p.more, revision: Revision(p.revision) }
    }
}

impl From<Outcome> for proto::call_answer::Result {
    fn from(o: Outcome) -> Self {
        match o {
            Outcome::Committed { revision, sequences } => {
                Self::Committed(proto::Committed { revision: revision.0, sequences })
            }
            Outcome::Conflict { condition, current } => Self::Conflict(proto::Conflict {
                condition: u32::try_from(condition).unwrap_or(u32::MAX),
                current: current.map(Into::into),
            }),
        }
    }
}

impl From<WatchEvent> for proto::Event {
    fn from(e: WatchEvent) -> Self {
        use proto::change::Kind;
        let change = |c: Change| match c {
            Change::Put(item) => proto::Change { kind: Some(Kind::Put(item.into())) },
            Change::Deleted(key) => proto::Change { kind: Some(Kind::Deleted(key)) },
        };
        Self { revision: e.revision.0, changes: e.changes.into_iter().map(change).collect() }
    }
}

impl TryFrom<proto::Event> for WatchEvent {
    type Error = MetadataError;
    fn try_from(e: proto::Event) -> Result<Self, MetadataError> {
        use proto::change::Kind;
        let change = |c: proto::Change| match c.kind {
            Some(Kind::Put(item)) => Ok(Change::Put(item.into())),
            Some(Kind::Deleted(key)) => Ok(Change::Deleted(key)),
            None => Err(incomplete("a change")),
        };
        let changes = e.changes.into_iter().map(change).collect::<Result<_, _>>()?;
        Ok(Self { revision: Revision(e.revision), changes })
    }
}

impl From<MetadataError> for proto::Error {
    fn from(e: MetadataError) -> Self {
        use proto::error::Kind;
        let kind = match e {
            MetadataError::Unavailable { reason } => Kind::Unavailable(reason),
            MetadataError::OutcomeUnknown { reason } => Kind::OutcomeUnknown(reason),
            MetadataError::SessionExpired(session) => Kind::SessionExpired(session.0),
            MetadataError::Compacted { asked, oldest } => {
                Kind::Compacted(proto::Compacted { asked: asked.0, oldest: oldest.0 })
            }
            MetadataError::TooLarge { what, size, limit } => {
                Kind::TooLarge(proto::TooLarge { what: what.into(), size, limit })
            }
            MetadataError::Invalid(reason) => Kind::Invalid(reason),
        };
        Self { kind: Some(kind) }
    }
}

impl From<proto::Error> for MetadataError {
    fn from(e: proto::Error) -> Self {
        use proto::error::Kind;
        match e.kind {
            Some(Kind::Unavailable(reason)) => Self::Unavailable { reason },
            Some(Kind::OutcomeUnknown(reason)) => Self::OutcomeUnknown { reason },
            Some(Kind::SessionExpired(session)) => Self::SessionExpired(SessionId(session)),
            Some(Kind::Compacted(c)) => Self::Compacted { asked: Revision(c.asked), oldest: Revision(c.oldest) },
            Some(Kind::TooLarge(t)) => Self::TooLarge { what: named(&t.what), size: t.size, limit: t.limit },
            Some(Kind::Invalid(reason)) => Self::Invalid(reason),
            None => Self::OutcomeUnknown { reason: "the server failed in a way this version does not know".into() },
        }
    }
}

/// The contract's own words for what can be too large.
fn named(what: &str) -> &'static str {
    match what {
        "key" => "key",
        "value" => "value",
        "transaction" => "transaction",
        "answer" => "answer",
        "event" => "event",
        _ => "request",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn errors_cross_without_loss() {
        for error in [
            MetadataError::Unavailable { reason: "a".into() },
            MetadataError::OutcomeUnknown { reason: "b".into() },
            MetadataError::SessionExpired(SessionId(3)),
            MetadataError::Compacted { asked: Revision(1), oldest: Revision(2) },
            MetadataError::TooLarge { what: "key", size: 9, limit: 8 },
            MetadataError::TooLarge { what: "value", size: 9, limit: 8 },
            MetadataError::TooLarge { what: "transaction", size: 9, limit: 8 },
            MetadataError::Invalid("c".into()),
        ] {
            assert_eq!(MetadataError::from(proto::Error::from(error.clone())), error);
        }
    }

    #[test]
    fn transactions_and_events_cross_without_loss() {
        let transaction = Transaction {
            conditions: vec![
                Condition::Absent("a".into()),
                Condition::Present("b".into()),
                Condition::Version("c".into(), Revision(4)),
                Condition::Session(SessionId(5)),
            ],
            operations: vec![
                Operation::Put { key: "k".into(), value: Bytes::from_static(b"v"), session: Some(SessionId(0)) },
                Operation::Put { key: "k".into(), value: Bytes::new(), session: None },
                Operation::Delete("d".into()),
                Operation::Sequence { name: "s".into(), count: 7 },
            ],
            request: Some(RequestId { client: u128::MAX - 3, sequence: 9 }),
        };
        assert_eq!(Transaction::try_from(proto::Transaction::from(transaction.clone())), Ok(transaction));
        let item = Versioned { key: "k".into(), value: Bytes::new(), version: Revision(1), session: None };
        let event = WatchEvent { revision: Revision(2), changes: vec![Change::Put(item), Change::Deleted("x".into())] };
        assert_eq!(WatchEvent::try_from(proto::Event::from(event.clone())), Ok(event));
        let hollow = proto::Transaction { conditions: vec![proto::Condition { kind: None }], ..Default::default() };
        assert!(matches!(Transaction::try_from(hollow), Err(MetadataError::Invalid(_))));
    }
}
