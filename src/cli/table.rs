//! How commands print: plain aligned tables for people, numbers with separators, sizes with units. Owns the look only.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// Prints rows below their heads; columns whose head is in `right` are aligned to the right.
pub fn print(heads: &[&str], right: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    println!("{}", render(heads, right, rows));
}

/// The same as text, without a newline at its end.
#[must_use]
pub fn render(heads: &[&str], right: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heads.iter().copied()).add_rows(rows);
    for (at, head) in heads.iter().enumerate() {
        if let Some(column) = table.column_mut(at) {
            column.set_padding((0, 2));
            if right.contains(head) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.trim_fmt()
}

/// A whole number with separators: `1,234,567`.
#[must_use]
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with a unit: `1.5 MB` (decimal units, as disks and networks are sold).
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
pub fn bytes(n: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// A count with its noun: `1 record`, `2 records`.
#[must_use]
pub fn count(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", number(n), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_readable() {
        assert_eq!([number(0), number(999), number(1000), number(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([bytes(0), bytes(999), bytes(1_500_000)], ["0 B", "999 B", "1.5 MB"]);
        assert_eq!([count(1, "record"), count(2000, "record")], ["1 record", "2,000 records"]);
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_string(), "1".to_string()], vec!["longer".into(), "1,000".into()]];
        let text = render(&["TOPIC", "RECORDS"], &["RECORDS"], rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].ends_with("      1") && lines[2].ends_with("  1,000"), "{text}");
    }
}
