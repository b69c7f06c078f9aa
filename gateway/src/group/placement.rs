//! Which partition of `__consumer_offsets` a group belongs to. Owns only that formula: gateways find a group's
//! coordinator with it, coordinators check that a group is theirs.

/// The partition of a group: Java's `String.hashCode` over UTF-16, made positive the way Kafka does, modulo the number
/// of partitions.
#[must_use]
pub fn partition_of(group: &str, partitions: u32) -> u32 {
    let hash = group.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    let positive = if hash == i32::MIN { 0 } else { hash.unsigned_abs() };
    positive % partitions.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_spread_as_by_kafka() {
        assert_eq!(partition_of("", 50), 0);
        assert_eq!(partition_of("a", 50), 97 % 50);
        assert_eq!(partition_of("hello", 50), 99_162_322 % 50);
        // A surrogate pair is two units, and the last word's hash is the one number without a positive counterpart.
        assert_eq!(partition_of("😀", 50), 1_772_899 % 50);
        assert_eq!(partition_of("polygenelubricants", 50), 0);
        assert_eq!(partition_of("consumer-group-1", 1), 0);
    }
}
