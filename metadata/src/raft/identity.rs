//! Who a metadata node is: the life of its disk, and, once it is a member, its number and its group.
//!
//! The life is drawn when the directory is made and never changes; a node that lost its disk has another one, so that
//! nobody takes it for what it was. Owns the value only; the directory keeps it.

use protocol::service::peer::PeerName;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A place in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The number, 1 or more.
    pub id: u64,
    /// The group; drawn when its first member founded it.
    pub group: Uuid,
    /// Whether this is the member that founds it. Nobody else may, not even when it was stopped before it heard of the
    /// others: two foundings are two clusters.
    pub is_founder: bool,
}

/// Who a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The life of its disk.
    pub life: Uuid,
    /// Its place; `None` until it has founded or joined a group.
    pub place: Option<Place>,
}

impl Place {
    /// The name of the member at this place in this life.
    #[must_use]
    pub const fn name(self, life: Uuid) -> PeerName {
        PeerName { group: self.group, id: self.id, life }
    }
}
