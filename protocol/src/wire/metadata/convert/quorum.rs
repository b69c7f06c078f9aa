//! Between the contract for operators and the generated types.

use super::proto;
use crate::{
    id::Revision,
    service::quorum::{Joined, Joining, Member, MemberRole, MemberStatus, QuorumError, QuorumStatus, SnapshotStatus},
};
use bytes::Bytes;
use std::time::Duration;
use uuid::Uuid;

fn bytes_of(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn uuid(what: &str, bytes: &[u8]) -> Result<Uuid, QuorumError> {
    let odd = |_| QuorumError::Refused(format!("{what} has {} bytes instead of 16", bytes.len()));
    Uuid::from_slice(bytes).map_err(odd)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl From<Joining> for proto::Joining {
    fn from(j: Joining) -> Self {
        Self { id: j.id, life: bytes_of(j.life), address: j.address, peer_address: j.peer_address }
    }
}

impl TryFrom<proto::Joining> for Joining {
    type Error = QuorumError;
    fn try_from(j: proto::Joining) -> Result<Self, QuorumError> {
        let life = uuid("the life of a disk", &j.life)?;
        Ok(Self { id: j.id, life, address: j.address, peer_address: j.peer_address })
    }
}

impl From<Joined> for proto::Joined {
    fn from(j: Joined) -> Self {
        Self { id: j.id, group: bytes_of(j.group) }
    }
}

impl TryFrom<proto::Joined> for Joined {
    type Error = QuorumError;
    fn try_from(j: proto::Joined) -> Result<Self, QuorumError> {
        Ok(Self { id: j.id, group: uuid("a group", &j.group)? })
    }
}

impl From<SnapshotStatus> for proto::SnapshotStatus {
    fn from(s: SnapshotStatus) -> Self {
        Self { index: s.index, bytes: s.bytes, age_micros: s.age.map(micros) }
    }
}

impl From<proto::SnapshotStatus> for SnapshotStatus {
    fn from(s: proto::SnapshotStatus) -> Self {
        Self { index: s.index, bytes: s.bytes, age: s.age_micros.map(Duration::from_micros) }
    }
}

impl From<MemberStatus> for proto::MemberStatus {
    fn from(s: MemberStatus) -> Self {
        let Member { id, life, address, peer_address } = s.member;
        let (life, voter) = (bytes_of(life), s.role == MemberRole::Voter);
        Self { id, life, address, peer_address, voter, matched: s.matched, heard_micros: s.heard.map(micros) }
    }
}

impl TryFrom<proto::MemberStatus> for MemberStatus {
    type Error = QuorumError;
    fn try_from(s: proto::MemberStatus) -> Result<Self, QuorumError> {
        let life = uuid("the life of a disk", &s.life)?;
        let member = Member { id: s.id, life, address: s.address, peer_address: s.peer_address };
        let role = if s.voter { MemberRole::Voter } else { MemberRole::Learner };
        Ok(Self { member, role, matched: s.matched, heard: s.heard_micros.map(Duration::from_micros) })
    }
}

impl From<QuorumStatus> for proto::QuorumStatus {
    fn from(s: QuorumStatus) -> Self {
        Self {
            node: s.node,
            group: bytes_of(s.group),
            term: s.term,
            leader: s.leader,
            last_log: s.last_log,
            committed: s.committed,
            applied: s.applied,
            members: s.members.into_iter().map(Into::into).collect(),
            revision: s.revision.0,
            keys: s.keys,
            sessions: s.sessions,
            watches: s.watches,
            log_bytes: s.log_bytes,
            snapshot: s.snapshot.map(Into::into),
            audited: s.audited.map(|(index, digest)| proto::Audited { index, digest }),
            is_changing: s.is_changing,
        }
    }
}

impl TryFrom<proto::QuorumStatus> for QuorumStatus {
    type Error = QuorumError;
    fn try_from(s: proto::QuorumStatus) -> Result<Self, QuorumError> {
        Ok(Self {
            node: s.node,
            group: uuid("a group", &s.group)?,
            term: s.term,
            leader: s.leader,
            last_log: s.last_log,
            committed: s.committed,
            applied: s.applied,
            members: s.members.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            revision: Revision(s.revision),
            keys: s.keys,
            sessions: s.sessions,
            watches: s.watches,
            log_bytes: s.log_bytes,
            snapshot: s.snapshot.map(Into::into),
            audited: s.audited.map(|a| (a.index, a.digest)),
            is_changing: s.is_changing,
        })
    }
}

impl From<QuorumError> for proto::QuorumError {
    fn from(e: QuorumError) -> Self {
        use proto::quorum_error::Kind;
        let kind = match e {
            QuorumError::Unavailable { reason } => Kind::Unavailable(reason),
            QuorumError::OutcomeUnknown { reason } => Kind::OutcomeUnknown(reason),
            QuorumError::Refused(text) => Kind::Refused(text),
        };
        Self { kind: Some(kind) }
    }
}

impl From<proto::QuorumError> for QuorumError {
    fn from(e: proto::QuorumError) -> Self {
        use proto::quorum_error::Kind;
        match e.kind {
            Some(Kind::Unavailable(reason)) => Self::Unavailable { reason },
            Some(Kind::OutcomeUnknown(reason)) => Self::OutcomeUnknown { reason },
            Some(Kind::Refused(text)) => Self::Refused(text),
            None => Self::OutcomeUnknown { reason: "the server failed in a way this version does not know".into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_crosses_without_loss() {
        let member = |id: u64| Member {
            id,
            life: Uuid::from_u128(u128::from(id) << 64),
            address: format!("a:{id}"),
            peer_address: String::new(),
        };
        let heard = Some(Duration::from_micros(1_500));
        let full = QuorumStatus {
            node: 1,
            group: Uuid::from_u128(9),
            term: 2,
            leader: Some(3),
            last_log: 4,
            committed: 5,
            applied: 6,
            members: vec![
                MemberStatus { member: member(1), role: MemberRole::Voter, matched: Some(0), heard: None },
                MemberStatus { member: member(2), role: MemberRole::Learner, matched: None, heard },
            ],
            revision: Revision(7),
            keys: 8,
            sessions: 9,
            watches: 10,
            log_bytes: 11,
            snapshot: Some(SnapshotStatus { index: 12, bytes: 13, age: heard }),
            audited: Some((256, u64::MAX)),
            is_changing: true,
        };
        let bare = QuorumStatus { leader: None, members: vec![], snapshot: None, audited: None, ..full };
        for status in [full, bare] {
            assert_eq!(QuorumStatus::try_from(proto::QuorumStatus::from(status.clone())), Ok(status));
        }
    }

    #[test]
    fn joining_and_errors_cross_without_loss_and_nonsense_is_refused() {
        let joining = Joining { id: None, life: Uuid::from_u128(1), address: "a".into(), peer_address: "b".into() };
        assert_eq!(Joining::try_from(proto::Joining::from(joining.clone())), Ok(joining.clone()));
        let joined = Joined { id: 4, group: Uuid::from_u128(u128::MAX) };
        assert_eq!(Joined::try_from(proto::Joined::from(joined)), Ok(joined));
        for error in [
            QuorumError::Unavailable { reason: "a".into() },
            QuorumError::OutcomeUnknown { reason: "b".into() },
            QuorumError::Refused("c".into()),
        ] {
            assert_eq!(QuorumError::from(proto::QuorumError::from(error.clone())), error);
        }
        let odd = proto::Joining { life: Bytes::from_static(b"?"), ..joining.into() };
        assert!(matches!(Joining::try_from(odd), Err(QuorumError::Refused(text)) if text.contains("1 bytes")));
    }
}
