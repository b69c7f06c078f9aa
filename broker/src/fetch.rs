//! Fetching from many partitions at once: in the order asked, within one byte limit, waiting until there is enough.
//!
//! The first pass runs before the call returns and answers at once if everything is in memory. Otherwise passes are
//! repeated whenever a partition changes, until there are `min_bytes`, any partition has an error, or `max_wait` is over.
//! Owns the limits across partitions; those of one partition are [`crate::partition`]'s.

use crate::partition::{FetchSignal, Partition, Reading, Want};
use protocol::service::{
    Answer,
    broker::{Fetch, FetchError, Fetched, FetchedPartition, NotServed},
    ready,
};
use std::sync::Arc;

/// A partition of a fetch, or why it is not served here.
pub(crate) type Target = Result<Arc<Partition>, NotServed>;

type PartitionResult = Result<FetchedPartition, FetchError>;

/// One fetch and its targets, in the order asked.
pub(crate) struct FetchRun {
    fetch: Fetch,
    targets: Vec<Target>,
}

/// The results of one pass.
struct Pass {
    results: Vec<PartitionResult>,
    bytes: usize,
    /// Whether the fetch is answered whatever the number of bytes.
    conclusive: bool,
}

impl FetchRun {
    pub(crate) const fn new(fetch: Fetch, targets: Vec<Target>) -> Self {
        Self { fetch, targets }
    }

    /// Runs the fetch; the first look at the partitions is taken before this returns.
    pub(crate) fn start(self) -> Answer<Fetched, FetchError> {
        match self.pass_cached() {
            Some(pass) if self.is_enough(&pass) => ready(Ok(Fetched { partitions: pass.results })),
            _ => Box::pin(async move { Ok(Fetched { partitions: self.run().await }) }),
        }
    }

    fn is_enough(&self, pass: &Pass) -> bool {
        pass.conclusive || pass.bytes >= self.fetch.min_bytes as usize || self.fetch.max_wait.is_zero()
    }

    async fn run(self) -> Vec<PartitionResult> {
        let deadline = tokio::time::sleep(self.fetch.max_wait);
        tokio::pin!(deadline);
        let signal = FetchSignal::default();
        loop {
            // Registered before looking: a change after the look wakes us.
            for partition in self.targets.iter().flatten() {
                partition.watch(&signal);
            }
            let pass = self.pass().await;
            if self.is_enough(&pass) {
                return pass.results;
            }
            tokio::select! {
                () = signal.notified() => {}
                () = &mut deadline => return self.pass().await.results,
            }
        }
    }

    /// A pass over what is in memory; nothing if a ledger has to be read.
    fn pass_cached(&self) -> Option<Pass> {
        let mut pass = Pass::new(self.targets.len());
        for index in 0..self.targets.len() {
            match self.read_cached(index, &pass) {
                Reading::Done(result) => pass.add(result),
                Reading::InLedger(_) => return None,
            }
        }
        Some(pass)
    }

    async fn pass(&self) -> Pass {
        let mut pass = Pass::new(self.targets.len());
        for (index, target) in self.targets.iter().enumerate() {
            let result = match (self.read_cached(index, &pass), target) {
                (Reading::InLedger(progress), Ok(partition)) => {
                    Box::pin(partition.read_ledger(self.fetch.partitions[index].offset, progress)).await
                }
                (Reading::InLedger(_), Err(why)) => Err(why.clone().into()),
                (Reading::Done(result), _) => result,
            };
            pass.add(result);
        }
        pass
    }

    fn read_cached(&self, index: usize, pass: &Pass) -> Reading {
        match &self.targets[index] {
            Ok(partition) => partition.read_cached(&self.fetch.partitions[index], self.want(index, pass)),
            Err(why) => Reading::Done(Err(why.clone().into())),
        }
    }

    fn want(&self, index: usize, pass: &Pass) -> Want {
        let left = (self.fetch.max_bytes as usize).saturating_sub(pass.bytes);
        let max_bytes = left.min(self.fetch.partitions[index].max_bytes as usize);
        Want { max_bytes, at_least_one: pass.bytes == 0 }
    }
}

impl Pass {
    fn new(partitions: usize) -> Self {
        Self { results: Vec::with_capacity(partitions), bytes: 0, conclusive: partitions == 0 }
    }

    fn add(&mut self, result: PartitionResult) {
        match &result {
            Ok(fetched) => {
                self.bytes += fetched.size();
                self.conclusive |= fetched.diverging.is_some();
            }
            Err(_) => self.conclusive = true,
        }
        self.results.push(result);
    }
}
