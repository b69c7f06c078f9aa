//! Settings of a node, typed. Owns the layers (default, static, dynamic for all nodes, dynamic for one); never reads a
//! file or the environment itself.
//!
//! Of one name the most specific layer counts: this node's, then all nodes', then what the node was started with, then
//! the default. Of several names for one thing (`log.retention.ms`, `.minutes`, `.hours`) the first that has a value
//! counts, in whatever layer, as in Kafka.

use super::{
    catalogue::{self, Row, Scope},
    topic::TopicSettings,
};
use crate::service::broker::ConfigSource;
use std::{collections::BTreeMap, str::FromStr, time::Duration};

/// What file, environment and flags said, under Kafka's names; checked against the catalogue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StaticSettings {
    values: BTreeMap<&'static str, String>,
}

/// Why a setting was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// No setting has this name.
    #[error("unknown setting \"{name}\"{}", nearest.map(|n| format!("; did you mean \"{n}\"?")).unwrap_or_default())]
    Unknown {
        /// The name.
        name: String,
        /// The most similar known name.
        nearest: Option<&'static str>,
    },
    /// The value is not of the setting's type or range.
    #[error("invalid value \"{value}\" for {name}: {reason}")]
    Invalid {
        /// The setting.
        name: String,
        /// The value.
        value: String,
        /// What would be valid.
        reason: String,
    },
    /// The setting is known, but fixed while the node runs.
    #[error("{name} cannot be changed while nodes run; set it where the node is started and start it again")]
    ReadOnly {
        /// The setting.
        name: String,
    },
}

/// The effective settings of a node, typed. Durations come from Kafka's `.ms`, `.minutes` and `.hours`.
#[derive(Debug, Clone, PartialEq)]
pub struct BrokerSettings {
    /// `num.partitions`
    pub num_partitions: u32,
    /// `default.replication.factor`
    pub default_replication_factor: u8,
    /// `auto.create.topics.enable`
    pub auto_create_topics: bool,
    /// `delete.topic.enable`
    pub delete_topics: bool,
    /// `socket.request.max.bytes`
    pub max_request_bytes: usize,
    /// `queued.max.request.bytes`, the budget of requests in memory; Magnetar bounds it by default. Never less than the
    /// largest request, or that one could never be read.
    pub queued_request_bytes: usize,
    /// `fetch.max.bytes`
    pub fetch_max_bytes: u32,
    /// `max.connections`
    pub max_connections: usize,
    /// `connections.max.idle.ms`; -1 is [`Duration::MAX`].
    pub connections_max_idle: Duration,
    /// `group.initial.rebalance.delay.ms`
    pub group_initial_rebalance_delay: Duration,
    /// `group.min.session.timeout.ms`
    pub group_min_session: Duration,
    /// `group.max.session.timeout.ms`
    pub group_max_session: Duration,
    /// `group.max.size`
    pub group_max_size: usize,
    /// `offsets.topic.num.partitions`
    pub offsets_partitions: u32,
    /// `offsets.topic.replication.factor`
    pub offsets_replication_factor: u8,
    /// `offsets.retention.minutes`
    pub offsets_retention: Duration,
    /// `offsets.retention.check.interval.ms`
    pub offsets_retention_check: Duration,
    /// `offset.metadata.max.bytes`
    pub offset_metadata_max: usize,
    /// `producer.id.expiration.ms`
    pub producer_expiration: Duration,
    /// `log.retention.check.interval.ms`
    pub retention_check: Duration,
    /// What topics get that do not say otherwise.
    pub topic_defaults: TopicSettings,
}

impl Default for BrokerSettings {
    /// The defaults of the catalogue.
    fn default() -> Self {
        StaticSettings::default().effective(&BTreeMap::new(), &BTreeMap::new())
    }
}

