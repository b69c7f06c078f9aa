//! `magnetar bench metadata fill`: many keys in few transactions, to see what a node makes of a large state. Owns the
//! names of the keys, which begin with `fill/`.

use super::{Servers, magnetar, with_tasks};
use crate::{bench::probe::per_second, cli::table, config::amount};
use anyhow::{bail, ensure};
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use protocol::{
    runtime::{Clock, SystemClock, Tasks},
    service::metadata::{MAX_TRANSACTION, Operation, Outcome, Transaction},
};
use std::time::Duration;

/// `bench metadata fill`
#[derive(Debug, Clone, Args)]
pub(super) struct Fill {
    #[command(flatten)]
    servers: Servers,
    /// How many keys
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value = "200", value_parser = amount::size)]
    value_size: u64,
    /// Keys in a transaction
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    batch: u64,
    /// Transactions under way at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    in_flight: u32,
    /// As one line of JSON
    #[arg(long)]
    json: bool,
}

impl Fill {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let largest = self.batch * (self.value_size + key(self.keys).len() as u64);
        ensure!(
            largest <= MAX_TRANSACTION as u64,
            "a transaction takes at most {MAX_TRANSACTION} bytes; lower --batch"
        );
        let took = with_tasks(async |tasks| self.fill(tasks).await)?;
        let rate = per_second(self.keys, took);
        if self.json {
            let (keys, value_size, seconds) = (self.keys, self.value_size, took.as_secs_f64());
            let figures =
                serde_json::json!({ "keys": keys, "value_size": value_size, "seconds": seconds, "per_second": rate });
            println!("{figures}");
        } else {
            let (keys, size) = (table::count(self.keys, "key"), table::bytes(self.value_size));
            println!("{keys} of {size} in {:.1} s: {rate:.0} keys/s", took.as_secs_f64());
        }
        Ok(())
    }

    /// Writes all keys; how long that took.
    async fn fill(&self, tasks: &Tasks) -> anyhow::Result<Duration> {
        let largest = self.batch.saturating_mul(self.value_size.saturating_add(key(self.keys).len() as u64));
        ensure!(
            largest <= MAX_TRANSACTION as u64,
            "a transaction takes at most {MAX_TRANSACTION} bytes; lower --batch"
        );
        let handle = magnetar::handle(&self.servers.servers, tasks)?;
        let clock = SystemClock::default();
        let start = clock.monotonic();
        let batches = (0..self.keys).step_by(usize::try_from(self.batch)?);
        let calls = stream::iter(batches).map(|first| {
            let operations = (first..(first + self.batch).min(self.keys)).map(|number| self.put(number)).collect();
            let answer = handle.transact(Transaction { operations, ..Transaction::default() });
            async move {
                match answer.await? {
                    Outcome::Committed { .. } => Ok(()),
                    Outcome::Conflict { .. } => bail!("a write without conditions was refused"),
                }
            }
        });
        calls.buffer_unordered(self.in_flight as usize).try_collect::<()>().await?;
        Ok(clock.monotonic().saturating_sub(start))
    }

    fn put(&self, number: u64) -> Operation {
        let mut value = vec![0; usize::try_from(self.value_size).unwrap_or(0)];
        rand::fill(&mut value[..]);
        Operation::Put { key: key(number), value: value.into(), session: None }
    }
}

fn key(number: u64) -> String {
    format!("fill/{number:09}")
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{parse, serve_fake},
        *,
    };
    use protocol::id::Revision;

    #[tokio::test]
    async fn every_key_is_written_in_as_few_transactions_as_asked() {
        let tasks = Tasks::default();
        let (fake, address) = serve_fake(&tasks).await;
        let words = ["--servers", &address, "--keys", "100", "--batch", "30", "--value-size", "10"];
        parse::<Fill>(&words).fill(&tasks).await.expect("filled");
        let items = fake.peek_all("fill/");
        assert_eq!((items.len(), fake.revision()), (100, Revision(4)));
        assert!(items.iter().all(|item| item.value.len() == 10));
    }

    #[tokio::test]
    async fn a_batch_that_no_transaction_takes_is_refused() {
        let huge = parse::<Fill>(&["--batch", "10000", "--value-size", "1MiB"]);
        let problem = huge.fill(&Tasks::default()).await.expect_err("too large").to_string();
        assert!(problem.contains("--batch"), "{problem}");
    }
}
