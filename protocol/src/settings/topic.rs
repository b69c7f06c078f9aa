//! Settings of a topic, typed. Owns what Magnetar acts on; the rest of Kafka's topic settings is accepted, checked and
//! reported through the catalogue.

use super::{
    SettingsError,
    catalogue::{self, Scope},
};
use std::{collections::BTreeMap, time::Duration};

/// `cleanup.policy`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Whether old ledgers are dropped.
    pub delete: bool,
    /// Whether only the last record of each key is kept.
    pub compact: bool,
}

/// `message.timestamp.type`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The broker's.
    LogAppendTime,
}

/// The effective settings of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSettings {
    /// `cleanup.policy`
    pub cleanup: CleanupPolicy,
    /// `retention.ms`; none is for ever.
    pub retention: Option<Duration>,
    /// `retention.bytes`; none is without limit.
    pub retention_bytes: Option<u64>,
    /// `segment.bytes`: a ledger rolls at this size.
    pub segment_bytes: u64,
    /// `segment.ms`: a ledger rolls at this age.
    pub segment_age: Duration,
    /// `max.message.bytes`: the largest record batch, as sent.
    pub max_message_bytes: u32,
    /// `min.insync.replicas`
    pub min_insync: u8,
    /// `message.timestamp.type`
    pub timestamps: TimestampType,
    /// `message.timestamp.before.max.ms`; none is without limit.
    pub timestamp_before_max: Option<Duration>,
    /// `message.timestamp.after.max.ms`; none is without limit.
    pub timestamp_after_max: Option<Duration>,
}

impl TopicSettings {
    /// Checks what somebody wants to set on a topic.
    ///
    /// # Errors
    /// The first setting that is unknown, or whose value is not of its type or range.
    pub fn check(overrides: &BTreeMap<String, String>) -> Result<(), SettingsError> {
        overrides.iter().try_for_each(|(name, value)| catalogue::require(Scope::Topic, name)?.check(value))
    }

    /// The settings of a topic on which `overrides` were set; `self` is what topics get that say nothing. A value that
    /// the catalogue refuses counts as not set: it may come from a newer version.
    #[must_use]
    pub fn resolve(&self, overrides: &BTreeMap<String, String>) -> Self {
        let mut settings = self.clone();
        for (name, value) in overrides {
            settings.set(name, value);
        }
        settings
    }

