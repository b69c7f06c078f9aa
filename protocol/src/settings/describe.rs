//! DescribeConfigs for a node and for a topic: every setting of the catalogue with value, source and synonyms. Owns how
//! settings are shown; never decides which value counts (the layers do).

use super::{
    StaticSettings,
    catalogue::{self, Row, Scope},
    node::Layers,
};
use crate::service::broker::{ConfigEntry, ConfigSource};
use std::collections::BTreeMap;

/// All settings of a node, given the dynamic settings of all nodes and of this one.
#[must_use]
pub fn describe_node(
    fixed: &StaticSettings,
    all: &BTreeMap<String, String>,
    node: &BTreeMap<String, String>,
) -> Vec<ConfigEntry> {
    let layers = Layers { fixed, all, node };
    catalogue::rows(Scope::Node).iter().map(|row| entry(row, synonyms_of_node(&layers, row), None)).collect()
}

/// All settings of a topic, given the node's settings behind them, which are in force there too, and what was set on
/// the topic.
#[must_use]
pub fn describe_topic(
    fixed: &StaticSettings,
    all: &BTreeMap<String, String>,
    node: &BTreeMap<String, String>,
    topic: &BTreeMap<String, String>,
) -> Vec<ConfigEntry> {
    let layers = Layers { fixed, all, node };
    let describe = |row: &'static Row| {
        let own = topic.get(row.name).filter(|v| row.check(v).is_ok());
        let mut synonyms: Vec<Synonym> =
            own.into_iter().map(|v| (row.name.into(), Some(v.clone()), ConfigSource::Topic)).collect();
        for (name, _) in row.from {
            synonyms.extend(catalogue::find(Scope::Node, name).into_iter().flat_map(|r| synonyms_of_node(&layers, r)));
        }
        // Of a topic the value is shown in the topic's unit, whatever the unit of the node setting it comes from.
        let value = own.cloned().or_else(|| layers.topic_default(row.name));
        entry(row, synonyms, Some(value))
    };
    catalogue::rows(Scope::Topic).iter().map(describe).collect()
}

/// A setting that a value could come from: its name, its value, and where that was set.
type Synonym = (String, Option<String>, ConfigSource);

fn synonyms_of_node(layers: &Layers<'_>, row: &'static Row) -> Vec<Synonym> {
    layers.of(row).map(|(value, source)| (row.name.into(), Some(value.into()), source)).collect()
}

/// The first synonym counts, unless `value` is given; its source is the source.
fn entry(row: &Row, synonyms: Vec<Synonym>, value: Option<Option<String>>) -> ConfigEntry {
    let first = synonyms.first();
    ConfigEntry {
        name: row.name.into(),
        value: value.unwrap_or_else(|| first.and_then(|(_, value, _)| value.clone())),
        source: first.map_or(ConfigSource::Default, |(_, _, source)| *source),
        read_only: !row.dynamic,
        kind: row.kind.code(),
        documentation: row.doc.into(),
        synonyms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect()
    }

    fn named<'a>(entries: &'a [ConfigEntry], name: &str) -> &'a ConfigEntry {
        entries.iter().find(|e| e.name == name).expect("described")
    }

    fn fixed(pairs: &[(&str, &str)]) -> StaticSettings {
        StaticSettings::parse(map(pairs)).expect("legal")
    }

    #[test]
    fn a_node_shows_every_setting_with_its_layers() {
        let settings = fixed(&[("log.segment.bytes", "1000"), ("num.partitions", "4")]);
        let entries = describe_node(&settings, &map(&[("log.segment.bytes", "2000")]), &BTreeMap::new());
        assert_eq!(entries.len(), catalogue::rows(Scope::Node).len());
        let size = named(&entries, "log.segment.bytes");
        assert_eq!((size.value.as_deref(), size.source), (Some("2000"), ConfigSource::DynamicDefault));
        assert_eq!((size.read_only, size.kind), (false, 3));
        let values: Vec<_> = size.synonyms.iter().map(|(_, v, s)| (v.as_deref().expect("set"), *s)).collect();
        assert_eq!(
            values,
            [
                ("2000", ConfigSource::DynamicDefault),
                ("1000", ConfigSource::Static),
                ("1073741824", ConfigSource::Default)
            ]
        );
        let partitions = named(&entries, "num.partitions");
        assert_eq!((partitions.value.as_deref(), partitions.read_only), (Some("4"), true));
        let unset = named(&entries, "log.retention.ms");
        assert_eq!((unset.value.as_deref(), unset.source), (None, ConfigSource::Default));
    }

    #[test]
    fn a_topic_shows_where_its_values_come_from() {
        let settings = fixed(&[("log.retention.hours", "2")]);
        let entries =
            describe_topic(&settings, &BTreeMap::new(), &BTreeMap::new(), &map(&[("cleanup.policy", "compact")]));
        assert_eq!(entries.len(), catalogue::rows(Scope::Topic).len());
        let retention = named(&entries, "retention.ms");
        assert_eq!((retention.value.as_deref(), retention.source), (Some("7200000"), ConfigSource::Static));
        assert_eq!(
            retention.synonyms.first(),
            Some(&("log.retention.hours".into(), Some("2".into()), ConfigSource::Static))
        );
        let policy = named(&entries, "cleanup.policy");
        assert_eq!((policy.value.as_deref(), policy.source), (Some("compact"), ConfigSource::Topic));
        assert_eq!(policy.synonyms.len(), 2, "its own value and the node's default");
        let size = named(&entries, "max.message.bytes");
        assert_eq!((size.value.as_deref(), size.source), (Some("1048588"), ConfigSource::Default));
        assert!(entries.iter().all(|e| !e.read_only), "topic settings can always be changed");
    }

    #[test]
    fn an_override_wins_over_every_node_setting() {
        let settings = fixed(&[("log.retention.ms", "5000")]);
        let all = map(&[("log.retention.ms", "6000")]);
        let entries = describe_topic(&settings, &all, &BTreeMap::new(), &map(&[("retention.ms", "7000")]));
        let retention = named(&entries, "retention.ms");
        assert_eq!((retention.value.as_deref(), retention.source), (Some("7000"), ConfigSource::Topic));
        let names: Vec<_> = retention.synonyms.iter().map(|(n, v, _)| (n.as_str(), v.as_deref())).collect();
        assert_eq!(
            names[..3],
            [("retention.ms", Some("7000")), ("log.retention.ms", Some("6000")), ("log.retention.ms", Some("5000")),]
        );
    }

    #[test]
    fn a_topic_shows_what_was_set_on_its_node() {
        let node = map(&[("message.max.bytes", "2000")]);
        let entries = describe_topic(&fixed(&[]), &BTreeMap::new(), &node, &BTreeMap::new());
        let size = named(&entries, "max.message.bytes");
        assert_eq!((size.value.as_deref(), size.source), (Some("2000"), ConfigSource::DynamicNode));
    }
}
