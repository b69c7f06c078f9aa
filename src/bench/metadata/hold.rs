//! `magnetar bench metadata hold`: many sessions with heartbeats and many watches, held while somebody looks at the
//! nodes. Owns that they are real: a sample of the watches must show a write, and every heartbeat must be answered.

use super::{Servers, magnetar, with_tasks};
use crate::{
    bench::figures::{quantile_micros, quantiles},
    cli::{client, table},
    config::amount,
};
use anyhow::{Context, bail};
use clap::Args;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use protocol::{
    id::{Revision, SessionId},
    runtime::{Clock, SystemClock, Tasks},
    service::metadata::{Consistency, MetadataService, Operation, Scan, Transaction, WatchStream},
};
use std::{io::Write, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Watches on one connection: HTTP/2 servers allow 200 streams unless they say otherwise, and the calls need one.
const WATCHES_PER_CONNECTION: usize = 150;
/// Calls under way at a time while everything is opened.
const OPENING: usize = 500;
/// Watches that must show a write.
const SAMPLE: usize = 1_000;
/// Slices of the sessions, whose heartbeats follow each other evenly.
const SLICES: usize = 100;
/// How long the event of a write may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// `bench metadata hold`
#[derive(Debug, Clone, Args)]
pub(super) struct Hold {
    #[command(flatten)]
    servers: Servers,
    /// How many sessions
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    sessions: u32,
    /// How many watches, each on a prefix of its own
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    watches: u32,
    /// Time to live of a session; a third of it passes between two heartbeats
    #[arg(long, default_value = "60s", value_parser = amount::duration)]
    ttl: Duration,
    /// How long they are held once all of them are open
    #[arg(long, default_value = "30s", value_parser = amount::duration)]
    duration: Duration,
    /// As one line of JSON
    #[arg(long)]
    json: bool,
}

/// What was seen.
struct Held {
    opened: Duration,
    heartbeats: u64,
    failed: u64,
    problem: Option<String>,
    /// Microseconds from a write to its event.
    events: Histogram<u64>,
    /// Watches that had ended at the end.
    lost: usize,
}

type Handles = Vec<Arc<dyn MetadataService>>;

impl Hold {
    pub(super) fn run(self) -> anyhow::Result<()> {
        crate::open_files::raise_limit();
        let (interrupt, interrupted) = watch::channel(false);
        client::on_interrupt(move || {
            interrupt.send_replace(true);
        })?;
        let held = with_tasks(async |tasks| self.hold(tasks, interrupted).await)?;
        self.report(&held);
        match held.problem {
            Some(problem) => bail!("{} failed: {problem}", table::count(held.failed, "heartbeat")),
            None if held.lost > 0 => bail!("{} of the watches ended", table::number(held.lost as u64)),
            None => Ok(()),
        }
    }

    async fn hold(&self, tasks: &Tasks, mut interrupted: watch::Receiver<bool>) -> anyhow::Result<Held> {
        let clock = SystemClock::default();
        let connections = (self.watches as usize).div_ceil(WATCHES_PER_CONNECTION).max(self.servers.servers.len());
        let handles = (0..connections).map(|n| magnetar::handle(&[self.servers.of(n)], tasks));
        let handles = handles.collect::<anyhow::Result<Handles>>()?;
        let start = clock.monotonic();
        let sessions = self.open_sessions(&handles).await.context("opening sessions")?;
        let beats = heartbeats(&handles, &sessions, self.ttl / 3);
        let held = async {
            let mut watches = self.open_watches(&handles).await.context("opening watches")?;
            let opened = clock.monotonic().saturating_sub(start);
            let events = self.sample(&handles, &mut watches, clock).await.context("a sample of the watches")?;
            self.announce(opened)?;
            let _ = tokio::time::timeout(self.duration, interrupted.wait_for(|asked| *asked)).await;
            Ok::<_, anyhow::Error>((opened, events, lost(&mut watches)))
        };
        let (count, failed) = (std::cell::Cell::new(0), std::cell::RefCell::new((0, None)));
        let beating = beats.for_each(|beat| {
            count.set(count.get() + 1);
            if let Err(problem) = beat {
                let mut failed = failed.borrow_mut();
                failed.0 += 1;
                failed.1.get_or_insert(problem);
            }
            std::future::ready(())
        });
        let (opened, events, lost) = tokio::select! {
            held = held => held?,
            () = beating => bail!("the heartbeats ended"),
        };
        let (failed, problem) = failed.into_inner();
        Ok(Held { opened, heartbeats: count.get(), failed, problem, events, lost })
    }

    async fn open_sessions(&self, handles: &Handles) -> anyhow::Result<Vec<SessionId>> {
        let calls = stream::iter(0..self.sessions as usize).map(|n| handles[n % handles.len()].open_session(self.ttl));
        Ok(calls.buffer_unordered(OPENING).try_collect().await?)
    }

    async fn open_watches(&self, handles: &Handles) -> anyhow::Result<Vec<WatchStream>> {
        let scan = Scan { prefix: "hold/".into(), after: None, limit: 1, consistency: Consistency::Linearizable };
        let Some(first) = handles.first() else { return Ok(Vec::new()) };
        let Revision(from) = first.scan(scan).await?.revision;
        let calls =
            stream::iter(0..self.watches as usize).map(|n| handles[n % handles.len()].watch(prefix(n), Revision(from)));
        Ok(calls.buffered(OPENING).try_collect().await?)
    }

    /// Writes below some of the prefixes, and waits for the events.
    async fn sample(
        &self,
        handles: &Handles,
        watches: &mut [WatchStream],
        clock: SystemClock,
    ) -> anyhow::Result<Histogram<u64>> {
        let mut latency = Histogram::new_with_bounds(1, 600_000_000, 3)?;
        let step = watches.len().div_ceil(SAMPLE).max(1);
        for (number, watch) in watches.iter_mut().enumerate().step_by(step) {
            let value = bytes::Bytes::from_static(b"seen");
            let operations = vec![Operation::Put { key: format!("{}key", prefix(number)), value, session: None }];
            let called = clock.monotonic();
            // Another connection than the watch has.
            let handle = &handles[(number + 1) % handles.len()];
            handle.transact(Transaction { operations, ..Transaction::default() }).await?;
            let event = tokio::time::timeout(PATIENCE, watch.next()).await.context("a write is not shown")?;
            event.context("a watch ended")??;
            let took = clock.monotonic().saturating_sub(called).as_micros();
            latency.saturating_record(u64::try_from(took).unwrap_or(u64::MAX).max(1));
        }
        Ok(latency)
    }

    /// Tells whoever started us that everything is held now.
    fn announce(&self, opened: Duration) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "holding {} sessions and {} watches after {:.1} s",
            table::number(u64::from(self.sessions)),
            table::number(u64::from(self.watches)),
            opened.as_secs_f64()
        )?;
        Ok(out.flush()?)
    }

    fn report(&self, held: &Held) {
        let Held { opened, heartbeats, failed, events, lost, .. } = held;
        if self.json {
            let at = |quantile| quantile_micros(events, quantile);
            let figures = serde_json::json!({
                "sessions": self.sessions, "watches": self.watches, "open_seconds": opened.as_secs_f64(),
                "heartbeats": heartbeats, "heartbeats_failed": failed, "watches_lost": lost,
                "event_p50_us": at(0.5), "event_p99_us": at(0.99),
            });
            return println!("{figures}");
        }
        println!("  heartbeats  {}, {} failed", table::number(*heartbeats), table::number(*failed));
        println!("  events      {}, {} watches lost", quantiles(events), table::number(*lost as u64));
    }
}

