//! The table of settings: one row each. Owns names, types, defaults, ranges and documentation, and the check of a value
//! against its row.
//!
//! Nothing else in the tree knows a default or a range. Never holds a value that somebody set: the layers are in
//! [`super::StaticSettings`]. Rows are Kafka's (as of 4.1), under Kafka's names; where Magnetar has no use for one, its
//! documentation says so.

mod node;
mod topic;

use super::SettingsError;

/// Whose setting a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A node's.
    Node,
    /// A topic's.
    Topic,
}

/// The type of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// Text.
    Text,
    /// A 32-bit integer.
    Int,
    /// A 16-bit integer.
    Short,
    /// A 64-bit integer.
    Long,
    /// A floating point number.
    Double,
    /// Words separated by commas.
    List,
}

impl Kind {
    /// Kafka's code of the type, as DescribeConfigs sends it (KIP-569).
    #[must_use]
    pub const fn code(self) -> i8 {
        match self {
            Self::Bool => 1,
            Self::Text => 2,
            Self::Int => 3,
            Self::Short => 4,
            Self::Long => 5,
            Self::Double => 6,
            Self::List => 7,
        }
    }
}

/// Which values of its type a setting takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Valid {
    /// All of them.
    Any,
    /// Numbers from the first to the second, both included.
    Between(i64, i64),
    /// One of these words; for a list, every item is one of them.
    Words(&'static [&'static str]),
}

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// Kafka's name of it.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The built-in value; none if Kafka's is null.
    pub default: Option<&'static str>,
    /// Which values are legal.
    pub valid: Valid,
    /// Whether it can be changed through the protocol while nodes run. Topic settings always can.
    pub dynamic: bool,
    /// Node settings that a topic's default comes from, the one that counts most first, each with the factor from its
    /// unit to this row's.
    pub from: &'static [(&'static str, i64)],
    /// What it does.
    pub doc: &'static str,
}

impl Row {
    const fn new(name: &'static str, kind: Kind, default: Option<&'static str>, doc: &'static str) -> Self {
        Self { name, kind, default, valid: Valid::Any, dynamic: false, from: &[], doc }
    }

    const fn between(mut self, least: i64, most: i64) -> Self {
        self.valid = Valid::Between(least, most);
        self
    }

    const fn least(self, least: i64) -> Self {
        self.between(least, i64::MAX)
    }

    const fn words(mut self, words: &'static [&'static str]) -> Self {
        self.valid = Valid::Words(words);
        self
    }

    const fn dynamic(mut self) -> Self {
        self.dynamic = true;
        self
    }

    const fn from(mut self, from: &'static [(&'static str, i64)]) -> Self {
        self.from = from;
        self
    }

    /// Checks a value against the type and the range of the setting.
    ///
    /// # Errors
    /// [`SettingsError::Invalid`], with what would be valid.
    pub fn check(&self, value: &str) -> Result<(), SettingsError> {
        let value = value.trim();
        let problem = match self.kind {
            Kind::Bool => (!matches!(value, "true" | "false")).then(|| "must be true or false".to_string()),
            Kind::Text => self.check_words(std::iter::once(value)),
            Kind::List if matches!(self.valid, Valid::Words(_)) && items(value).next().is_none() => {
                Some("must name at least one item".into())
            }
            Kind::List => self.check_words(items(value)),
            Kind::Int => self.check_integer(value, i64::from(i32::MIN), i64::from(i32::MAX)),
            Kind::Short => self.check_integer(value, i64::from(i16::MIN), i64::from(i16::MAX)),
            Kind::Long => self.check_integer(value, i64::MIN, i64::MAX),
            Kind::Double => self.check_fraction(value),
        };
        match problem {
            None => Ok(()),
            Some(reason) => Err(SettingsError::Invalid { name: self.name.into(), value: value.into(), reason }),
        }
    }

    fn check_words<'a>(&self, mut words: impl Iterator<Item = &'a str>) -> Option<String> {
        let Valid::Words(known) = self.valid else { return None };
        let bad = words.any(|w| !known.contains(&w));
        bad.then(|| {
            let what = if self.kind == Kind::List { "every item must be one of" } else { "must be one of" };
            format!("{what} {}", known.join(", "))
        })
    }

    fn check_integer(&self, value: &str, least: i64, most: i64) -> Option<String> {
        let (least, most) = match self.valid {
            Valid::Between(l, m) => (l.max(least), m.min(most)),
            Valid::Any | Valid::Words(_) => (least, most),
        };
        match value.parse::<i64>() {
            Ok(number) if (least..=most).contains(&number) => None,
            Ok(number) if number < least => Some(format!("must be at least {least}")),
            Ok(_) => Some(format!("must be at most {most}")),
            Err(_) => Some(format!("must be a whole number between {least} and {most}")),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "ranges of fractions are small whole numbers")]
    fn check_fraction(&self, value: &str) -> Option<String> {
        let number = value.parse::<f64>().ok().filter(|n| n.is_finite());
        match (number, self.valid) {
            (None, _) => Some("must be a number".into()),
            (Some(n), Valid::Between(least, most)) if n < least as f64 || n > most as f64 => {
                Some(format!("must be between {least} and {most}"))
            }
            (Some(_), _) => None,
        }
    }
}

