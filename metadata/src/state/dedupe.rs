//! The answers kept so that a retried transaction gets its first answer and does not happen twice.
//!
//! Bounded by count and bytes over all clients, oldest first. While a client has any answer here, a request of it that
//! is older than all of them is answered "forgotten" and never carried out again; a client that has sent nothing during
//! the last [`MAX_ANSWERS`] requests is forgotten altogether, which no call's deadline comes near.

use super::{Reply, command::StoredRequest};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// The most answers kept.
pub(super) const MAX_ANSWERS: usize = 8_192;
/// The most bytes of values in kept answers.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Kept answers, in the order in which the requests were first carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Dedupe {
    clients: BTreeMap<(u64, u64), Client>,
    order: VecDeque<StoredRequest>,
    bytes: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Client {
    answers: BTreeMap<u64, Reply>,
    /// The highest sequence number whose answer was given up.
    forgotten: Option<u64>,
}

impl Dedupe {
    /// The answer to a request that was seen before.
    pub(super) fn answer(&self, request: StoredRequest) -> Option<Reply> {
        let client = self.clients.get(&request.client)?;
        match client.answers.get(&request.sequence) {
            Some(first) => Some(first.clone()),
            None if client.forgotten.is_some_and(|f| request.sequence <= f) => Some(Reply::Forgotten),
            None => None,
        }
    }

    /// Keeps an answer.
    pub(super) fn keep(&mut self, request: StoredRequest, reply: Reply) {
        self.bytes += size(&reply);
        self.clients.entry(request.client).or_default().answers.insert(request.sequence, reply);
        self.order.push_back(request);
        while self.order.len() > MAX_ANSWERS || self.bytes > MAX_BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            self.forget(oldest);
        }
    }

    fn forget(&mut self, request: StoredRequest) {
        let Some(client) = self.clients.get_mut(&request.client) else { return };
        if let Some(reply) = client.answers.remove(&request.sequence) {
            self.bytes -= size(&reply);
        }
        client.forgotten = client.forgotten.max(Some(request.sequence));
        if client.answers.is_empty() {
            self.clients.remove(&request.client);
        }
    }
}

/// Bytes that count against [`MAX_BYTES`]: what is not of a fixed size.
fn size(reply: &Reply) -> usize {
    match reply {
        Reply::Committed { sequences, .. } => sequences.len() * 8,
        Reply::Conflict { current: Some(current), .. } => current.key.len() + current.value.len(),
        Reply::Refused(reason) => reason.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::id::Revision;

    fn request(client: u64, sequence: u64) -> StoredRequest {
        StoredRequest { client: (0, client), sequence }
    }

    fn reply(revision: u64) -> Reply {
        Reply::Committed { revision: Revision(revision), sequences: vec![] }
    }

    #[test]
    fn answers_are_kept_up_to_the_limit_and_then_forgotten_by_name() {
        let mut dedupe = Dedupe::default();
        for n in 0..=MAX_ANSWERS as u64 {
            dedupe.keep(request(1, n), reply(n));
        }
        assert_eq!(dedupe.answer(request(1, 0)), Some(Reply::Forgotten));
        assert_eq!(dedupe.answer(request(1, 1)), Some(reply(1)));
        assert_eq!(dedupe.answer(request(1, u64::MAX)), None);
        assert_eq!(dedupe.answer(request(2, 1)), None);
    }

    #[test]
    fn a_silent_client_leaves_nothing_behind() {
        let mut dedupe = Dedupe::default();
        dedupe.keep(request(9, 0), reply(1));
        for n in 0..MAX_ANSWERS as u64 {
            dedupe.keep(request(1, n), reply(n));
        }
        assert_eq!(dedupe.clients.len(), 1);
        assert_eq!(dedupe.order.len(), MAX_ANSWERS);
    }
}