impl StaticSettings {
    /// Checks names and values; of a name that comes twice the last value counts.
    ///
    /// # Errors
    /// The first setting that is unknown, or whose value is not of its type or range.
    pub fn parse(settings: impl IntoIterator<Item = (String, String)>) -> Result<Self, SettingsError> {
        let mut values = BTreeMap::new();
        for (name, value) in settings {
            let row = catalogue::require(Scope::Node, &name)?;
            // The annotated defaults show Kafka's null as an empty value, so writing that down sets nothing.
            if value.trim().is_empty() && row.default.is_none() {
                continue;
            }
            row.check(&value)?;
            values.insert(row.name, value.trim().to_string());
        }
        Ok(Self { values })
    }

    /// What was set under this name; none if nothing was.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Everything that was set, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// What was set under this name, else its default; none if that is Kafka's null.
    #[must_use]
    pub fn get_or_default(&self, name: &str) -> Option<&str> {
        self.get(name).or_else(|| catalogue::find(Scope::Node, name).and_then(|row| row.default))
    }

    /// The settings that count, given the dynamic settings of all nodes and those of this one.
    #[must_use]
    pub fn effective(&self, all: &BTreeMap<String, String>, node: &BTreeMap<String, String>) -> BrokerSettings {
        let layers = Layers { fixed: self, all, node };
        let max_request_bytes = layers.number("socket.request.max.bytes");
        let queued = match layers.value("queued.max.request.bytes") {
            Some("-1") => default_number("queued.max.request.bytes"),
            _ => layers.number("queued.max.request.bytes"),
        };
        BrokerSettings {
            num_partitions: layers.number("num.partitions"),
            default_replication_factor: layers.number("default.replication.factor"),
            auto_create_topics: layers.number("auto.create.topics.enable"),
            delete_topics: layers.number("delete.topic.enable"),
            max_request_bytes,
            queued_request_bytes: max_request_bytes.max(queued),
            fetch_max_bytes: layers.number("fetch.max.bytes"),
            max_connections: layers.number("max.connections"),
            connections_max_idle: layers.millis("connections.max.idle.ms"),
            group_initial_rebalance_delay: layers.millis("group.initial.rebalance.delay.ms"),
            group_min_session: layers.millis("group.min.session.timeout.ms"),
            group_max_session: layers.millis("group.max.session.timeout.ms"),
            group_max_size: layers.number("group.max.size"),
            offsets_partitions: layers.number("offsets.topic.num.partitions"),
            offsets_replication_factor: layers.number("offsets.topic.replication.factor"),
            offsets_retention: Duration::from_secs(60 * layers.number::<u64>("offsets.retention.minutes")),
            offsets_retention_check: layers.millis("offsets.retention.check.interval.ms"),
            offset_metadata_max: layers.number("offset.metadata.max.bytes"),
            producer_expiration: layers.millis("producer.id.expiration.ms"),
            retention_check: layers.millis("log.retention.check.interval.ms"),
            topic_defaults: TopicSettings::from_defaults(|name| layers.topic_default(name)),
        }
    }
}

/// Checks a setting that somebody wants to change on running nodes.
///
/// # Errors
/// Unknown, read-only, or not of its type or range.
pub fn check_dynamic(name: &str, value: &str) -> Result<(), SettingsError> {
    let row = catalogue::require(Scope::Node, name)?;
    if !row.dynamic {
        return Err(SettingsError::ReadOnly { name: name.into() });
    }
    row.check(value)
}

/// The layers of a node's settings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layers<'a> {
    pub(super) fixed: &'a StaticSettings,
    pub(super) all: &'a BTreeMap<String, String>,
    pub(super) node: &'a BTreeMap<String, String>,
}

