//! The calls of one handle, from the moment they are made to their answer: a pure machine.
//!
//! Owns their order, the window of transactions in flight, the request ids, and what becomes of a call when a server
//! answers that it cannot, or goes away. What it keeps:
//!
//! * Calls are sent in call order. When a server is left, everything without an answer is sent to the next one, again in
//!   call order and before anything newer.
//! * A transaction keeps its request id for life, and the service carries out every id once and none after a higher one
//!   of the same client. So a transaction that is sent twice takes effect at most once, and never out of order.
//! * A call that may have taken effect is never said not to have; a call that cannot have is never said to be unknown.
//! * At most [`WINDOW`] transactions are in flight: the service keeps at least that many answers of each client.
//!
//! Opening a session has no id and is sent again all the same: a session that nobody learned of expires by itself.

use super::{
    machine::{Leave, Machine},
    room::Taken,
    waiting::Waiting,
};
use crate::{
    service::metadata::MetadataError,
    wire::metadata::proto::{self, call::Kind, call_answer::Result as Done},
};
use std::{collections::BTreeMap, time::Duration};

/// The most transactions that wait for an answer of the server.
pub(super) const WINDOW: usize = 256;

/// A call that a caller made.
pub(super) struct Outgoing {
    /// The call.
    pub kind: Kind,
    /// Who waits for its answer.
    pub waiting: Waiting,
    /// When the caller has waited long enough.
    pub deadline: Duration,
    /// Room that it takes until it is answered.
    pub _room: Taken,
}

/// A call without an answer.
struct Unanswered {
    call: Outgoing,
    /// It was sent to the server in use.
    sent: bool,
    /// It was sent to some other server, which may have carried it out.
    doubtful: bool,
}

impl Unanswered {
    const fn is_transaction(&self) -> bool {
        matches!(self.call.kind, Kind::Transact(_))
    }

    fn give_up(self, reason: &str) {
        self.call.waiting.give_up(self.sent || self.doubtful, reason);
    }
}

/// The calls of one handle.
pub(super) struct Calls {
    /// Whether calls are sent again; otherwise each is sent once, and what then fails is the answer.
    retries: bool,
    client: u128,
    next_sequence: u64,
    /// In call order; ids ascend, and so do deadlines.
    unanswered: BTreeMap<u64, Unanswered>,
    next_id: u64,
    /// Everything before this was sent to the server in use.
    unsent: u64,
    /// Transactions sent to the server in use.
    in_flight: usize,
    /// Why the last server was left.
    trouble: Option<String>,
}

/// What an answer means for its call.
enum Verdict {
    Final,
    /// It is answered like this instead.
    Instead(Done),
    /// It has to be sent again, elsewhere.
    Again(String),
}

impl Calls {
    /// The calls of a client that is known by this number; `retries` says whether calls are sent again.
    pub(super) const fn new(client: u128, retries: bool) -> Self {
        Self {
            retries,
            client,
            next_sequence: 1,
            unanswered: BTreeMap::new(),
            next_id: 1,
            unsent: 0,
            in_flight: 0,
            trouble: None,
        }
    }

    /// Gives a transaction the id under which it is retried, unless it has one.
    fn identify(&mut self, kind: &mut Kind) {
        if let Kind::Transact(transaction @ proto::Transaction { request: None, .. }) = kind {
            let (client_high, client_low) = ((self.client >> 64) as u64, self.client as u64);
            let sequence = self.next_sequence;
            self.next_sequence += 1;
            transaction.request = Some(proto::RequestId { client_high, client_low, sequence });
        }
    }

