//! Tests of a group: scenarios that anyone can read (`testscript`), and random histories (`random`).

mod random;
mod testscript;

/// The codes that clients of an API know how to handle; no other may be sent.
mod allowed {
    /// JoinGroup.
    pub(super) const JOIN: &[i16] = &[14, 15, 16, 23, 24, 25, 26, 27, 30, 35, 79, 81, 82];
    /// SyncGroup.
    pub(super) const SYNC: &[i16] = &[15, 16, 22, 23, 25, 27, 30, 82];
    /// Heartbeat.
    pub(super) const HEARTBEAT: &[i16] = &[15, 16, 22, 25, 27, 30, 82];
    /// LeaveGroup, in all and per member.
    pub(super) const LEAVE: &[i16] = &[14, 15, 16, 25, 30, 82];
    /// OffsetCommit, per partition.
    pub(super) const OFFSET_COMMIT: &[i16] = &[3, 7, 12, 14, 15, 16, 22, 25, 27, 28, 29, 30, 82];
}