impl<'a> Layers<'a> {
    /// Every layer that says something about a setting, the one that counts first. A dynamic value that the catalogue
    /// refuses is passed over: it may come from a newer version.
    pub(super) fn of(&self, row: &'static Row) -> impl Iterator<Item = (&'a str, ConfigSource)> + use<'a> {
        let dynamic = |from: &'a BTreeMap<String, String>| {
            from.get(row.name).map(|v| v.trim()).filter(|v| row.dynamic && row.check(v).is_ok())
        };
        let layers = [
            (dynamic(self.node), ConfigSource::DynamicNode),
            (dynamic(self.all), ConfigSource::DynamicDefault),
            (self.fixed.get(row.name), ConfigSource::Static),
            (row.default, ConfigSource::Default),
        ];
        layers.into_iter().filter_map(|(value, source)| Some((value?, source)))
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        catalogue::find(Scope::Node, name).and_then(|row| self.of(row).next()).map(|(value, _)| value)
    }

    /// What a topic gets that does not set `name` itself, in the topic setting's unit.
    pub(super) fn topic_default(&self, name: &str) -> Option<String> {
        let row = catalogue::find(Scope::Topic, name)?;
        let inherited = row.from.iter().find_map(|(from, factor)| Some(scaled(self.value(from)?, *factor)));
        inherited.filter(|v| row.check(v).is_ok()).or_else(|| row.default.map(Into::into))
    }

    /// A number or a boolean that the catalogue has checked and has a default for.
    fn number<T: FromStr>(&self, name: &str) -> T {
        self.value(name).and_then(|v| v.parse().ok()).unwrap_or_else(|| default_number(name))
    }

    fn millis(&self, name: &str) -> Duration {
        self.value(name).and_then(|v| v.parse().ok()).map_or(Duration::MAX, Duration::from_millis)
    }
}

/// A value in a smaller unit; everything negative is Kafka's -1.
fn scaled(value: &str, factor: i64) -> String {
    match value.parse::<i64>() {
        Ok(number) if factor != 1 => if number < 0 { -1 } else { number.saturating_mul(factor) }.to_string(),
        _ => value.to_string(),
    }
}

