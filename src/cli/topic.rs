//! `magnetar topic`: creates, lists, describes and deletes topics. Owns the words and tables of these commands.

use super::{
    client::{Connection, PATIENCE, admin_options, explain, explain_code, name_and_value},
    offsets, table,
};
use anyhow::{anyhow, bail};
use clap::{Args, Subcommand};
use protocol::settings::TopicSettings;
use rdkafka::{
    admin::{ConfigSource, NewTopic, ResourceSpecifier, TopicReplication},
    consumer::{BaseConsumer, Consumer},
    error::RDKafkaErrorCode,
    metadata::MetadataTopic,
    types::RDKafkaRespErr,
};
use serde_json::json;

/// Creates, lists, describes and deletes topics.
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Create topics
    #[command(
        after_help = "Examples:\n  magnetar topic create orders\n  magnetar topic create orders --partitions 16 --set retention.ms=86400000\n  magnetar topic create state --set cleanup.policy=compact"
    )]
    Create(Create),
    /// List topics
    List(List),
    /// Show partitions, offsets and settings of topics
    Describe(Describe),
    /// Delete topics with everything in them
    Delete(Delete),
}

/// `topic create`
#[derive(Debug, Args)]
pub struct Create {
    /// The names
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// How many partitions; the server's num.partitions if not given
    #[arg(short, long)]
    pub partitions: Option<i32>,
    /// How many copies clients are told of; the server's default.replication.factor if not given
    #[arg(short, long)]
    pub replication_factor: Option<i32>,
    /// A setting of the topic, under Kafka's name; may be repeated
    #[arg(short, long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// The server to ask.
    #[command(flatten)]
    pub connection: Connection,
}

/// `topic list`
#[derive(Debug, Args)]
pub struct List {
    /// Also topics that the server keeps its own state in
    #[arg(long)]
    pub all: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The server to ask.
    #[command(flatten)]
    pub connection: Connection,
}

/// `topic describe`
#[derive(Debug, Args)]
pub struct Describe {
    /// The names
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Every setting, not only those that were set
    #[arg(long)]
    pub all: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The server to ask.
    #[command(flatten)]
    pub connection: Connection,
}

/// `topic delete`
#[derive(Debug, Args)]
pub struct Delete {
    /// The names
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// The server to ask.
    #[command(flatten)]
    pub connection: Connection,
}

impl TopicCommand {
    /// Does what was asked.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create(args) => args.run(),
            Self::List(args) => args.run(),
            Self::Describe(args) => args.run(),
            Self::Delete(args) => args.run(),
        }
    }
}

impl Create {
    fn run(self) -> anyhow::Result<()> {
        let settings = self.set.iter().map(|s| name_and_value(s)).collect::<Result<Vec<_>, _>>()?;
        let admin = self.connection.admin()?;
        let partitions = self.partitions.unwrap_or(-1);
        let copies = self.replication_factor.unwrap_or(-1);
        let topics: Vec<NewTopic<'_>> = self
            .names
            .iter()
            .map(|name| {
                let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(copies));
                settings.iter().fold(topic, |topic, (k, v)| topic.set(k, v))
            })
            .collect();
        let asked = admin.create_topics(&topics, &admin_options());
        let results = futures::executor::block_on(asked).map_err(|e| explain(&e))?;
        if results.iter().any(|r| matches!(r, Err((_, RDKafkaErrorCode::InvalidConfig)))) {
            // The client library drops the server's message; the same table says the same here.
            TopicSettings::check(&settings.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect())?;
        }
        report(results, "created")
    }
}

impl Delete {
    fn run(self) -> anyhow::Result<()> {
        let admin = self.connection.admin()?;
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let asked = admin.delete_topics(&names, &admin_options());
        report(futures::executor::block_on(asked).map_err(|e| explain(&e))?, "deleted")
    }
}

