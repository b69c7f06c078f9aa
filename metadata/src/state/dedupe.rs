//! The answers kept so that a retried transaction gets its first answer, happens once, and never happens after a later
//! one of the same client.
//!
//! Per client: the highest sequence number carried out, and the latest answers. What is not kept and not above the
//! highest is never carried out. Whether it was before is known from the highest answer that was given up: up to there
//! nobody can tell ([`Reply::Forgotten`]), above it certainly not ([`Reply::Superseded`]). A client promises to have no
//! more than [`MAX_KEPT`] requests under way, so whatever it may still ask again is kept.
//!
//! Bounded by time, bytes and clients, always at the expense of whoever has been silent for longest. All times are the
//! state's own uptime. All limits here are part of the replicated rules: voters that disagree about them diverge.

use super::{
    Reply,
    command::StoredRequest,
    digest::{Hashed, Hasher, Summed},
    tree::Tree,
};
use std::ops::Bound;

/// The most answers kept of one client; as many requests may a client have under way.
pub(super) const MAX_KEPT: u64 = 256;
/// The most bytes of kept answers.
pub(super) const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// The most clients known.
pub(super) const MAX_CLIENTS: usize = 1_000_000;
/// Answers of a client that has been silent for longer are given up; seconds.
pub(super) const KEEP_ANSWERS: u64 = 600;
/// A client that has been silent for longer is forgotten; seconds.
pub(super) const KEEP_CLIENTS: u64 = 24 * 3600;
/// The most answers and clients that one step of time drops, so that no batch waits long for it.
pub(super) const SWEEP: usize = 1_024;
/// What an answer counts for beyond what it holds.
const ANSWER: u64 = 128;

/// The two halves of a client's number.
pub(super) type ClientId = (u64, u64);

/// What is known of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Client {
    /// The highest sequence number carried out.
    pub highest: u64,
    /// The highest sequence number whose answer was given up.
    pub given_up: Option<u64>,
    /// When it was last heard; seconds of uptime.
    pub heard: u64,
    /// How many of its answers are kept.
    pub kept: u64,
}

impl Hashed for Client {
    /// How many answers are kept is told by the answers.
    fn feed(&self, hasher: &mut Hasher) {
        hasher.number(self.highest).option(self.given_up).number(self.heard);
    }
}

/// Everything kept.
#[derive(Debug, Clone, Default)]
pub(super) struct Dedupe {
    clients: Summed<ClientId, Client>,
    answers: Summed<(ClientId, u64), Reply>,
    /// Clients with kept answers, the longest silent first.
    answered: Tree<(u64, ClientId), ()>,
    /// Clients without, the longest silent first.
    silent: Tree<(u64, ClientId), ()>,
    bytes: u64,
}

impl Dedupe {
    /// What is known of each client.
    pub(super) const fn clients(&self) -> &Summed<ClientId, Client> {
        &self.clients
    }

    /// The kept answers.
    pub(super) const fn answers(&self) -> &Summed<(ClientId, u64), Reply> {
        &self.answers
    }

    /// The answer to a request that is not to be carried out; `now` in seconds of uptime.
    pub(super) fn answer(&mut self, request: StoredRequest, now: u64) -> Option<Reply> {
        let StoredRequest { client: id, sequence } = request;
        let client = *self.clients.get(&id)?;
        if client.heard != now {
            self.set(id, Client { heard: now, ..client });
        }
        if sequence > client.highest {
            return None;
        }
        match self.answers.get(&(id, sequence)) {
            Some(first) => Some(first.clone()),
            None if client.given_up.is_some_and(|up_to| sequence <= up_to) => Some(Reply::Forgotten),
            None => Some(Reply::Superseded),
        }
    }

    /// Keeps the answer to a request that was carried out.
    pub(super) fn keep(&mut self, request: StoredRequest, reply: Reply, now: u64) {
        let StoredRequest { client: id, sequence } = request;
        let client = self.clients.get(&id).copied();
        let given_up = client.and_then(|c| c.given_up);
        let kept = client.map_or(0, |c| c.kept) + 1;
        self.bytes += size(&reply);
        self.answers.insert((id, sequence), reply);
        self.set(id, Client { highest: sequence, given_up, heard: now, kept });
        if kept > MAX_KEPT {
            self.give_up_one(id);
        }
        while self.bytes > MAX_BYTES
            && let Some(oldest) = oldest(&self.answered)
        {
            self.give_up_one(oldest.1);
        }
        while self.clients.len() > MAX_CLIENTS {
            match (oldest(&self.silent), oldest(&self.answered)) {
                (Some((_, id)), _) => self.forget(id),
                (None, Some((_, id))) => self.give_up_one(id),
                (None, None) => break,
            }
        }
    }

