//! Whether a number of a sequence was issued twice. Owns the overlap of ranges; gaps are legal, because answers get lost.

use std::collections::BTreeMap;

/// Numbers that a client was given: `first` and the `count - 1` after it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Taken {
    /// The sequence.
    pub name: String,
    /// The first number.
    pub first: u64,
    /// How many, 1 or more.
    pub count: u64,
    /// Who got them.
    pub client: u32,
}

/// Two clients, or one twice, got the same number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("number {number} of \"{name}\" was given to client {first} and to client {second}")]
pub struct Repeated {
    /// The sequence.
    pub name: String,
    /// The lowest number that was given twice.
    pub number: u64,
    /// Who got it.
    pub first: u32,
    /// Who else did.
    pub second: u32,
}

/// Checks that no number was issued twice.
///
/// # Errors
/// The first number that was, by name of the sequence.
pub fn check(taken: &[Taken]) -> Result<(), Repeated> {
    let mut sequences = BTreeMap::<&str, Vec<&Taken>>::new();
    for part in taken {
        sequences.entry(&part.name).or_default().push(part);
    }
    for (name, mut parts) in sequences {
        parts.sort_unstable_by_key(|part| (part.first, part.client));
        // Who has the highest number so far: a long range may hide several short ones.
        let mut highest: Option<&Taken> = None;
        let last = |part: &Taken| part.first.saturating_add(part.count.saturating_sub(1));
        for part in parts {
            if let Some(before) = highest.filter(|before| last(before) >= part.first) {
                let (first, second) = (before.client, part.client);
                return Err(Repeated { name: name.into(), number: part.first, first, second });
            }
            if highest.is_none_or(|before| last(part) > last(before)) {
                highest = Some(part);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(name: &str, first: u64, count: u64, client: u32) -> Taken {
        Taken { name: name.into(), first, count, client }
    }

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        let fine = [taken("a", 1, 10, 1), taken("b", 5, 10, 2), taken("a", 11, 1, 2), taken("a", 20, 5, 1)];
        assert_eq!(check(&fine), Ok(()));
    }

    #[test]
    fn a_number_that_was_given_twice_is_named() {
        for (other, number) in [(taken("a", 10, 1, 2), 10), (taken("a", 1, 1, 2), 1), (taken("a", 4, 2, 2), 4)] {
            let broken = [taken("a", 1, 10, 1), taken("b", 1, 1, 2), other];
            let expected = Repeated { name: "a".into(), number, first: 1, second: 2 };
            assert_eq!(check(&broken), Err(expected));
        }
        let hidden = [taken("a", 1, 100, 1), taken("a", 200, 1, 3), taken("a", 90, 5, 2)];
        assert_eq!(check(&hidden).map_err(|repeated| repeated.number), Err(90));
    }
}
