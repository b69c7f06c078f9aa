//! The broker's calls to the metadata service: every one with a deadline, transactions retried under one request id so
//! that a retry gets the first answer. Owns request ids; never interprets records.

use parking_lot::Mutex;
use protocol::{
    model::Sequence,
    service::{
        Answer,
        metadata::{
            Condition, Consistency, MetadataError, MetadataService, Operation, Outcome, RequestId, Scan, Transaction,
            Versioned,
        },
    },
};
use std::{sync::Arc, time::Duration};

/// The longest wait for one answer.
const ATTEMPT: Duration = Duration::from_secs(4);
/// How often a call is made in all.
const ATTEMPTS: u32 = 5;
/// The pause after the first failure; it doubles.
const PAUSE: Duration = Duration::from_millis(20);
/// Items of a scan page.
const PAGE: u32 = 1_000;

/// A client of the metadata service.
pub(crate) struct MetadataClient {
    service: Arc<dyn MetadataService>,
    client: u128,
    next: Mutex<u64>,
}

impl MetadataClient {
    /// A client with a request identity of its own.
    pub(crate) fn new(service: Arc<dyn MetadataService>) -> Self {
        Self { service, client: rand::random(), next: Mutex::new(1) }
    }

    /// The service itself, for sessions.
    pub(crate) fn service(&self) -> &Arc<dyn MetadataService> {
        &self.service
    }

    /// Conditions and effects, all or nothing; an unknown outcome is asked again before it is reported.
    pub(crate) async fn transact(
        &self,
        conditions: Vec<Condition>,
        operations: Vec<Operation>,
    ) -> Result<Outcome, MetadataError> {
        let mut transaction = Transaction { conditions, operations, request: None };
        let mut unknown = None;
        let mut pause = PAUSE;
        for attempt in 1.. {
            let answer = self.submit(&mut transaction);
            let problem = match bounded(answer).await {
                Ok(outcome) => return Ok(outcome),
                Err(problem @ MetadataError::OutcomeUnknown { .. }) => {
                    unknown = Some(problem.clone());
                    problem
                }
                Err(problem @ MetadataError::Unavailable { .. }) => unknown.clone().unwrap_or(problem),
                Err(problem) => return Err(problem),
            };
            if attempt == ATTEMPTS {
                return Err(problem);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        unreachable!("the loop ends with its last attempt")
    }

    /// Makes the call; the first time under a new request id, whose order is the order of the calls.
    fn submit(&self, transaction: &mut Transaction) -> Answer<Outcome, MetadataError> {
        if transaction.request.is_some() {
            return self.service.transact(transaction.clone());
        }
        let mut next = self.next.lock();
        transaction.request = Some(RequestId { client: self.client, sequence: *next });
        *next += 1;
        self.service.transact(transaction.clone())
    }

    /// What a key holds now.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Versioned>, MetadataError> {
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS {
            match bounded(self.service.get(key.to_owned(), Consistency::Linearizable)).await {
                Err(MetadataError::Unavailable { .. } | MetadataError::OutcomeUnknown { .. }) => {}
                answer => return answer,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        bounded(self.service.get(key.to_owned(), Consistency::Linearizable)).await
    }

    /// Everything under a prefix, in key order.
    pub(crate) async fn scan_all(&self, prefix: &str) -> Result<Vec<Versioned>, MetadataError> {
        let (mut items, mut after) = (Vec::new(), None);
        loop {
            let consistency = Consistency::Linearizable;
            let scan = Scan { prefix: prefix.to_owned(), after, limit: PAGE, consistency };
            let page = bounded(self.service.scan(scan)).await?;
            after = page.items.last().map(|item| item.key.clone());
            items.extend(page.items);
            if !page.more || after.is_none() {
                return Ok(items);
            }
        }
    }

    /// The next number of a sequence.
    pub(crate) async fn next_number(&self, sequence: Sequence) -> Result<u64, MetadataError> {
        let take = Operation::Sequence { name: sequence.name().to_owned(), count: 1 };
        match self.transact(Vec::new(), vec![take]).await? {
            Outcome::Committed { sequences, .. } => {
                sequences.first().copied().ok_or_else(|| MetadataError::Invalid("no number was issued".into()))
            }
            Outcome::Conflict { .. } => Err(MetadataError::Invalid("a sequence has no conditions".into())),
        }
    }
}

async fn bounded<T>(answer: Answer<T, MetadataError>) -> Result<T, MetadataError> {
    tokio::time::timeout(ATTEMPT, answer).await.unwrap_or_else(|_| {
        Err(MetadataError::OutcomeUnknown { reason: format!("no answer within {} s", ATTEMPT.as_secs()) })
    })
}