/// All settings of a scope, ordered by name.
#[must_use]
pub const fn rows(scope: Scope) -> &'static [Row] {
    match scope {
        Scope::Node => node::ROWS,
        Scope::Topic => topic::ROWS,
    }
}

/// The row of this name.
#[must_use]
pub fn find(scope: Scope, name: &str) -> Option<&'static Row> {
    let rows = rows(scope);
    rows.binary_search_by(|row| row.name.cmp(name)).ok().map(|at| &rows[at])
}

/// The row of this name, or an error that names the most similar one.
///
/// # Errors
/// [`SettingsError::Unknown`].
pub fn require(scope: Scope, name: &str) -> Result<&'static Row, SettingsError> {
    find(scope, name).ok_or_else(|| SettingsError::Unknown { name: name.into(), nearest: nearest(scope, name) })
}

/// The known name most similar to a mistyped one; none if nothing is similar.
#[must_use]
pub fn nearest(scope: Scope, name: &str) -> Option<&'static str> {
    let near = rows(scope).iter().map(|row| (strsim::osa_distance(row.name, name), row.name)).min()?;
    (near.0 <= 2.max(name.len() / 4)).then_some(near.1)
}

/// The items of a list, without blanks around them and without empty ones.
pub fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_complete_and_consistent() {
        for scope in [Scope::Node, Scope::Topic] {
            let names: Vec<&str> = rows(scope).iter().map(|r| r.name).collect();
            let mut sorted = names.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(names, sorted, "rows are ordered by name and unique, for the binary search");
            for row in rows(scope) {
                assert!(row.doc.len() > 20 && row.doc.ends_with('.'), "{} lacks documentation", row.name);
                if let Some(default) = row.default {
                    assert_eq!(row.check(default), Ok(()), "the default of {} is legal", row.name);
                }
            }
        }
        for row in rows(Scope::Topic) {
            assert!(row.dynamic, "{} can be changed while nodes run", row.name);
            for (name, factor) in row.from {
                let source = find(Scope::Node, name).expect("a node setting");
                assert!(
                    source.kind == row.kind || *factor > 1 || source.kind == Kind::Int,
                    "{name} feeds {}",
                    row.name
                );
                if *factor == 1 {
                    assert!(source.default.is_none() || source.default == row.default, "{} vs {name}", row.name);
                }
            }
        }
    }

    #[test]
    fn values_are_checked_by_type_and_range() {
        let reason = |name: &str, value: &str| match find(Scope::Node, name).expect("known").check(value) {
            Err(SettingsError::Invalid { reason, .. }) => reason,
            other => panic!("{name}={value} gave {other:?}"),
        };
        assert_eq!(reason("num.partitions", "0"), "must be at least 1");
        assert_eq!(reason("num.partitions", "many"), "must be a whole number between 1 and 2147483647");
        assert_eq!(reason("num.partitions", "99999999999"), "must be at most 2147483647");
        assert_eq!(reason("auto.create.topics.enable", "yes"), "must be true or false");
        assert_eq!(reason("log.message.timestamp.type", "x"), "must be one of CreateTime, LogAppendTime");
        assert_eq!(reason("log.cleanup.policy", "delete,burn"), "every item must be one of compact, delete");
        assert_eq!(reason("log.cleaner.min.cleanable.ratio", "1.5"), "must be between 0 and 1");
        assert_eq!(reason("log.cleaner.min.cleanable.ratio", "NaN"), "must be a number");
        assert_eq!(reason("log.cleanup.policy", " ,"), "must name at least one item");
        let policy = find(Scope::Topic, "cleanup.policy").expect("known");
        assert_eq!(policy.check(" compact , delete "), Ok(()));
    }

    #[test]
    fn a_mistyped_name_finds_the_nearest() {
        assert_eq!(nearest(Scope::Node, "num.partition"), Some("num.partitions"));
        assert_eq!(nearest(Scope::Node, "auto.create.topic.enabled"), Some("auto.create.topics.enable"));
        assert_eq!(nearest(Scope::Topic, "retention.msec"), Some("retention.ms"));
        assert_eq!(nearest(Scope::Node, "completely-different"), None);
    }
}
