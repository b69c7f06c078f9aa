//! The layers of configuration and their merging: default, file, environment, flags. Owns precedence and the refusal of
//! unknown keys; never interprets a value beyond its type.

use super::{
    ConfigError, amount,
    key::{self, Key, Kind},
};
use protocol::settings::{
    StaticSettings,
    catalogue::{self, Scope},
};
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

/// What a variable of the environment that configures the server begins with; then come section and key.
const PREFIX: &str = "MAGNETAR_";

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Built in.
    Default,
    /// A file.
    File(PathBuf),
    /// A variable of the environment.
    Environment(String),
    /// The command line.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the defaults"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "the environment variable {name}"),
            Self::Flag(flag) => write!(f, "the flag {flag}"),
        }
    }
}

/// Values by path (`section.key`, `kafka.<Kafka's name>`), each with where it comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers {
    values: BTreeMap<String, (String, Source)>,
}

impl Layers {
    /// Takes a file's keys.
    ///
    /// # Errors
    /// Not readable, not TOML, an unknown key, or a value of the wrong type.
    pub fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|reason| ConfigError::Unreadable { path: path.into(), reason })?;
        self.toml(&text, path)
    }

    /// Takes the keys of TOML text that stands in `path`.
    ///
    /// # Errors
    /// Not TOML, an unknown key, or a value of the wrong type.
    pub fn toml(&mut self, text: &str, path: &Path) -> Result<(), ConfigError> {
        let not_toml = |problem: String| ConfigError::NotToml { path: path.into(), problem };
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| not_toml(e.to_string()))?;
        let mut leaves = Vec::new();
        flatten("", &table, &mut leaves).map_err(|name| {
            not_toml(format!("\"{name}\" is an array of something else than text and numbers, or a date"))
        })?;
        leaves.into_iter().try_for_each(|(name, value)| self.set(&name, value, Source::File(path.into())))
    }

    /// Takes the variables that begin with `MAGNETAR_` and a section: `MAGNETAR_NODE_DATA_DIR`,
    /// `MAGNETAR_KAFKA_NUM_PARTITIONS`. Other variables are left alone.
    ///
    /// # Errors
    /// An unknown key in a known section, or a value of the wrong type.
    pub fn environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) -> Result<(), ConfigError> {
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            let Some((section, rest)) = rest.split_once('_') else { continue };
            let section = section.to_ascii_lowercase();
            if !key::SECTIONS.iter().any(|(known, _)| *known == section) {
                continue;
            }
            let wanted = format!("{section}.{}", rest.trim_start_matches('_').to_ascii_lowercase());
            let path = known_paths().find(|p| p.replace(['.', '-'], "_") == wanted.replace('.', "_"));
            let source = Source::Environment(name);
            match path {
                Some(path) => self.set(&path, value, source)?,
                None => {
                    let near = known_paths()
                        .map(|p| (strsim::osa_distance(&p.replace('.', "_"), &wanted.replace('.', "_")), p));
                    let nearest = near.min().filter(|(d, _)| *d <= 2.max(wanted.len() / 4)).map(|(_, p)| variable(&p));
                    return Err(ConfigError::Unknown { name: wanted, source_name: source.to_string(), nearest });
                }
            }
        }
        Ok(())
    }

    /// Takes one value; it counts more than what was taken before.
    ///
    /// # Errors
    /// An unknown key, or a value of the wrong type.
    pub fn set(&mut self, path: &str, value: String, source: Source) -> Result<(), ConfigError> {
        let source_name = source.to_string();
        match path.strip_prefix("kafka.") {
            Some(name) => {
                let checked = catalogue::require(Scope::Node, name).and_then(|row| row.check(&value));
                checked.map_err(|problem| ConfigError::Kafka { problem, source_name })?;
            }
            None => {
                let Some(known) = key::find(path) else { return Err(unknown(path, source_name)) };
                check(known, &value).map_err(|reason| ConfigError::Invalid {
                    name: path.into(),
                    value: value.clone(),
                    source_name,
                    reason,
                })?;
            }
        }
        self.values.insert(path.into(), (value, source));
        Ok(())
    }

    /// The value of one of Magnetar's own keys.
    #[must_use]
    pub fn value(&self, path: &str) -> &str {
        let default = || key::find(path).map_or("", |key| key.default);
        self.values.get(path).map_or_else(default, |(value, _)| value)
    }

    /// The value of a key whose default is "not set"; none if it is not.
    #[must_use]
    pub fn given(&self, path: &str) -> Option<&str> {
        Some(self.value(path)).filter(|value| !value.is_empty())
    }

    /// Where the value of a key comes from.
    #[must_use]
    pub fn source(&self, path: &str) -> Source {
        self.values.get(path).map_or(Source::Default, |(_, source)| source.clone())
    }

    /// Everything that was set: path, value, source.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &Source)> {
        self.values.iter().map(|(path, (value, source))| (path.as_str(), value.as_str(), source))
    }

    pub(super) fn kafka(&self) -> Result<StaticSettings, ConfigError> {
        let set = self
            .values
            .iter()
            .filter_map(|(path, (value, _))| Some((path.strip_prefix("kafka.")?.to_string(), value.clone())));
        StaticSettings::parse(set)
            .map_err(|problem| ConfigError::Kafka { problem, source_name: "the configuration".into() })
    }

    pub(super) fn path(&self, path: &str) -> Result<Option<PathBuf>, ConfigError> {
        let value = self.value(path);
        if let Some(below) = value.strip_prefix("~/") {
            let home = std::env::var_os("HOME").map(PathBuf::from).ok_or(ConfigError::NoHome)?;
            return Ok(Some(home.join(below)));
        }
        Ok(Some(value).filter(|v| !v.is_empty()).map(PathBuf::from))
    }

    pub(super) fn number<T: FromStr>(&self, path: &str) -> Result<T, ConfigError> {
        self.value(path).trim().parse().map_err(|_| self.invalid(path, "the number is too large"))
    }

    /// The number of a metadata node, 1 or more, if one is set.
    pub(super) fn metadata_id(&self) -> Result<Option<u64>, ConfigError> {
        let Some(text) = self.given("metadata.id") else { return Ok(None) };
        match text.trim().parse() {
            Ok(id) if id > 0 => Ok(Some(id)),
            _ => Err(self.invalid("metadata.id", "it is a number from 1 on, or empty")),
        }
    }

    pub(super) fn size(&self, path: &str) -> Result<u64, ConfigError> {
        amount::size(self.value(path)).map_err(|reason| self.invalid(path, &reason))
    }

    pub(super) fn memory(&self, path: &str) -> Result<usize, ConfigError> {
        usize::try_from(self.size(path)?).map_err(|_| self.invalid(path, "more than this machine can address"))
    }

    pub(super) fn duration(&self, path: &str) -> Result<Duration, ConfigError> {
        amount::duration(self.value(path)).map_err(|reason| self.invalid(path, &reason))
    }

    fn invalid(&self, path: &str, reason: &str) -> ConfigError {
        ConfigError::Invalid {
            name: path.into(),
            value: self.value(path).into(),
            source_name: self.source(path).to_string(),
            reason: reason.into(),
        }
    }
}

