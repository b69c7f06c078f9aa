//! `magnetar bench metadata`: puts through a cluster by clients that each have a connection and a few calls under way.
//! Owns the load and the figures; what a put is, the target knows.

use super::{
    Servers,
    target::{Call, Client, Target, Ticket},
    with_tasks,
};
use crate::{
    bench::{
        figures::{quantile_micros, quantiles},
        meter::Meter,
        probe::per_second,
    },
    cli::table,
    config::amount,
};
use anyhow::{Context, anyhow, bail};
use clap::Args;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use protocol::runtime::{Clock, SystemClock, Tasks};
use std::{sync::Arc, time::Duration};
use tokio::sync::Barrier;

/// Calls that a client has under way while it makes its keys.
const CREATING: usize = 16;

/// `bench metadata` without another word
#[derive(Debug, Clone, Args)]
pub(super) struct Puts {
    /// What kind of cluster it is
    #[arg(long, default_value = "magnetar")]
    target: Target,
    #[command(flatten)]
    servers: Servers,
    /// Clients, each with a connection of its own
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// Calls that a client has under way at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
    /// Bytes of a value
    #[arg(long, default_value = "200", value_parser = amount::size)]
    value_size: u64,
    /// Keys that are written, at least one for each client
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    /// Which part of the calls only reads, as read=PERCENT
    #[arg(long, value_name = "read=PERCENT", default_value = "read=0", value_parser = read_share)]
    mix: u32,
    /// How long is measured
    #[arg(long, default_value = "10s", value_parser = amount::duration)]
    duration: Duration,
    /// How long the same load runs before that
    #[arg(long, default_value = "2s", value_parser = amount::duration)]
    warm_up: Duration,
    /// As one line of JSON
    #[arg(long)]
    json: bool,
}

fn read_share(text: &str) -> Result<u32, String> {
    let percent = text.strip_prefix("read=").and_then(|percent| percent.parse().ok());
    percent.filter(|percent| *percent <= 100).ok_or_else(|| "must be read=0 to read=100".into())
}

/// What was counted.
struct Tally {
    /// Microseconds of each put while it was measured.
    puts: Histogram<u64>,
    /// The same of reads.
    reads: Histogram<u64>,
    errors: u64,
    /// All calls, also those that made the keys and those of the warm-up.
    calls: u64,
    /// CPU seconds of this process for all of them.
    cpu: f64,
    /// The first error.
    problem: Option<String>,
}

impl Tally {
    fn new() -> anyhow::Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, 600_000_000, 3);
        Ok(Self { puts: histogram()?, reads: histogram()?, errors: 0, calls: 0, cpu: 0.0, problem: None })
    }

    fn count(&mut self, ticket: Ticket, answer: Result<(), String>, now: Duration) {
        if let Err(problem) = answer {
            self.errors += 1;
            self.problem.get_or_insert(problem);
            return;
        }
        let took = now.saturating_sub(ticket.called).as_micros();
        let histogram = if ticket.is_read { &mut self.reads } else { &mut self.puts };
        histogram.saturating_record(u64::try_from(took).unwrap_or(u64::MAX).max(1));
    }
}

