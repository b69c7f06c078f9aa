//! How values are shown: text as it is, records of the cluster model as JSON, anything else as hexadecimal. Owns the
//! guess; never changes a value.

use serde_json::Value;

/// The version byte that records of the cluster model begin with.
const RECORD: u8 = 1;

/// A value for people.
#[must_use]
pub(super) fn shown(value: &[u8]) -> String {
    if let Some((&RECORD, body)) = value.split_first()
        && let Ok(record) = rmp_serde::from_slice::<Value>(body)
        && record.is_object()
    {
        return record.to_string();
    }
    match std::str::from_utf8(value) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => text.into(),
        _ => value.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::model::{ConfigRecord, encode};

    #[test]
    fn text_records_and_bytes_are_told_apart() {
        assert_eq!(shown("grüß dich\n".as_bytes()), "grüß dich\n");
        assert_eq!(shown(b""), "");
        assert!(shown(&encode(&ConfigRecord::default())).starts_with('{'));
        assert_eq!(shown(&[1, 0xff, 0]), "01ff00");
    }
}
