//! The annotated defaults that `magnetar config` prints: every key with its documentation, as valid TOML in which
//! everything is commented out. Owns the layout of that text; the tables own its content.

use super::{
    key::{KEYS, Kind, SECTIONS},
    layers::variable,
};
use protocol::settings::catalogue::{self, Row, Scope, Valid};
use std::fmt::Write;

/// The longest line of documentation.
const WIDTH: usize = 110;

/// The text of a configuration file that changes nothing.
#[must_use]
pub fn defaults() -> String {
    let mut text = String::from(
        "# Magnetar: every key with its default. Remove the \"# \" in front of a line to change it.\n\
         # Precedence, rising: this file, environment variables, flags. A variable is MAGNETAR_<SECTION>_<KEY>,\n\
         # for example MAGNETAR_NODE_DATA_DIR or MAGNETAR_KAFKA_NUM_PARTITIONS.\n",
    );
    for (section, about) in SECTIONS {
        let _ = write!(text, "\n\n# {about}\n[{section}]\n");
        if section == "kafka" {
            catalogue::rows(Scope::Node).iter().for_each(|row| kafka(&mut text, row));
        }
        for key in KEYS.iter().filter(|key| key.path.split('.').next() == Some(section)) {
            let name = key.path.split_once('.').map_or(key.path, |(_, name)| name);
            paragraph(&mut text, key.doc);
            let value = if key.kind == Kind::Number { key.default.into() } else { quoted(key.default) };
            let _ = writeln!(text, "# {name} = {value}");
        }
    }
    text
}

/// The table of all keys for `docs/config.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(include_str!("introduction.md"));
    for (section, about) in SECTIONS {
        let _ = write!(text, "\n## `[{section}]`\n\n{about}\n");
        let keys: Vec<_> = KEYS.iter().filter(|key| key.path.split('.').next() == Some(section)).collect();
        if !keys.is_empty() {
            text.push_str("\n| key | default | environment | meaning |\n|---|---|---|---|\n");
        }
        for key in keys {
            let name = key.path.split_once('.').map_or(key.path, |(_, name)| name);
            let default = if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) };
            let _ = writeln!(text, "| `{name}` | {default} | `{}` | {} |", variable(key.path), cell(key.doc));
        }
        if section == "kafka" {
            rows(&mut text, Scope::Node);
        }
    }
    text.push_str("\n## Settings of a topic\n\nSet when a topic is created (`magnetar topic create NAME --set name=value`) or with `kafka-configs --alter`.\n");
    rows(&mut text, Scope::Topic);
    text
}

fn rows(text: &mut String, scope: Scope) {
    text.push_str("\n| setting | default | while nodes run | meaning |\n|---|---|---|---|\n");
    for row in catalogue::rows(scope) {
        let default = row.default.filter(|d| !d.is_empty()).map(|d| format!("`{d}`")).unwrap_or_default();
        let dynamic = if row.dynamic { "yes" } else { "" };
        let _ = writeln!(text, "| `{}` | {default} | {dynamic} | {} |", row.name, cell(&documented(row)));
    }
}

fn kafka(text: &mut String, row: &Row) {
    paragraph(text, &documented(row));
    let value = match row.default {
        Some(value) if value.parse::<f64>().is_ok() || matches!(value, "true" | "false") => value.to_string(),
        Some(value) => quoted(value),
        None => quoted(""),
    };
    let _ = writeln!(text, "# \"{}\" = {value}", row.name);
}

fn documented(row: &Row) -> String {
    match row.valid {
        Valid::Words(words) if words.len() > 1 => format!("{} One of: {}.", row.doc, words.join(", ")),
        _ => row.doc.into(),
    }
}

fn paragraph(text: &mut String, doc: &str) {
    text.push('\n');
    let mut line = String::from("##");
    for word in doc.split(' ') {
        if line.len() + word.len() >= WIDTH {
            let _ = writeln!(text, "{line}");
            line = "##".into();
        }
        let _ = write!(line, " {word}");
    }
    let _ = writeln!(text, "{line}");
}

fn quoted(value: &str) -> String {
    toml::Value::String(value.into()).to_string()
}

fn cell(doc: &str) -> String {
    doc.replace('|', "\\|").replace('<', "&lt;")
}
