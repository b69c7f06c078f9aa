//! What both ends say first: the version, the group, and whether the calls were passed on by another node.
//!
//! Owns the rule that a caller and a server of different groups never work together: the server refuses by name, and so
//! does the caller, so that an address that now belongs to another cluster is never mistaken for ours. A group that is
//! nil, or that nobody knows yet, is not checked.

use super::{WIRE_VERSION, proto};
use bytes::Bytes;
use std::sync::{Arc, OnceLock};
use uuid::Uuid;

/// A group as it is sent; none is sent as no bytes.
pub(super) fn group_bytes(group: Option<Uuid>) -> Bytes {
    group.filter(|group| !group.is_nil()).map_or_else(Bytes::new, |group| Bytes::copy_from_slice(group.as_bytes()))
}

/// A group as it arrived.
fn group_of(bytes: &[u8]) -> Result<Option<Uuid>, String> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let group = Uuid::from_slice(bytes).map_err(|_| format!("a group of {} bytes instead of 16", bytes.len()))?;
    Ok(Some(group).filter(|group| !group.is_nil()))
}

/// Who serves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host {
    /// The node's number.
    pub(super) node: u64,
    /// The group it belongs to; nil if that is not to be checked.
    pub(super) group: Uuid,
}

impl Host {
    /// The answer to a hello, or why it is refused.
    pub(super) fn greet(&self, hello: &proto::Hello) -> Result<proto::Hello, String> {
        let Self { node, group } = *self;
        if hello.version != WIRE_VERSION {
            let theirs = hello.version;
            return Err(format!(
                "the caller speaks version {theirs} of the metadata protocol, this server {WIRE_VERSION}"
            ));
        }
        match group_of(&hello.group)? {
            Some(theirs) if !group.is_nil() && theirs != group => {
                Err(format!("this is node {node} of group {group}, the caller belongs to group {theirs}"))
            }
            _ => {
                let group = group_bytes(Some(group));
                let passed_on = hello.passed_on;
                Ok(proto::Hello { version: WIRE_VERSION, group, passed_on, node, ..proto::Hello::default() })
            }
        }
    }
}

/// Who calls. Clones share the group that was met first.
#[derive(Debug, Clone, Default)]
pub(super) struct Guest {
    group: Arc<OnceLock<Uuid>>,
    passed_on: bool,
}

impl Guest {
    /// A caller that knows its group already, or takes the first one that it meets.
    pub(super) fn new(group: Option<Uuid>, passed_on: bool) -> Self {
        let known = group.filter(|group| !group.is_nil()).map_or_else(OnceLock::new, OnceLock::from);
        Self { group: Arc::new(known), passed_on }
    }

    /// The same caller, which knows its group.
    pub(super) fn of_group(&self, group: Uuid) -> Self {
        Self::new(Some(group), self.passed_on)
    }

    /// Whether the calls of this caller were passed on.
    pub(super) const fn passes_on(&self) -> bool {
        self.passed_on
    }

    /// What to say first.
    pub(super) fn hello(&self) -> proto::Hello {
        let group = group_bytes(self.group.get().copied());
        proto::Hello { version: WIRE_VERSION, group, passed_on: self.passed_on, ..proto::Hello::default() }
    }

    /// Checks the answer to our hello, and remembers its group.
    pub(super) fn meet(&self, hello: &proto::Hello) -> Result<(), String> {
        let Some(theirs) = group_of(&hello.group)? else { return Ok(()) };
        let ours = *self.group.get_or_init(|| theirs);
        if ours == theirs {
            return Ok(());
        }
        Err(format!("it is node {} of group {theirs}, this caller belongs to group {ours}", hello.node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(group: u128) -> Host {
        Host { node: 3, group: Uuid::from_u128(group) }
    }

    #[test]
    fn groups_that_differ_are_refused_by_name_on_both_sides() {
        let guest = Guest::new(None, false);
        let first = host(7).greet(&guest.hello()).expect("nothing to compare yet");
        assert_eq!(guest.meet(&first), Ok(()));
        assert!(host(7).greet(&guest.hello()).is_ok());
        let refused = host(8).greet(&guest.hello()).expect_err("another group");
        let (ours, theirs) = (Uuid::from_u128(7), Uuid::from_u128(8));
        assert_eq!(refused, format!("this is node 3 of group {theirs}, the caller belongs to group {ours}"));
        // A server that does not look is still found out.
        let other = host(8).greet(&Guest::default().hello()).expect("it was told no group");
        let refused = guest.meet(&other).expect_err("another group");
        assert!(refused.contains(&ours.to_string()) && refused.contains(&theirs.to_string()), "{refused}");
    }

    #[test]
    fn what_is_not_known_is_not_checked() {
        assert!(host(0).greet(&Guest::new(Some(Uuid::from_u128(1)), true).hello()).is_ok());
        let guest = Guest::new(Some(Uuid::from_u128(1)), false);
        assert_eq!(guest.meet(&host(0).greet(&guest.hello()).expect("greets")), Ok(()));
        assert!(Guest::new(Some(Uuid::nil()), false).hello().group.is_empty());
    }

    #[test]
    fn other_versions_and_nonsense_are_refused_by_name() {
        let newer = proto::Hello { version: WIRE_VERSION + 1, ..Guest::default().hello() };
        let refused = host(1).greet(&newer).expect_err("newer");
        assert!(refused.contains("version 3") && refused.contains("this server 2"), "{refused}");
        let odd = proto::Hello { group: Bytes::from_static(b"odd"), ..Guest::default().hello() };
        assert!(host(1).greet(&odd).is_err_and(|reason| reason.contains("3 bytes")));
        assert!(Guest::default().meet(&odd).is_err());
    }
}
