//! Values of `__consumer_offsets`: a version, then the fields of that version.

use super::{
    RecordError,
    field::{Reader, Writer},
};
use bytes::Bytes;
use protocol::id::Timestamp;
use std::time::Duration;

const NEWEST: i16 = 4;
const FLEXIBLE_SINCE: i16 = 4;

/// The value of a committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OffsetValue {
    /// The offset of the next record to consume.
    pub(crate) offset: i64,
    /// The epoch of the last consumed record's owner; -1 if unknown.
    pub(crate) leader_epoch: i32,
    /// What the client wants to remember, opaque.
    pub(crate) metadata: String,
    /// When it was committed.
    pub(crate) committed: Timestamp,
    /// When it shall be forgotten, if the commit said so (OffsetCommit versions 2 to 4).
    pub(crate) expires: Option<Timestamp>,
}

impl OffsetValue {
    /// The value in Kafka's form: version 3, or 1 if the commit names its own expiry, which later versions cannot hold.
    pub(crate) fn encode(&self) -> Result<Bytes, RecordError> {
        let mut out = Writer::default();
        out.i16(if self.expires.is_some() { 1 } else { 3 });
        out.i64(self.offset);
        if self.expires.is_none() {
            out.i32(self.leader_epoch);
        }
        out.string(&self.metadata)?;
        out.i64(self.committed.0);
        if let Some(expires) = self.expires {
            out.i64(expires.0);
        }
        Ok(out.finish())
    }

    /// Reads versions 0 to 4.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, RecordError> {
        let mut fields = Reader::new(bytes);
        let version = version(&mut fields, "an offset commit value")?;
        let offset = fields.i64()?;
        let leader_epoch = if version >= 3 { fields.i32()? } else { -1 };
        let metadata = fields.string()?;
        let committed = Timestamp(fields.i64()?);
        let expires = if version == 1 { Some(Timestamp(fields.i64()?)) } else { None };
        fields.end_struct()?;
        Ok(Self { offset, leader_epoch, metadata, committed, expires: expires.filter(|at| *at != Timestamp::NONE) })
    }
}

/// The value of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupMetadata {
    /// What the protocols are about.
    pub(crate) protocol_type: String,
    /// The generation.
    pub(crate) generation: i32,
    /// The chosen protocol; none while the group is empty.
    pub(crate) protocol: Option<String>,
    /// The leader's member id; none while the group is empty.
    pub(crate) leader: Option<String>,
    /// When the group entered its state; [`Timestamp::NONE`] in old versions.
    pub(crate) since: Timestamp,
    /// The members.
    pub(crate) members: Vec<MemberMetadata>,
}

/// One member in a group's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberMetadata {
    /// Its id.
    pub(crate) member_id: String,
    /// Its instance id, if it is static.
    pub(crate) instance_id: Option<String>,
    /// The client's name for itself.
    pub(crate) client_id: String,
    /// Where it connects from.
    pub(crate) client_host: String,
    /// How long a rebalance waits for it.
    pub(crate) rebalance_timeout: Duration,
    /// Silence for this long ends its membership.
    pub(crate) session_timeout: Duration,
    /// Its metadata for the chosen protocol.
    pub(crate) subscription: Bytes,
    /// What the leader gave it.
    pub(crate) assignment: Bytes,
}

/// The fewest bytes a member takes: four lengths of strings and bytes in the compact form, and two timeouts.
const LEAST_MEMBER: usize = 10;

impl GroupMetadata {
    /// The value in Kafka's form, version 3.
    pub(crate) fn encode(&self) -> Result<Bytes, RecordError> {
        let mut out = Writer::default();
        out.i16(3);
        out.string(&self.protocol_type)?;
        out.i32(self.generation);
        out.nullable_string(self.protocol.as_deref())?;
        out.nullable_string(self.leader.as_deref())?;
        out.i64(self.since.0);
        out.count(self.members.len())?;
        for member in &self.members {
            out.string(&member.member_id)?;
            out.nullable_string(member.instance_id.as_deref())?;
            out.string(&member.client_id)?;
            out.string(&member.client_host)?;
            out.i32(millis(member.rebalance_timeout));
            out.i32(millis(member.session_timeout));
            out.bytes(&member.subscription)?;
            out.bytes(&member.assignment)?;
        }
        Ok(out.finish())
    }

    /// Reads versions 0 to 4.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, RecordError> {
        let mut fields = Reader::new(bytes);
        let version = version(&mut fields, "a group metadata value")?;
        let protocol_type = fields.string()?;
        let generation = fields.i32()?;
        let protocol = fields.nullable_string()?;
        let leader = fields.nullable_string()?;
        let since = if version >= 2 { Timestamp(fields.i64()?) } else { Timestamp::NONE };
        let count = fields.count(LEAST_MEMBER)?;
        let members = (0..count).map(|_| MemberMetadata::decode(&mut fields, version)).collect::<Result<_, _>>()?;
        fields.end_struct()?;
        Ok(Self { protocol_type, generation, protocol, leader, since, members })
    }
}

impl MemberMetadata {
    fn decode(fields: &mut Reader, version: i16) -> Result<Self, RecordError> {
        let member_id = fields.string()?;
        let instance_id = if version >= 3 { fields.nullable_string()? } else { None };
        let client_id = fields.string()?;
        let client_host = fields.string()?;
        let rebalance = if version >= 1 { Some(duration(fields.i32()?)) } else { None };
        let session_timeout = duration(fields.i32()?);
        let subscription = fields.bytes()?;
        let assignment = fields.bytes()?;
        fields.end_struct()?;
        Ok(Self {
            member_id,
            instance_id,
            client_id,
            client_host,
            rebalance_timeout: rebalance.unwrap_or(session_timeout),
            session_timeout,
            subscription,
            assignment,
        })
    }
}

fn version(fields: &mut Reader, what: &'static str) -> Result<i16, RecordError> {
    let version = fields.i16()?;
    if !(0..=NEWEST).contains(&version) {
        return Err(RecordError::Version { what, version });
    }
    fields.flexible(version >= FLEXIBLE_SINCE);
    Ok(version)
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

fn duration(millis: i32) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