    fn judge(&self, call: &mut Unanswered, result: Option<&Done>) -> Verdict {
        let Some(Done::Failed(error)) = result else { return Verdict::Final };
        if !self.retries {
            return Verdict::Final;
        }
        match MetadataError::from(error.clone()) {
            overtaken if overtaken.is_overtaken() => Verdict::Final,
            MetadataError::Unavailable { reason } => Verdict::Again(reason),
            MetadataError::OutcomeUnknown { reason } => {
                call.doubtful = true;
                Verdict::Again(reason)
            }
            // It was closed by a call whose answer was lost.
            MetadataError::SessionExpired(_) if call.doubtful && matches!(call.call.kind, Kind::CloseSession(_)) => {
                Verdict::Instead(Done::Done(proto::Done {}))
            }
            MetadataError::SessionExpired(_)
            | MetadataError::Compacted { .. }
            | MetadataError::TooLarge { .. }
            | MetadataError::Invalid(_) => Verdict::Final,
        }
    }

    fn forget(&mut self, id: u64) -> Option<Unanswered> {
        let call = self.unanswered.remove(&id)?;
        self.in_flight -= usize::from(call.sent && call.is_transaction());
        Some(call)
    }

    fn head(&self) -> Option<(u64, &Unanswered)> {
        let (id, call) = self.unanswered.range(self.unsent..).next()?;
        let room = !self.retries || self.in_flight < WINDOW || !call.is_transaction();
        room.then_some((*id, call))
    }
}

impl Machine for Calls {
    type Request = Outgoing;
    type Call = proto::Call;
    type Answer = proto::CallAnswer;

    fn request(&mut self, mut call: Outgoing) {
        if self.retries {
            self.identify(&mut call.kind);
        }
        self.unanswered.insert(self.next_id, Unanswered { call, sent: false, doubtful: false });
        self.next_id += 1;
    }

    fn has_next(&self) -> bool {
        self.head().is_some()
    }

    fn next(&mut self) -> Option<proto::Call> {
        let (id, _) = self.head()?;
        let call = self.unanswered.get_mut(&id)?;
        call.sent = true;
        self.in_flight += usize::from(call.is_transaction());
        self.unsent = id + 1;
        Some(proto::Call { id, kind: Some(call.call.kind.clone()) })
    }

    fn answer(&mut self, answer: proto::CallAnswer) -> Result<(), Leave> {
        let proto::CallAnswer { id, result } = answer;
        // Whose caller has given up in the meantime is not known any more.
        if !self.unanswered.get(&id).is_some_and(|call| call.sent) {
            return Ok(());
        }
        let Some(mut call) = self.forget(id) else { return Ok(()) };
        match self.judge(&mut call, result.as_ref()) {
            Verdict::Final => call.call.waiting.answer(result),
            Verdict::Instead(done) => call.call.waiting.answer(Some(done)),
            Verdict::Again(reason) => {
                call.sent = false;
                self.unanswered.insert(id, call);
                return Err(Leave(reason));
            }
        }
        Ok(())
    }

    fn lost(&mut self, reason: &str) {
        (self.unsent, self.in_flight) = (0, 0);
        if !self.retries {
            // What was sent fails at once; what was not waits for the one server there is.
            let (sent, unsent) = std::mem::take(&mut self.unanswered).into_iter().partition(|(_, call)| call.sent);
            self.unanswered = unsent;
            self.trouble = Some(reason.into());
            return BTreeMap::into_values(sent).for_each(|call| call.give_up(reason));
        }
        for call in self.unanswered.values_mut() {
            call.doubtful |= std::mem::take(&mut call.sent);
        }
        self.trouble = Some(reason.into());
    }

    fn due(&self) -> Option<Duration> {
        self.unanswered.values().next().map(|first| first.call.deadline)
    }

    fn expire(&mut self, now: Duration) {
        while let Some((id, first)) = self.unanswered.iter().next().map(|(id, first)| (*id, first.call.deadline))
            && first <= now
            && let Some(call) = self.forget(id)
        {
            match &self.trouble {
                Some(trouble) if !call.sent => call.give_up(trouble),
                _ => call.give_up("no answer came in time"),
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.unanswered.is_empty()
    }

    fn stop(&mut self, reason: &str) {
        self.in_flight = 0;
        std::mem::take(&mut self.unanswered).into_values().for_each(|call| call.give_up(reason));
    }
}
