//! What goes into a group and what comes out of it. Plain data: no behaviour, no wire format.

use crate::group::{error::GroupError, records::GroupMetadata};
use bytes::Bytes;
use protocol::id::Timestamp;
use std::time::Duration;

/// The time, as the driver saw it when the event happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    /// For deadlines; never goes back.
    pub(crate) monotonic: Duration,
    /// For what is stored; milliseconds since the Unix epoch.
    pub(crate) wall: Timestamp,
}

/// Names a request whose answer may come later. Unique among the requests that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Token(pub u64);

/// Names a write of group metadata, ascending per group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WriteId(pub u64);

/// The settings that bound a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupLimits {
    /// `group.min.session.timeout.ms`
    pub(crate) min_session: Duration,
    /// `group.max.session.timeout.ms`
    pub(crate) max_session: Duration,
    /// `group.max.size`, in members.
    pub(crate) max_size: usize,
    /// `group.initial.rebalance.delay.ms`
    pub(crate) initial_rebalance_delay: Duration,
}

/// A JoinGroup request.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    /// The member's id; empty if it has none yet.
    pub(crate) member_id: String,
    /// `group.instance.id` of a static member (KIP-345).
    pub(crate) instance_id: Option<String>,
    /// The client's name for itself.
    pub(crate) client_id: String,
    /// Where the client connects from.
    pub(crate) client_host: String,
    /// Silence for this long ends the membership.
    pub(crate) session_timeout: Duration,
    /// How long a rebalance waits for this member.
    pub(crate) rebalance_timeout: Duration,
    /// What the protocols are about; opaque.
    pub(crate) protocol_type: String,
    /// Protocols in order of preference, each with the member's metadata.
    pub(crate) protocols: Vec<(String, Bytes)>,
    /// A new dynamic member must come back with the id it is given (version 4 and later, KIP-394).
    pub(crate) require_known_member: bool,
    /// The client understands "you lead, but assign nothing" (version 9 and later, KIP-814).
    pub(crate) may_skip_assignment: bool,
    /// The random part of the member id, should one be made.
    pub(crate) fresh: String,
}

/// A SyncGroup request.
#[derive(Debug, Clone)]
pub(crate) struct Sync {
    /// Who asks.
    pub(crate) member: MemberRef,
    /// The generation the member joined.
    pub(crate) generation: i32,
    /// Must be the group's, if given (version 5 and later).
    pub(crate) protocol_type: Option<String>,
    /// Must be the group's, if given (version 5 and later).
    pub(crate) protocol: Option<String>,
    /// From the leader: what each member gets.
    pub(crate) assignments: Vec<(String, Bytes)>,
}

/// A member as a request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberRef {
    /// The member's id.
    pub(crate) member_id: String,
    /// The instance id, if the request gives one.
    pub(crate) instance_id: Option<String>,
}

/// What happens to a group.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A client wants to be a member, or joins again.
    Join(Token, Box<Join>),
    /// A member wants its assignment.
    Sync(Token, Sync),
    /// A member shows that it lives.
    Heartbeat(Token, MemberRef, i32),
    /// Members leave; several since version 3.
    Leave(Token, Vec<MemberRef>),
    /// Time has passed.
    Tick,
    /// A write ended.
    Persisted(WriteId, Result<(), GroupError>),
}

/// What the driver has to do, in order.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    /// Answer a request.
    Reply(Token, Answer),
    /// Write the group's metadata and report back with [`Event::Persisted`].
    Persist(WriteId, Box<GroupMetadata>),
    /// Send [`Event::Tick`] at this monotonic time; replaces an earlier order.
    ArmTimer(Duration),
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// To [`Event::Join`].
    Joined(Joined),
    /// To [`Event::Join`], with the member id the client shall go on with.
    JoinRefused(GroupError, String),
    /// To [`Event::Sync`].
    Synced(Result<Synced, GroupError>),
    /// To [`Event::Heartbeat`].
    Beat(Result<(), GroupError>),
    /// To [`Event::Leave`]: one result per member, in the request's order.
    Left(Vec<(MemberRef, Result<(), GroupError>)>),
}

/// A successful join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joined {
    /// The member's id.
    pub(crate) member_id: String,
    /// The generation it belongs to.
    pub(crate) generation: i32,
    /// The group's protocol type.
    pub(crate) protocol_type: Option<String>,
    /// The chosen protocol.
    pub(crate) protocol: Option<String>,
    /// The leader's member id.
    pub(crate) leader: String,
    /// Everyone with their metadata, for the leader; empty for others.
    pub(crate) members: Vec<JoinedMember>,
    /// The leader keeps the assignments of before (KIP-814).
    pub(crate) skip_assignment: bool,
}

/// A member as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JoinedMember {
    /// Its id.
    pub(crate) member_id: String,
    /// Its instance id, if it is static.
    pub(crate) instance_id: Option<String>,
    /// Its metadata for the chosen protocol.
    pub(crate) metadata: Bytes,
}

/// A successful sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Synced {
    /// The group's protocol type.
    pub(crate) protocol_type: Option<String>,
    /// The chosen protocol.
    pub(crate) protocol: Option<String>,
    /// What the leader assigned to the member.
    pub(crate) assignment: Bytes,
}
