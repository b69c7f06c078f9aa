//! What goes into a group and what comes out of it. Plain data: no behaviour, no wire format.

use crate::group::{error::GroupError, records::GroupMetadata};
use bytes::Bytes;
use protocol::id::Timestamp;
use std::time::Duration;

/// The time, as the driver saw it when the event happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For deadlines; never goes back.
    pub monotonic: Duration,
    /// For what is stored; milliseconds since the Unix epoch.
    pub wall: Timestamp,
}

/// Names a request whose answer may come later. Unique among the requests that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Names a write of group metadata, ascending per group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// The settings that bound a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLimits {
    /// `group.min.session.timeout.ms`
    pub min_session: Duration,
    /// `group.max.session.timeout.ms`
    pub max_session: Duration,
    /// `group.max.size`, in members.
    pub max_size: usize,
    /// `group.initial.rebalance.delay.ms`
    pub initial_rebalance_delay: Duration,
}

/// A JoinGroup request.
#[derive(Debug, Clone)]
pub struct Join {
    /// The member's id; empty if it has none yet.
    pub member_id: String,
    /// `group.instance.id` of a static member (KIP-345).
    pub instance_id: Option<String>,
    /// The client's name for itself.
    pub client_id: String,
    /// Where the client connects from.
    pub client_host: String,
    /// Silence for this long ends the membership.
    pub session_timeout: Duration,
    /// How long a rebalance waits for this member.
    pub rebalance_timeout: Duration,
    /// What the protocols are about; opaque.
    pub protocol_type: String,
    /// Protocols in order of preference, each with the member's metadata.
    pub protocols: Vec<(String, Bytes)>,
    /// A new dynamic member must come back with the id it is given (version 4 and later, KIP-394).
    pub require_known_member: bool,
    /// The client understands "you lead, but assign nothing" (version 9 and later, KIP-814).
    pub may_skip_assignment: bool,
    /// The random part of the member id, should one be made.
    pub fresh: String,
}

/// A SyncGroup request.
#[derive(Debug, Clone)]
pub struct Sync {
    /// Who asks.
    pub member: MemberRef,
    /// The generation the member joined.
    pub generation: i32,
    /// Must be the group's, if given (version 5 and later).
    pub protocol_type: Option<String>,
    /// Must be the group's, if given (version 5 and later).
    pub protocol: Option<String>,
    /// From the leader: what each member gets.
    pub assignments: Vec<(String, Bytes)>,
}

/// A member as a request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRef {
    /// The member's id.
    pub member_id: String,
    /// The instance id, if the request gives one.
    pub instance_id: Option<String>,
}

/// What happens to a group.
#[derive(Debug, Clone)]
pub enum Event {
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
pub enum Command {
    /// Answer a request.
    Reply(Token, Answer),
    /// Write the group's metadata and report back with [`Event::Persisted`].
    Persist(WriteId, Box<GroupMetadata>),
    /// Send [`Event::Tick`] at this monotonic time; replaces an earlier order.
    ArmTimer(Duration),
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
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
pub struct Joined {
    /// The member's id.
    pub member_id: String,
    /// The generation it belongs to.
    pub generation: i32,
    /// The group's protocol type.
    pub protocol_type: Option<String>,
    /// The chosen protocol.
    pub protocol: Option<String>,
    /// The leader's member id.
    pub leader: String,
    /// Everyone with their metadata, for the leader; empty for others.
    pub members: Vec<JoinedMember>,
    /// The leader keeps the assignments of before (KIP-814).
    pub skip_assignment: bool,
}

/// A member as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its id.
    pub member_id: String,
    /// Its instance id, if it is static.
    pub instance_id: Option<String>,
    /// Its metadata for the chosen protocol.
    pub metadata: Bytes,
}

/// A successful sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// The group's protocol type.
    pub protocol_type: Option<String>,
    /// The chosen protocol.
    pub protocol: Option<String>,
    /// What the leader assigned to the member.
    pub assignment: Bytes,
}
