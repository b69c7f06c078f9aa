//! The bookie over a stream. Entries travel as bodies, byte for byte as they are stored.
//!
//! Owns the messages and the numbers of methods and errors. Every entry is checked again where it arrives: a damaged
//! one is refused on the way in, and "unknown" on the way out, never absent (rule R9).

use super::{
    connection::{Link, RemoteSettings, Request},
    envelope::{Method, divide, lengths, pack, unpack},
    frame::{MAX_BODY, WireError},
    problem::{Failure, Problem},
    server::{Incoming, Reply, done, message, unknown_method},
};
use crate::{
    id::{BookieId, EntryId, Incarnation, Lac, LedgerId, LedgerKey},
    ledger::{
        entry::{MAX_ENTRY, SealedEntry},
        metadata::BookieMember,
    },
    runtime::Tasks,
    service::{
        Answer,
        bookie::{
            AddEntry, BookieError, BookieService, ConfirmLac, CopyEntries, DeleteLedger, EntryList, EntryRun,
            FenceLedger, ListEntries, ReadEntries, WaitLac,
        },
        ready,
    },
    transport::Connect,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use prost::Message;
use std::{sync::Arc, time::Duration};

mod messages;
mod problems;

use messages::{
    AddMessage, ConfirmMessage, CopyMessage, CountMessage, LacMessage, LedgerMessage, ListMessage, ReadMessage,
    RunMessage, RunsMessage, WaitMessage,
};

/// The high byte of this service's methods.
pub(super) const SERVICE: u32 = 1;

const ADD: Method = Method(0x101);
const READ: Method = Method(0x102);
const FENCE: Method = Method(0x103);
const LIST: Method = Method(0x104);
const DELETE: Method = Method(0x105);
const COPY: Method = Method(0x106);
const CONFIRM: Method = Method(0x107);
const WAIT: Method = Method(0x108);

/// How long a bookie may copy for one call, beyond the usual deadline.
const COPYING: Duration = Duration::from_secs(60);

/// A bookie on the other side of a stream. Clones share one connection.
#[derive(Debug, Clone)]
pub struct RemoteBookie(Link);

impl RemoteBookie {
    /// A bookie behind `connector`, connected when it is first called.
    #[must_use]
    pub fn new(connector: Arc<dyn Connect>, settings: RemoteSettings, tasks: &Tasks) -> Self {
        Self(Link::new(connector, settings, tasks))
    }

    fn call<R, T>(
        &self,
        method: Method,
        message: &impl Message,
        finish: impl FnOnce(R) -> T + Send + 'static,
    ) -> Answer<T, BookieError>
    where
        R: Message + Default,
        T: Send + 'static,
    {
        let request = Request { method, message: pack(message), body: Vec::new(), wait: Duration::ZERO };
        self.0.call(request, |reply, _| Ok(finish(reply)))
    }
}

impl BookieService for RemoteBookie {
    fn add_entry(&self, add: AddEntry) -> Answer<(), BookieError> {
        let entry = add.entry.bytes().clone();
        if entry.len() > MAX_ENTRY {
            let reason = format!("{} bytes exceed the limit of {MAX_ENTRY}", entry.len());
            return ready(Err(BookieError::BadEntry { reason }));
        }
        let message = pack(&AddMessage::from(&add));
        let request = Request { method: ADD, message, body: vec![entry], wait: Duration::ZERO };
        self.0.call(request, |(): (), _| Ok(()))
    }

    fn read_entries(&self, read: ReadEntries) -> Answer<EntryRun, BookieError> {
        let message = pack(&ReadMessage::from(&read));
        let request = Request { method: READ, message, body: Vec::new(), wait: Duration::ZERO };
        self.0.call(request, move |reply, body| open_run(&read, &reply, body))
    }

    fn fence_ledger(&self, fence: FenceLedger) -> Answer<Lac, BookieError> {
        self.call(FENCE, &LedgerMessage::new(fence.member, fence.ledger, fence.key.0), |lac: LacMessage| lac.into())
    }

    fn list_entries(&self, list: ListEntries) -> Answer<EntryList, BookieError> {
        self.call(LIST, &ListMessage::from(&list), |runs: RunsMessage| runs.into())
    }

    fn delete_ledger(&self, delete: DeleteLedger) -> Answer<(), BookieError> {
        self.call(DELETE, &LedgerMessage::new(delete.member, delete.ledger, 0), |(): ()| ())
    }

    fn copy_entries(&self, copy: CopyEntries) -> Answer<u64, BookieError> {
        let message = pack(&CopyMessage::from(&copy));
        let request = Request { method: COPY, message, body: Vec::new(), wait: COPYING };
        self.0.call(request, |count: CountMessage, _| Ok(count.count))
    }

    fn confirm_lac(&self, confirm: ConfirmLac) -> Answer<(), BookieError> {
        self.call(CONFIRM, &ConfirmMessage::from(&confirm), |(): ()| ())
    }

    fn wait_lac(&self, wait: WaitLac) -> Answer<Lac, BookieError> {
        let message = pack(&WaitMessage::from(&wait));
        let request = Request { method: WAIT, message, body: Vec::new(), wait: wait.timeout };
        self.0.call(request, |lac: LacMessage, _| Ok(lac.into()))
    }
}

/// Checks every entry of a run that arrived.
fn open_run(read: &ReadEntries, reply: &RunMessage, body: Bytes) -> Result<EntryRun, BookieError> {
    let unknown = |reason: String| BookieError::Unknown { reason };
    let parts = divide(body, &reply.lengths).map_err(|problem| unknown(problem.to_string()))?;
    if parts.is_empty() {
        return Err(unknown("the bookie answered with no entry and no error".into()));
    }
    let open = |(id, bytes)| SealedEntry::open(bytes, read.ledger, EntryId(id));
    let entries = (read.first.0..).zip(parts).map(open).collect::<Result<_, _>>();
    let entries = entries.map_err(|problem| unknown(format!("damaged on its way: {problem}")))?;
    Ok(EntryRun { entries, lac: Lac::from_count(reply.lac) })
}

/// About how many bytes a request asks for, beside its own; what cannot be decoded asks for nothing.
pub(super) fn answer_size(method: Method, message: &Bytes) -> usize {
    let read = (method == READ).then(|| ReadMessage::decode(message.clone()).ok()).flatten();
    read.map_or(0, |read| (ReadEntries::from(read).max_bytes as usize).min(MAX_BODY))
}

/// Starts a request that arrived.
pub(super) fn start(
    bookie: Option<&Arc<dyn BookieService>>,
    incoming: Incoming,
) -> Result<BoxFuture<'static, super::server::Outgoing>, WireError> {
    let Some(bookie) = bookie else { return Ok(incoming.absent::<BookieError>("bookie")) };
    let message_bytes = incoming.message.clone();
    Ok(match incoming.method {
        ADD => {
            let add: AddMessage = unpack(message_bytes)?;
            let answer = match SealedEntry::open_any(incoming.body.clone()) {
                Ok(entry) => bookie.add_entry(add.with(entry)),
                Err(problem) => ready(Err(BookieError::BadEntry { reason: problem.to_string() })),
            };
            incoming.answer(answer, done)
        }
        READ => {
            let read: ReadMessage = unpack(message_bytes)?;
            incoming.answer(bookie.read_entries(read.into()), encode_run)
        }
        FENCE => {
            let fence: LedgerMessage = unpack(message_bytes)?;
            incoming.answer(bookie.fence_ledger(fence.into()), encode_lac)
        }
        LIST => {
            let list: ListMessage = unpack(message_bytes)?;
            incoming.answer(bookie.list_entries(list.into()), |list| message(&RunsMessage::from(list)))
        }
        DELETE => {
            let delete: LedgerMessage = unpack(message_bytes)?;
            incoming.answer(bookie.delete_ledger(delete.into()), done)
        }
        COPY => {
            let copy: CopyMessage = unpack(message_bytes)?;
            incoming.answer(bookie.copy_entries(copy.into()), |count| message(&CountMessage { count }))
        }
        CONFIRM => {
            let confirm: ConfirmMessage = unpack(message_bytes)?;
            incoming.answer(bookie.confirm_lac(confirm.into()), done)
        }
        WAIT => {
            let wait: WaitMessage = unpack(message_bytes)?;
            incoming.answer(bookie.wait_lac(wait.into()), encode_lac)
        }
        Method(other) => return Err(unknown_method(other)),
    })
}

fn encode_lac(lac: Lac) -> Reply {
    message(&LacMessage { count: lac.count() })
}

fn encode_run(run: EntryRun) -> Reply {
    let body: Vec<Bytes> = run.entries.iter().map(|entry| entry.bytes().clone()).collect();
    (pack(&RunMessage { lengths: lengths(&body), lac: run.lac.count() }), body)
}