    /// Time has passed; `now` in seconds of uptime.
    pub(super) fn sweep(&mut self, now: u64) {
        let is_over = |(heard, _): (u64, ClientId), keep: u64| heard.saturating_add(keep) < now;
        for _ in 0..SWEEP {
            match (oldest(&self.answered), oldest(&self.silent)) {
                (Some(client), _) if is_over(client, KEEP_ANSWERS) => self.give_up_one(client.1),
                (_, Some(client)) if is_over(client, KEEP_CLIENTS) => self.forget(client.1),
                _ => return,
            }
        }
    }

    /// Takes in a client of a snapshot, before its answers; `false` if it is there already.
    pub(super) fn restore_client(&mut self, id: ClientId, client: Client) -> bool {
        let is_new = self.clients.get(&id).is_none();
        self.set(id, Client { kept: 0, ..client });
        is_new
    }

    /// Takes in an answer of a snapshot; `false` if it does not fit to what is known of its client.
    pub(super) fn restore_answer(&mut self, id: ClientId, sequence: u64, reply: Reply) -> bool {
        let Some(client) = self.clients.get(&id).copied() else { return false };
        if sequence > client.highest || client.given_up.is_some_and(|up_to| sequence <= up_to) {
            return false;
        }
        self.bytes += size(&reply);
        self.set(id, Client { kept: client.kept + 1, ..client });
        self.answers.insert((id, sequence), reply).is_none()
    }

    /// Gives up the oldest answer of a client.
    fn give_up_one(&mut self, id: ClientId) {
        let Some(client) = self.clients.get(&id).copied() else { return };
        let first = self.answers.range(Bound::Included(&(id, 0))).next();
        let Some(key) = first.map(|(key, _)| *key).filter(|(owner, _)| *owner == id) else { return };
        if let Some((_, reply)) = self.answers.remove(&key) {
            self.bytes -= size(&reply);
        }
        self.set(id, Client { given_up: Some(key.1), kept: client.kept - 1, ..client });
    }

    fn forget(&mut self, id: ClientId) {
        if let Some((_, client)) = self.clients.remove(&id) {
            self.silent.remove(&(client.heard, id));
        }
    }

    /// Writes what is known of a client, and puts it to its place in the order of silence.
    fn set(&mut self, id: ClientId, client: Client) {
        let old = self.clients.insert(id, client);
        let place = |client: Client| (client.heard, client.kept > 0);
        let from = old.map(place);
        if from == Some(place(client)) {
            return;
        }
        match from {
            Some((heard, true)) => drop(self.answered.remove(&(heard, id))),
            Some((heard, false)) => drop(self.silent.remove(&(heard, id))),
            None => {}
        }
        let order = if client.kept > 0 { &mut self.answered } else { &mut self.silent };
        order.insert((client.heard, id), ());
    }

    /// Checks counts and orders against the answers.
    ///
    /// # Panics
    /// If one does not hold.
    pub(super) fn check(&self) {
        let bytes: u64 = self.answers.iter().map(|(_, reply)| size(reply)).sum();
        assert_eq!(self.bytes, bytes, "bytes of kept answers");
        assert_eq!(self.answered.len() + self.silent.len(), self.clients.len(), "each client is in one order");
        for (id, client) in self.clients.iter() {
            let answers = self.answers.range(Bound::Included(&(*id, 0))).take_while(|((owner, _), _)| owner == id);
            let sequences: Vec<u64> = answers.map(|((_, sequence), _)| *sequence).collect();
            assert_eq!(sequences.len() as u64, client.kept, "kept answers of {id:?}");
            assert!(client.kept <= MAX_KEPT && sequences.iter().all(|s| *s <= client.highest), "{id:?}: {client:?}");
            assert!(sequences.first().is_none_or(|s| client.given_up.is_none_or(|up_to| *s > up_to)), "{id:?}");
            let order = if client.kept > 0 { &self.answered } else { &self.silent };
            assert!(order.get(&(client.heard, *id)).is_some(), "{id:?} has its place in the order of silence");
        }
    }
}

fn oldest(order: &Tree<(u64, ClientId), ()>) -> Option<(u64, ClientId)> {
    order.first().map(|(place, ())| *place)
}

/// What an answer counts against [`MAX_BYTES`].
fn size(reply: &Reply) -> u64 {
    let holds = match reply {
        Reply::Committed { sequences, .. } => sequences.len() * 8,
        Reply::Conflict { current: Some(current), .. } => current.key.len() + current.value.len(),
        Reply::Refused(reason) => reason.len(),
        _ => 0,
    };
    ANSWER + holds as u64
}

#[cfg(test)]
mod tests;