fn default_number<T: FromStr>(name: &str) -> T {
    let value = catalogue::find(Scope::Node, name).and_then(|row| row.default).and_then(|v| v.parse().ok());
    value.expect("every typed setting has a default of its type; a test reads them all")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(pairs: &[(&str, &str)]) -> StaticSettings {
        StaticSettings::parse(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()))).expect("legal")
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect()
    }

    #[test]
    fn defaults_are_kafkas() {
        let defaults = BrokerSettings::default();
        assert_eq!((defaults.num_partitions, defaults.default_replication_factor), (1, 3));
        assert!(defaults.auto_create_topics && defaults.delete_topics);
        assert_eq!(defaults.max_request_bytes, 104_857_600);
        assert_eq!(defaults.queued_request_bytes, 256 << 20);
        assert_eq!(defaults.fetch_max_bytes, 57_671_680);
        assert_eq!(defaults.connections_max_idle, Duration::from_secs(600));
        assert_eq!(defaults.group_initial_rebalance_delay, Duration::from_secs(3));
        assert_eq!((defaults.group_min_session, defaults.group_max_session), (secs(6), secs(1800)));
        assert_eq!((defaults.offsets_partitions, defaults.offsets_replication_factor), (50, 3));
        assert_eq!(defaults.offsets_retention, secs(7 * 24 * 3600));
        assert_eq!(defaults.offset_metadata_max, 4096);
        assert_eq!(defaults.producer_expiration, secs(24 * 3600));
        assert_eq!(defaults.retention_check, secs(300));
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn unknown_names_and_bad_values_are_refused() {
        let parse = |k: &str, v: &str| StaticSettings::parse([(k.to_string(), v.to_string())]);
        let unknown = parse("num.partition", "3").expect_err("unknown");
        assert_eq!(unknown.to_string(), "unknown setting \"num.partition\"; did you mean \"num.partitions\"?");
        assert_eq!(parse("xyzzy", "3").expect_err("unknown").to_string(), "unknown setting \"xyzzy\"");
        assert!(matches!(parse("num.partitions", "x"), Err(SettingsError::Invalid { .. })));
        assert!(matches!(parse("retention.ms", "1"), Err(SettingsError::Unknown { .. })), "a topic's, not a node's");
        assert_eq!(fixed(&[("num.partitions", " 4 "), ("num.partitions", "5")]).get("num.partitions"), Some("5"));
        assert_eq!(fixed(&[("log.retention.ms", "")]).get("log.retention.ms"), None, "empty is null");
        assert!(matches!(parse("num.partitions", ""), Err(SettingsError::Invalid { .. })), "it has no null");
        assert_eq!(fixed(&[("node.id", "0")]).get("node.id"), Some("0"), "0 is a legal node id");
    }

    #[test]
    fn the_most_specific_layer_counts() {
        let start = fixed(&[("log.segment.bytes", "1000"), ("message.max.bytes", "2000")]);
        let size = |all: &[(&str, &str)], node: &[(&str, &str)]| {
            start.effective(&map(all), &map(node)).topic_defaults.segment_bytes
        };
        assert_eq!(size(&[], &[]), 1000);
        assert_eq!(size(&[("log.segment.bytes", "3000")], &[]), 3000);
        assert_eq!(size(&[("log.segment.bytes", "3000")], &[("log.segment.bytes", "4000")]), 4000);
        assert_eq!(size(&[("log.segment.bytes", "3000")], &[("log.segment.bytes", "broken")]), 3000);
        let read_only = map(&[("num.partitions", "9")]);
        assert_eq!(
            start.effective(&read_only, &read_only).num_partitions,
            1,
            "a read-only setting has no dynamic layer"
        );
    }

    #[test]
    fn retention_is_read_from_ms_then_minutes_then_hours() {
        let retention = |pairs: &[(&str, &str)]| {
            fixed(pairs).effective(&BTreeMap::new(), &BTreeMap::new()).topic_defaults.retention
        };
        assert_eq!(retention(&[("log.retention.hours", "1")]), Some(secs(3600)));
        assert_eq!(retention(&[("log.retention.hours", "1"), ("log.retention.minutes", "2")]), Some(secs(120)));
        let all = [("log.retention.hours", "1"), ("log.retention.minutes", "2"), ("log.retention.ms", "3000")];
        assert_eq!(retention(&all), Some(secs(3)));
        assert_eq!(retention(&[("log.retention.hours", "-1")]), None);
        assert_eq!(retention(&[("log.retention.ms", "-1"), ("log.retention.hours", "5")]), None);
        let roll = fixed(&[("log.roll.hours", "2")]).effective(&BTreeMap::new(), &BTreeMap::new());
        assert_eq!(roll.topic_defaults.segment_age, secs(7200));
    }

    #[test]
    fn the_request_budget_holds_the_largest_request_and_is_never_unbounded() {
        let budget =
            |pairs: &[(&str, &str)]| fixed(pairs).effective(&BTreeMap::new(), &BTreeMap::new()).queued_request_bytes;
        assert_eq!(budget(&[("queued.max.request.bytes", "-1")]), 256 << 20);
        assert_eq!(budget(&[("queued.max.request.bytes", "1000")]), 104_857_600);
        assert_eq!(budget(&[("socket.request.max.bytes", "500000000")]), 500_000_000);
    }

    #[test]
    fn idle_connections_can_be_kept_for_ever() {
        let kept = fixed(&[("connections.max.idle.ms", "-1")]).effective(&BTreeMap::new(), &BTreeMap::new());
        assert_eq!(kept.connections_max_idle, Duration::MAX);
    }

    #[test]
    fn only_dynamic_settings_change_while_nodes_run() {
        assert_eq!(check_dynamic("log.retention.ms", "1000"), Ok(()));
        assert!(matches!(check_dynamic("num.partitions", "3"), Err(SettingsError::ReadOnly { .. })));
        assert!(matches!(check_dynamic("log.retention.ms", "x"), Err(SettingsError::Invalid { .. })));
        assert!(matches!(check_dynamic("log.retention.msx", "1"), Err(SettingsError::Unknown { .. })));
    }
}
