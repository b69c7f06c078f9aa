//! `magnetar bookie scrub`: asks a bookie to read and compare everything it holds, and shows how far it is. Owns the
//! words and the progress; the bookie does the work and keeps the record, so leaving this command stops nothing.

use super::{
    bookie::unknown_bookie,
    cluster_client::{ClusterAddress, ClusterClient},
    table,
};
use anyhow::bail;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use protocol::{
    id::{BookieId, Timestamp},
    model::{ScrubRecord, decode, encode, key},
    runtime::{Clock, SystemClock},
    service::metadata::{Condition, Consistency, Operation, Outcome, Transaction},
};
use std::{process::ExitCode, time::Duration};

/// How often progress is read.
const LOOK: Duration = Duration::from_millis(500);
/// How often a write of the record is tried against the bookie's own.
const ATTEMPTS: u32 = 20;

/// `bookie scrub`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar bookie scrub 2\n  magnetar bookie scrub --all\n\nEvery bookie does this by itself, too (bookie.scrub_interval). What is damaged or missing is fetched from other bookies.\nExit status: 0 if everything is whole or was healed, 1 if something could not be healed."
)]
pub struct Scrub {
    /// The bookie's number
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    pub id: Option<u32>,
    /// Every live bookie
    #[arg(long)]
    pub all: bool,
    /// Return at once instead of showing progress
    #[arg(long)]
    pub no_wait: bool,
    /// The cluster to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
}

impl Scrub {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        self.connection.clone().with(async |client| self.ask(client).await)
    }

    async fn ask(&self, client: &ClusterClient) -> anyhow::Result<ExitCode> {
        let snapshot = client.view.snapshot();
        let ids: Vec<BookieId> = match self.id {
            Some(id) if !snapshot.cookies.contains_key(&BookieId(id)) => bail!(unknown_bookie(&snapshot, BookieId(id))),
            Some(id) if !snapshot.bookies.contains_key(&BookieId(id)) => {
                bail!("bookie {id} is down; it can only be scrubbed when it runs")
            }
            Some(id) => vec![BookieId(id)],
            None => snapshot.bookies.keys().filter(|id| snapshot.cookies.contains_key(id)).copied().collect(),
        };
        if ids.is_empty() {
            bail!("no bookie lives; start one with: magnetar bookie start --id 1");
        }
        let mut asked = Vec::new();
        for id in ids {
            asked.push((id, request(client, id).await?));
        }
        if self.no_wait {
            println!("asked for; magnetar bookie describe ID shows the result");
            return Ok(ExitCode::SUCCESS);
        }
        let mut whole = true;
        for (id, since) in asked {
            whole &= tokio::select! {
                record = follow(client, id, since) => {
                    let record = record?;
                    println!("bookie {id}: {}", summary(&record));
                    record.damaged <= record.healed
                }
                _ = tokio::signal::ctrl_c() => {
                    println!("\nit goes on without this command; magnetar bookie describe {id} shows the result");
                    return Ok(ExitCode::from(130));
                }
            };
        }
        Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

/// Writes the request into the record; the time it was asked for at.
async fn request(client: &ClusterClient, id: BookieId) -> anyhow::Result<Timestamp> {
    let key = key::scrub(id);
    for _ in 0..ATTEMPTS {
        let found = client.metadata.get(key.clone(), Consistency::Linearizable).await?;
        let mut record: ScrubRecord = found.as_ref().map(|i| decode(&i.value)).transpose()?.unwrap_or_default();
        // Later than a scrub that runs now, also where this machine's clock is behind the bookie's.
        let past = record.started_at.map_or(0, |t| t.0 + 1);
        let since = Timestamp(SystemClock::default().wall().0.max(past));
        record.requested_at = Some(since);
        let condition = match found {
            Some(item) => Condition::Version(key.clone(), item.version),
            None => Condition::Absent(key.clone()),
        };
        let put = Operation::Put { key: key.clone(), value: encode(&record), session: None };
        let transaction = Transaction { conditions: vec![condition], operations: vec![put], request: None };
        if let Outcome::Committed { .. } = client.metadata.transact(transaction).await? {
            return Ok(since);
        }
    }
    bail!("bookie {id} kept changing its scrub record; try again")
}

/// Shows progress until the scrub that was asked for has ended.
async fn follow(client: &ClusterClient, id: BookieId, since: Timestamp) -> anyhow::Result<ScrubRecord> {
    let bar = ProgressBar::new(1);
    bar.set_style(style());
    loop {
        let item = client.metadata.get(key::scrub(id), Consistency::Linearizable).await?;
        let record: ScrubRecord = item.map(|i| decode(&i.value)).transpose()?.unwrap_or_default();
        let has_begun = record.started_at.is_some_and(|t| t >= since);
        if has_begun && record.finished_at.is_some() {
            bar.finish_and_clear();
            return Ok(record);
        }
        if has_begun {
            bar.set_length(record.total_ledgers.max(1));
            bar.set_position(record.ledgers);
            bar.set_message(format!("bookie {id}, {} read", table::bytes(record.bytes)));
        } else {
            bar.set_message(format!("bookie {id}, waiting for it to begin"));
        }
        if !client.view.snapshot().bookies.contains_key(&id) {
            bar.finish_and_clear();
            bail!("bookie {id} went away during its scrub; it goes on when it is back");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The latest scrub in words.
pub(super) fn summary(record: &ScrubRecord) -> String {
    if record.started_at.is_none() {
        return "never scrubbed yet".into();
    }
    let state = if record.finished_at.is_some() { "scrubbed" } else { "being scrubbed" };
    let read = format!(
        "{}, {}",
        table::count(record.entries, "entry").replace("entrys", "entries"),
        table::bytes(record.bytes)
    );
    let found = match (record.damaged, record.damaged.saturating_sub(record.healed)) {
        (0, _) => "all whole".into(),
        (damaged, 0) => format!("{} damaged or missing, all healed from other bookies", table::number(damaged)),
        (damaged, left) => format!(
            "{} damaged or missing, {} of them could not be healed: magnetar verify TOPIC shows where",
            table::number(damaged),
            table::number(left)
        ),
    };
    format!("{state}: {read} read, {found}")
}

fn style() -> ProgressStyle {
    let template = "{bar:30} {percent}%  {pos} of {len} ledgers  {msg}  ETA {eta}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrub_is_summed_up() {
        assert_eq!(summary(&ScrubRecord::default()), "never scrubbed yet");
        let record = ScrubRecord {
            started_at: Some(Timestamp(1)),
            finished_at: Some(Timestamp(2)),
            entries: 2,
            bytes: 2_000,
            ..ScrubRecord::default()
        };
        assert_eq!(summary(&record), "scrubbed: 2 entries, 2.0 kB read, all whole");
        let hurt = ScrubRecord { damaged: 3, healed: 2, finished_at: None, ..record };
        let words = summary(&hurt);
        assert!(words.contains("being scrubbed") && words.contains("1 of them could not be healed"), "{words}");
    }
}