impl Puts {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let tally = with_tasks(async |tasks| self.measure(tasks).await)?;
        if self.json {
            println!("{}", self.json(&tally));
        } else {
            self.report(&tally);
        }
        match tally.problem {
            Some(problem) => bail!("{} failed, the first of them: {problem}", table::count(tally.errors, "call")),
            None => Ok(()),
        }
    }

    async fn measure(&self, tasks: &Tasks) -> anyhow::Result<Tally> {
        let clients = self.clients as usize;
        let meter = Meter::new(&[]);
        let before = meter.read();
        let (tally, ready) = (Arc::new(Mutex::new(Tally::new()?)), Arc::new(Barrier::new(clients)));
        let mut running = tokio::task::JoinSet::new();
        for number in 0..clients {
            let client = Client::connect(self.target, &self.servers.from(number), tasks).await?;
            let share = Share { args: self.clone(), number, tally: Arc::clone(&tally), clock: SystemClock::default() };
            running.spawn(share.run(client, Arc::clone(&ready)));
        }
        // A client that fails leaves the others waiting at the barrier; dropping the set ends them.
        while let Some(ended) = running.join_next().await {
            ended.map_err(|panicked| anyhow!("a client panicked: {panicked}"))??;
        }
        let mut tally = Arc::into_inner(tally).context("a client goes on")?.into_inner();
        tally.cpu = meter.read().since(before).cpu;
        Ok(tally)
    }

    fn report(&self, tally: &Tally) {
        let Self { target, clients, in_flight, value_size, duration, .. } = self;
        println!(
            "{target:?}: {}, {in_flight} in flight each, {} values, {} s",
            table::count(u64::from(*clients), "client"),
            table::bytes(*value_size),
            duration.as_secs_f64()
        );
        for (name, histogram) in [("puts ", &tally.puts), ("reads", &tally.reads)] {
            if !histogram.is_empty() {
                println!("  {name}    {:.0}/s   {}", per_second(histogram.len(), *duration), quantiles(histogram));
            }
        }
        println!("  errors   {}", table::number(tally.errors));
        println!("  clients  {:.2} CPU seconds for {}", tally.cpu, table::count(tally.calls, "call"));
    }

    fn json(&self, tally: &Tally) -> serde_json::Value {
        let [put, read] = [&tally.puts, &tally.reads].map(|histogram| {
            let at = |quantile| quantile_micros(histogram, quantile);
            let rate = per_second(histogram.len(), self.duration);
            serde_json::json!({ "per_second": rate, "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999) })
        });
        serde_json::json!({
            "target": format!("{:?}", self.target).to_lowercase(), "servers": self.servers.servers.len(),
            "clients": self.clients, "in_flight": self.in_flight, "value_size": self.value_size,
            "seconds": self.duration.as_secs_f64(), "puts": put, "reads": read, "errors": tally.errors,
            "calls": tally.calls, "client_cpu_seconds": tally.cpu,
        })
    }
}

/// One client's part.
struct Share {
    args: Puts,
    number: usize,
    tally: Arc<Mutex<Tally>>,
    clock: SystemClock,
}

impl Share {
    async fn run(self, mut client: Client, ready: Arc<Barrier>) -> anyhow::Result<()> {
        let keys: Vec<String> = (self.number..self.args.keys.max(self.args.clients) as usize)
            .step_by(self.args.clients as usize)
            .map(|key| format!("bench-{key:07}"))
            .collect();
        let mut value = vec![0; usize::try_from(self.args.value_size)?];
        rand::fill(&mut value[..]);
        self.create(&mut client, &keys, &value).await?;
        ready.wait().await;
        self.load(&mut client, &keys, &mut value).await?;
        // Whoever is done waits for the others, so that all of them have the same company to the end.
        ready.wait().await;
        client.close().await
    }

    async fn create(&self, client: &mut Client, keys: &[String], value: &[u8]) -> anyhow::Result<()> {
        let ticket = Ticket { called: self.clock.monotonic(), is_read: false };
        for (number, key) in keys.iter().enumerate() {
            if number >= CREATING {
                client.answer().await?.1.map_err(|problem| anyhow!("cannot make a key: {problem}"))?;
            }
            client.call(Call::Create(key, value), ticket).await?;
        }
        for _ in 0..keys.len().min(CREATING) {
            client.answer().await?.1.map_err(|problem| anyhow!("cannot make a key: {problem}"))?;
        }
        self.tally.lock().calls += keys.len() as u64;
        Ok(())
    }

    async fn load(&self, client: &mut Client, keys: &[String], value: &mut [u8]) -> anyhow::Result<()> {
        let from = self.clock.monotonic() + self.args.warm_up;
        let to = from + self.args.duration;
        let (mut waiting, mut turn) = (0, rand::random_range(0..keys.len()));
        loop {
            let now = self.clock.monotonic();
            while now < to && waiting < self.args.in_flight {
                turn = (turn + 1) % keys.len();
                let is_read = rand::random_range(0..100) < self.args.mix;
                if let Some(first) = value.first_mut() {
                    // No two values in a row are the same, so that nobody can find out that nothing changes.
                    *first = first.wrapping_add(1);
                }
                let call = if is_read { Call::Get(&keys[turn]) } else { Call::Put(&keys[turn], value) };
                let ticket = Ticket { called: self.clock.monotonic(), is_read: call.is_read() };
                client.call(call, ticket).await?;
                waiting += 1;
            }
            if waiting == 0 {
                return Ok(());
            }
            let (ticket, answer) = client.answer().await?;
            waiting -= 1;
            let now = self.clock.monotonic();
            let mut tally = self.tally.lock();
            tally.calls += 1;
            if answer.is_err() || (from..to).contains(&now) {
                tally.count(ticket, answer, now);
            }
        }
    }
}

#[cfg(test)]
mod tests;