/// Says of each topic what became of it; fails if one was refused.
fn report(results: Vec<Result<String, (String, RDKafkaErrorCode)>>, done: &str) -> anyhow::Result<()> {
    let mut refused = Vec::new();
    for result in results {
        match result {
            Ok(name) => println!("{done} {name}"),
            Err((name, code)) => refused.push(format!("{name}: {}", explain_code(code))),
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(anyhow!(refused.join("\n"))) }
}

impl List {
    fn run(self) -> anyhow::Result<()> {
        let observer = self.connection.observer()?;
        let metadata = observer.fetch_metadata(None, PATIENCE).map_err(|e| explain(&e))?;
        let mut topics: Vec<&MetadataTopic> =
            metadata.topics().iter().filter(|t| self.all || !t.name().starts_with("__")).collect();
        topics.sort_by_key(|t| t.name());
        if self.json {
            let rows: Vec<_> =
                topics.iter().map(|t| json!({"topic": t.name(), "partitions": t.partitions().len()})).collect();
            println!("{}", serde_json::to_string_pretty(&rows)?);
        } else if topics.is_empty() {
            println!("no topics yet; create one with: magnetar topic create NAME");
        } else {
            let rows = topics.iter().map(|t| vec![t.name().to_string(), t.partitions().len().to_string()]);
            table::print(&["TOPIC", "PARTITIONS"], &["PARTITIONS"], rows);
        }
        Ok(())
    }
}

/// What `topic describe` says about a partition.
struct PartitionRow {
    index: i32,
    leader: i32,
    replicas: Vec<i32>,
    isr: Vec<i32>,
    range: Option<(i64, i64)>,
}

impl Describe {
    fn run(self) -> anyhow::Result<()> {
        let observer = self.connection.observer()?;
        let mut described = Vec::new();
        for name in &self.names {
            let partitions = partitions(&observer, name)?;
            let settings = self.settings(name)?;
            if self.json {
                described.push(as_json(name, &partitions, &settings));
            } else {
                print(name, &partitions, &settings);
            }
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&described)?);
        }
        Ok(())
    }

    /// Names and values of the settings, with whether they were set on the topic.
    fn settings(&self, name: &str) -> anyhow::Result<Vec<(String, String, bool)>> {
        let admin = self.connection.admin()?;
        let topic = [ResourceSpecifier::Topic(name)];
        let asked = admin.describe_configs(&topic, &admin_options());
        let resources = futures::executor::block_on(asked).map_err(|e| explain(&e))?;
        let mut found = Vec::new();
        for resource in resources {
            let resource = resource.map_err(|code| anyhow!("{name}: {}", explain_code(code)))?;
            for entry in resource.entries {
                let own = entry.source == ConfigSource::DynamicTopic;
                if own || self.all {
                    found.push((entry.name, entry.value.unwrap_or_default(), own));
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

fn partitions(observer: &BaseConsumer, name: &str) -> anyhow::Result<Vec<PartitionRow>> {
    let metadata = observer.fetch_metadata(Some(name), PATIENCE).map_err(|e| explain(&e))?;
    let Some(topic) = metadata.topics().first() else { bail!("{name}: the server did not answer for this topic") };
    if let Some(problem) = topic.error() {
        bail!("{name}: {}", explain_code(code(problem)));
    }
    let mut rows: Vec<PartitionRow> = topic
        .partitions()
        .iter()
        .map(|p| PartitionRow {
            index: p.id(),
            leader: p.leader(),
            replicas: p.replicas().to_vec(),
            isr: p.isr().to_vec(),
            range: offsets::range(observer, name, p.id()).ok(),
        })
        .collect();
    rows.sort_by_key(|p| p.index);
    Ok(rows)
}

fn code(problem: RDKafkaRespErr) -> RDKafkaErrorCode {
    problem.into()
}

fn as_json(name: &str, partitions: &[PartitionRow], settings: &[(String, String, bool)]) -> serde_json::Value {
    let partition = |p: &PartitionRow| {
        json!({
            "partition": p.index, "leader": p.leader, "replicas": p.replicas, "isr": p.isr,
            "start": p.range.map(|r| r.0), "end": p.range.map(|r| r.1),
        })
    };
    let settings: serde_json::Map<_, _> = settings.iter().map(|(k, v, _)| (k.clone(), json!(v))).collect();
    json!({"topic": name, "partitions": partitions.iter().map(partition).collect::<Vec<_>>(), "settings": settings})
}

fn print(name: &str, partitions: &[PartitionRow], settings: &[(String, String, bool)]) {
    let records: u64 = partitions.iter().filter_map(|p| p.range.map(|(start, end)| offsets::between(start, end))).sum();
    println!("{name}: {}, {}", table::count(partitions.len() as u64, "partition"), table::count(records, "record"));
    let list = |ids: &[i32]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let rows = partitions.iter().map(|p| {
        let (start, end) = p.range.unzip();
        let shown = |offset: Option<i64>| offset.map_or_else(|| "?".into(), |o| o.to_string());
        let owner = if p.leader < 0 { "none".into() } else { p.leader.to_string() };
        let held = p.range.map_or_else(|| "?".into(), |(s, e)| table::number(offsets::between(s, e)));
        vec![p.index.to_string(), owner, list(&p.replicas), list(&p.isr), shown(start), shown(end), held]
    });
    let heads = ["PARTITION", "LEADER", "REPLICAS", "ISR", "START", "END", "RECORDS"];
    table::print(&heads, &["PARTITION", "START", "END", "RECORDS"], rows);
    for (name, value, own) in settings {
        println!("  {name} = {value}{}", if *own { "" } else { "  (default)" });
    }
}
