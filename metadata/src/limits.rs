//! What is refused before it is proposed: sizes and ranges of the contract. The state machine itself accepts whatever
//! was committed, so that a changed limit never changes the meaning of an old log. Only limits that depend on the state
//! are its own: what a session may hold, and which answers are kept for retries.

use crate::sessions::{MAX_TTL, MIN_TTL};
use protocol::service::metadata::{
    Condition, MAX_KEY, MAX_SCAN, MAX_TRANSACTION, MAX_VALUE, MetadataError, Operation, Scan, Transaction,
};
use std::time::Duration;

fn size(what: &'static str, size: usize, limit: usize) -> Result<(), MetadataError> {
    if size <= limit {
        return Ok(());
    }
    Err(MetadataError::TooLarge { what, size: size as u64, limit: limit as u64 })
}

/// Checks a key.
///
/// # Errors
/// `TooLarge` or `Invalid`.
pub fn key(key: &str) -> Result<(), MetadataError> {
    if key.is_empty() {
        return Err(MetadataError::Invalid("a key must not be empty".into()));
    }
    size("key", key.len(), MAX_KEY)
}

/// Checks a transaction.
///
/// # Errors
/// `TooLarge` or `Invalid`.
pub fn transaction(t: &Transaction) -> Result<(), MetadataError> {
    size("transaction", t.size(), MAX_TRANSACTION)?;
    for condition in &t.conditions {
        match condition {
            Condition::Absent(name) | Condition::Present(name) | Condition::Version(name, _) => key(name)?,
            Condition::Session(_) => {}
        }
    }
    for operation in &t.operations {
        match operation {
            Operation::Put { key: name, value, .. } => {
                key(name)?;
                size("value", value.len(), MAX_VALUE)?;
            }
            Operation::Delete(name) => key(name)?,
            Operation::Sequence { name, count } => {
                key(name)?;
                if *count == 0 {
                    return Err(MetadataError::Invalid(format!("no numbers asked of sequence \"{name}\"")));
                }
            }
        }
    }
    Ok(())
}

/// Checks a scan.
///
/// # Errors
/// `TooLarge` or `Invalid`.
pub fn scan(s: &Scan) -> Result<(), MetadataError> {
    prefix(&s.prefix)?;
    size("key", s.after.as_ref().map_or(0, String::len), MAX_KEY)?;
    if !(1..=MAX_SCAN).contains(&s.limit) {
        return Err(MetadataError::Invalid(format!("a scan page has 1 to {MAX_SCAN} items, not {}", s.limit)));
    }
    Ok(())
}

/// Checks the prefix of a watch; the empty one means every key.
///
/// # Errors
/// `TooLarge`.
pub fn prefix(prefix: &str) -> Result<(), MetadataError> {
    size("key", prefix.len(), MAX_KEY)
}

/// Checks a session's time to live.
///
/// # Errors
/// `Invalid`.
pub fn ttl(ttl: Duration) -> Result<(), MetadataError> {
    if (MIN_TTL..=MAX_TTL).contains(&ttl) {
        return Ok(());
    }
    Err(MetadataError::Invalid(format!("a session lives {MIN_TTL:?} to {MAX_TTL:?} without a heartbeat, not {ttl:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use protocol::service::metadata::Consistency;

    fn put(key: usize, value: usize) -> Operation {
        Operation::Put { key: "k".repeat(key), value: Bytes::from(vec![0; value]), session: None }
    }

    #[test]
    fn every_limit_holds_exactly() {
        let check = |operations| transaction(&Transaction { operations, ..Transaction::default() });
        assert_eq!(check(vec![put(MAX_KEY, MAX_VALUE)]), Ok(()));
        assert!(matches!(check(vec![put(MAX_KEY + 1, 0)]), Err(MetadataError::TooLarge { what: "key", .. })));
        assert!(matches!(check(vec![put(1, MAX_VALUE + 1)]), Err(MetadataError::TooLarge { what: "value", .. })));
        let five = (0..5).map(|_| put(1, MAX_VALUE)).collect();
        assert!(matches!(check(five), Err(MetadataError::TooLarge { what: "transaction", .. })));
        let many = vec![Operation::Delete("k".into()); MAX_TRANSACTION / 33];
        assert_eq!(check(many.clone()), Ok(()));
        let too_many = check([many, vec![put(1, 0)]].concat());
        assert!(matches!(too_many, Err(MetadataError::TooLarge { what: "transaction", .. })), "each counts for more");
        assert!(matches!(check(vec![put(0, 1)]), Err(MetadataError::Invalid(_))));
        let none = Operation::Sequence { name: "s".into(), count: 0 };
        assert!(matches!(check(vec![none]), Err(MetadataError::Invalid(_))));
        let page = |limit| Scan { prefix: String::new(), after: None, limit, consistency: Consistency::Stale };
        assert_eq!((scan(&page(1)), scan(&page(MAX_SCAN))), (Ok(()), Ok(())));
        assert!(scan(&page(0)).is_err() && scan(&page(MAX_SCAN + 1)).is_err());
        assert!(ttl(Duration::ZERO).is_err() && ttl(MAX_TTL).is_ok() && ttl(MAX_TTL * 2).is_err());
    }
}
