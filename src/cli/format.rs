//! How `magnetar consume` prints a record: a format such as `%p:%o %k %v\n`. Owns the grammar and its filling in; never
//! decides which records are printed.

use rdkafka::message::{Headers, Message};
use std::io::{self, Write};

/// What a format may hold, for help texts.
pub const GRAMMAR: &str =
    "%t topic, %p partition, %o offset, %d timestamp (ms), %k key, %v value, %h headers, %% percent; \\n \\t \\\\";

/// A part of a format.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    Value,
    Headers,
}

/// A format that has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format(Vec<Part>);

impl Format {
    /// Reads a format.
    ///
    /// # Errors
    /// What in it is not of the grammar.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let part = match c {
                '\\' => {
                    literal.push(match chars.next() {
                        Some('n') => '\n',
                        Some('t') => '\t',
                        Some('r') => '\r',
                        Some('0') => '\0',
                        Some('\\') | None => '\\',
                        Some(other) => return Err(format!("\\{other} means nothing here; there is {GRAMMAR}")),
                    });
                    continue;
                }
                '%' => match chars.next() {
                    Some('%') => {
                        literal.push('%');
                        continue;
                    }
                    Some('t') => Part::Topic,
                    Some('p') => Part::Partition,
                    Some('o') => Part::Offset,
                    Some('d') => Part::Timestamp,
                    Some('k') => Part::Key,
                    Some('v') => Part::Value,
                    Some('h') => Part::Headers,
                    Some(other) => return Err(format!("%{other} means nothing here; there is {GRAMMAR}")),
                    None => return Err(format!("a % at the end means nothing; there is {GRAMMAR}")),
                },
                other => {
                    literal.push(other);
                    continue;
                }
            };
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(part);
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self(parts))
    }

    /// Writes a record.
    ///
    /// # Errors
    /// The output is closed.
    pub fn write(&self, record: &impl Message, out: &mut impl Write) -> io::Result<()> {
        for part in &self.0 {
            match part {
                Part::Literal(text) => out.write_all(text.as_bytes())?,
                Part::Topic => out.write_all(record.topic().as_bytes())?,
                Part::Partition => write!(out, "{}", record.partition())?,
                Part::Offset => write!(out, "{}", record.offset())?,
                Part::Timestamp => write!(out, "{}", record.timestamp().to_millis().unwrap_or(-1))?,
                Part::Key => out.write_all(record.key().unwrap_or_default())?,
                Part::Value => out.write_all(record.payload().unwrap_or_default())?,
                Part::Headers => headers(record, out)?,
            }
        }
        Ok(())
    }
}

/// Headers as `name=value`, with commas between them.
fn headers(record: &impl Message, out: &mut impl Write) -> io::Result<()> {
    let Some(headers) = record.headers() else { return Ok(()) };
    for (at, header) in headers.iter().enumerate() {
        write!(out, "{}{}=", if at == 0 { "" } else { "," }, header.key)?;
        out.write_all(header.value.unwrap_or_default())?;
    }
    Ok(())
}

/// Writes a record as one line of JSON. What is not UTF-8 is shown with replacement characters.
///
/// # Errors
/// The output is closed.
pub fn json(record: &impl Message, out: &mut impl Write) -> io::Result<()> {
    let text = |bytes: Option<&[u8]>| bytes.map(|b| String::from_utf8_lossy(b).into_owned());
    let headers: Vec<_> = record
        .headers()
        .into_iter()
        .flat_map(Headers::iter)
        .map(|h| serde_json::json!({"name": h.key, "value": text(h.value)}))
        .collect();
    let line = serde_json::json!({
        "topic": record.topic(),
        "partition": record.partition(),
        "offset": record.offset(),
        "timestamp": record.timestamp().to_millis(),
        "key": text(record.key()),
        "value": text(record.payload()),
        "headers": headers,
    });
    writeln!(out, "{line}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::message::{Header, OwnedHeaders, OwnedMessage, Timestamp};

    fn record() -> OwnedMessage {
        let headers = OwnedHeaders::new()
            .insert(Header { key: "a", value: Some("1") })
            .insert(Header { key: "b", value: None::<&str> });
        let (key, value) = (Some(b"key".to_vec()), Some(b"value".to_vec()));
        OwnedMessage::new(value, key, "orders".into(), Timestamp::CreateTime(99), 3, 42, Some(headers))
    }

    fn written(format: &str) -> String {
        let mut out = Vec::new();
        Format::parse(format).expect("legal").write(&record(), &mut out).expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn every_part_of_a_record_can_be_printed() {
        assert_eq!(written("%t/%p:%o %d %k=%v [%h]%%\\n"), "orders/3:42 99 key=value [a=1,b=]%\n");
        assert_eq!(written("plain"), "plain");
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for wrong in ["%x", "\\q", "50%"] {
            assert!(Format::parse(wrong).expect_err("refused").contains("%t topic"), "{wrong}");
        }
    }

    #[test]
    fn json_holds_everything() {
        let mut out = Vec::new();
        json(&record(), &mut out).expect("written");
        let line: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!((line["offset"].as_i64(), line["key"].as_str()), (Some(42), Some("key")));
        assert_eq!(line["headers"][1]["value"], serde_json::Value::Null);
    }
}