/// The heartbeats of all sessions, each once in `every`, for ever.
fn heartbeats<'a>(
    handles: &'a Handles,
    sessions: &'a [SessionId],
    every: Duration,
) -> impl futures::Stream<Item = Result<(), String>> + 'a {
    let slices = u32::try_from(SLICES).unwrap_or(1);
    let ticks = stream::unfold(tokio::time::interval(every / slices), |mut ticks| async {
        ticks.tick().await;
        Some(((), ticks))
    });
    let due = ticks
        .enumerate()
        .flat_map(|(tick, ())| stream::iter(sessions.iter().enumerate().skip(tick % SLICES).step_by(SLICES)));
    let beats = due.map(|(n, session)| handles[n % handles.len()].keep_alive(*session));
    beats.buffer_unordered(OPENING).map(|beat| beat.map_err(|problem| problem.to_string()))
}

/// How many watches have ended.
fn lost(watches: &mut [WatchStream]) -> usize {
    let waiting = watches.iter_mut().filter_map(|watch| watch.next().now_or_never());
    waiting.filter(|event| !matches!(event, Some(Ok(_)))).count()
}

fn prefix(number: usize) -> String {
    format!("hold/{number:07}/")
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{parse, serve_fake},
        *,
    };

    #[tokio::test]
    async fn watches_are_held_and_shown_to_work() {
        let tasks = Tasks::default();
        let (fake, address) = serve_fake(&tasks).await;
        let hold: Hold = parse(&["--servers", &address, "--sessions", "10", "--watches", "200", "--duration", "1ms"]);
        let (_asker, interrupted) = watch::channel(false);
        let held = hold.hold(&tasks, interrupted).await.expect("held");
        assert_eq!((held.events.len(), held.lost, held.problem), (200, 0, None));
        assert_eq!((fake.sessions().len(), fake.peek_all("hold/").len()), (10, 200));
    }

    #[tokio::test]
    async fn a_watch_that_ends_meanwhile_is_counted() {
        let tasks = Tasks::default();
        let (fake, address) = serve_fake(&tasks).await;
        let hold: Hold = parse(&["--servers", &address, "--sessions", "0", "--watches", "5"]);
        let handles = vec![magnetar::handle(&[&address], &tasks).expect("an address")];
        let mut watches = hold.open_watches(&handles).await.expect("open");
        assert_eq!(lost(&mut watches), 0);
        // A client takes up watches by itself, unless what happened meanwhile is forgotten.
        fake.put("elsewhere".into(), &protocol::model::ConfigRecord::default());
        fake.compact();
        fake.end_watches();
        let mut ended = watches.remove(0);
        ended.next().await.expect("an end").expect_err("it was ended");
        // The others end in the order in which they were opened, if not at the same time.
        for watch in &mut watches {
            assert!(watch.next().await.is_some_and(|event| event.is_err()));
        }
        assert_eq!(lost(&mut watches), 4);
    }

    #[tokio::test]
    async fn heartbeats_reach_every_session_and_failures_are_seen() {
        let tasks = Tasks::default();
        let (fake, address) = serve_fake(&tasks).await;
        let hold: Hold = parse(&["--servers", &address, "--sessions", "7", "--watches", "0"]);
        let handles = vec![magnetar::handle(&[&address], &tasks).expect("an address")];
        let sessions = hold.open_sessions(&handles).await.expect("open");
        let every = Duration::from_millis(100);
        let beats: Vec<_> = heartbeats(&handles, &sessions, every).take(14).collect().await;
        assert!(beats.iter().all(Result::is_ok), "{beats:?}");
        fake.expire(sessions[3]);
        let beats: Vec<_> = heartbeats(&handles, &sessions, every).take(7).collect().await;
        assert_eq!(beats.iter().filter(|beat| beat.is_err()).count(), 1, "{beats:?}");
    }
}