/// The environment variable of a path.
#[must_use]
pub fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace(['.', '-'], "_").to_ascii_uppercase())
}

fn known_paths() -> impl Iterator<Item = String> {
    let ours = key::KEYS.iter().map(|key| key.path.to_string());
    ours.chain(catalogue::rows(Scope::Node).iter().map(|row| format!("kafka.{}", row.name)))
}

fn unknown(path: &str, source_name: String) -> ConfigError {
    // A Kafka setting at the top of the file, or in a section of ours, is a likely mistake.
    let misplaced = [Some(path), path.split_once('.').map(|(_, name)| name)];
    let kafka = misplaced.into_iter().flatten().find(|name| catalogue::find(Scope::Node, name).is_some());
    let nearest = key::nearest(path).map(Into::into).or_else(|| kafka.map(|name| format!("[kafka] \"{name}\"")));
    ConfigError::Unknown { name: path.into(), source_name, nearest }
}

fn check(key: &Key, value: &str) -> Result<(), String> {
    match key.kind {
        Kind::Number => value.trim().parse::<u64>().map(drop).map_err(|_| "must be a whole number, 0 or more".into()),
        Kind::Size if value.is_empty() && key.default.is_empty() => Ok(()),
        Kind::Size => amount::size(value).map(drop),
        Kind::Duration => amount::duration(value).map(drop),
        Kind::Address => super::Address::parse(value).map(drop).map_err(|e| e.to_string()),
        Kind::Path | Kind::Text => Ok(()),
        Kind::Words(words) if words.contains(&value) => Ok(()),
        Kind::Words(words) => Err(format!("must be one of {}", words.join(", "))),
    }
}

/// The leaves of a table with their dotted paths. Kafka's names may so stand quoted or, as TOML nests them, bare.
fn flatten(prefix: &str, table: &toml::Table, leaves: &mut Vec<(String, String)>) -> Result<(), String> {
    for (name, value) in table {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(inner) => flatten(&path, inner, leaves)?,
            toml::Value::Array(items) => {
                let words: Option<Vec<String>> = items.iter().map(scalar).collect();
                leaves.push((path.clone(), words.ok_or(path)?.join(",")));
            }
            scalar_value => leaves.push((path.clone(), scalar(scalar_value).ok_or(path)?)),
        }
    }
    Ok(())
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => None,
    }
}