    /// The settings that `value` gives to every topic setting; each must have one.
    pub(super) fn from_defaults(value: impl Fn(&'static str) -> Option<String>) -> Self {
        let mut settings = Self::unset();
        for row in catalogue::rows(Scope::Topic) {
            if let Some(value) = value(row.name) {
                settings.set(row.name, &value);
            }
        }
        settings
    }

    /// What is left when no row of the catalogue says anything; every row has a default, so none of this shows.
    const fn unset() -> Self {
        Self {
            cleanup: CleanupPolicy { delete: true, compact: false },
            retention: None,
            retention_bytes: None,
            segment_bytes: 1 << 30,
            segment_age: Duration::MAX,
            max_message_bytes: 0,
            min_insync: 1,
            timestamps: TimestampType::CreateTime,
            timestamp_before_max: None,
            timestamp_after_max: None,
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        if catalogue::find(Scope::Topic, name).is_none_or(|row| row.check(value).is_err()) {
            return;
        }
        let value = value.trim();
        match name {
            "cleanup.policy" => self.cleanup = CleanupPolicy::parse(value),
            "retention.ms" => self.retention = unless_negative(value).map(Duration::from_millis),
            "retention.bytes" => self.retention_bytes = unless_negative(value),
            "segment.bytes" => assign(&mut self.segment_bytes, value),
            "segment.ms" => self.segment_age = unless_negative(value).map_or(Duration::MAX, Duration::from_millis),
            "max.message.bytes" => assign(&mut self.max_message_bytes, value),
            "min.insync.replicas" => assign(&mut self.min_insync, value),
            "message.timestamp.type" => self.timestamps = TimestampType::parse(value),
            "message.timestamp.before.max.ms" => self.timestamp_before_max = unless_unlimited(value),
            "message.timestamp.after.max.ms" => self.timestamp_after_max = unless_unlimited(value),
            _ => {}
        }
    }
}

impl CleanupPolicy {
    fn parse(value: &str) -> Self {
        let holds = |word| catalogue::items(value).any(|item| item == word);
        Self { delete: holds("delete"), compact: holds("compact") }
    }
}

impl TimestampType {
    fn parse(value: &str) -> Self {
        if value == "LogAppendTime" { Self::LogAppendTime } else { Self::CreateTime }
    }
}

/// Takes a value that the catalogue found legal.
fn assign<T: std::str::FromStr>(field: &mut T, value: &str) {
    if let Ok(parsed) = value.parse() {
        *field = parsed;
    }
}

/// A number of which Kafka says that -1 is "no limit".
fn unless_negative(value: &str) -> Option<u64> {
    value.parse::<i64>().ok().and_then(|n| u64::try_from(n).ok())
}

/// Milliseconds of which Kafka says that the largest number is "no limit".
fn unless_unlimited(value: &str) -> Option<Duration> {
    unless_negative(value).filter(|n| *n < i64::MAX as u64).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::BrokerSettings;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect()
    }

    #[test]
    fn defaults_are_kafkas() {
        let defaults = BrokerSettings::default().topic_defaults;
        let expected = TopicSettings {
            cleanup: CleanupPolicy { delete: true, compact: false },
            retention: Some(Duration::from_secs(168 * 3600)),
            retention_bytes: None,
            segment_bytes: 1 << 30,
            segment_age: Duration::from_secs(168 * 3600),
            max_message_bytes: 1_048_588,
            min_insync: 1,
            timestamps: TimestampType::CreateTime,
            timestamp_before_max: None,
            timestamp_after_max: Some(Duration::from_secs(3600)),
        };
        assert_eq!(defaults, expected);
    }

    #[test]
    fn overrides_win_and_unlimited_is_none() {
        let defaults = BrokerSettings::default().topic_defaults;
        let settings = defaults.resolve(&map(&[
            ("cleanup.policy", "compact,delete"),
            ("retention.ms", "-1"),
            ("retention.bytes", "1000"),
            ("message.timestamp.type", "LogAppendTime"),
            ("segment.ms", "60000"),
            ("max.message.bytes", "200000000"),
        ]));
        assert_eq!(settings.cleanup, CleanupPolicy { delete: true, compact: true });
        assert_eq!((settings.retention, settings.retention_bytes), (None, Some(1000)));
        assert_eq!(settings.timestamps, TimestampType::LogAppendTime);
        assert_eq!(settings.segment_age, Duration::from_secs(60));
        assert_eq!(settings.max_message_bytes, 200_000_000);
        assert_eq!(settings.min_insync, defaults.min_insync);
    }

    #[test]
    fn what_is_stored_but_not_understood_counts_as_unset() {
        let defaults = BrokerSettings::default().topic_defaults;
        assert_eq!(defaults.resolve(&map(&[("retention.ms", "soon"), ("of.the.future", "1")])), defaults);
    }

    #[test]
    fn check_refuses_unknown_names_and_bad_values() {
        assert_eq!(TopicSettings::check(&map(&[("retention.ms", "1000"), ("flush.ms", "1")])), Ok(()));
        let unknown = TopicSettings::check(&map(&[("retention.mss", "1")])).expect_err("unknown");
        assert_eq!(unknown.to_string(), "unknown setting \"retention.mss\"; did you mean \"retention.ms\"?");
        let bad = TopicSettings::check(&map(&[("retention.ms", "-2")])).expect_err("out of range");
        assert_eq!(bad.to_string(), "invalid value \"-2\" for retention.ms: must be at least -1");
        assert!(TopicSettings::check(&map(&[("num.partitions", "3")])).is_err(), "a node's setting is not a topic's");
    }
}
