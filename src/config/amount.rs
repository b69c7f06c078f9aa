//! Values with units: sizes (`64MiB`) and durations (`30s`). Owns their reading and nothing else.

use std::time::Duration;

/// Units of sizes, in bytes.
const SIZES: [(&str, u64); 11] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1000),
    ("mb", 1_000_000),
];

/// Units of durations, in milliseconds.
const TIMES: [(&str, u64); 6] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Bytes, from a whole number with or without a unit.
///
/// # Errors
/// What would be valid.
pub fn size(text: &str) -> Result<u64, String> {
    read(text, &SIZES).ok_or_else(|| "must be a size such as 512KiB, 64MiB or 2GiB".into())
}

/// A duration, from a whole number with a unit.
///
/// # Errors
/// What would be valid.
pub fn duration(text: &str) -> Result<Duration, String> {
    read(text, &TIMES).map(Duration::from_millis).ok_or_else(|| "must be a duration such as 500ms, 30s or 7d".into())
}

fn read(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.replace('_', "").parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_have_units() {
        let sizes = [("64MiB", 64 << 20), ("1 GiB", 1 << 30), ("512k", 512 << 10), ("1_000", 1000), ("5MB", 5_000_000)];
        for (text, bytes) in sizes {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        let times = [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("7d", 604_800_000)];
        for (text, millis) in times {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for wrong in ["", "MiB", "-1", "1.5GiB", "64 apples", "99999999999999999999", "20000000TiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "30", "s", "1 fortnight"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
