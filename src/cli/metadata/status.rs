//! `magnetar metadata status`: asks every node how it does, also those that do not answer. Owns the table.

use super::{Nodes, PATIENCE};
use crate::cli::{cluster_client::ClusterAddress, table};
use clap::Args;
use protocol::{
    service::quorum::{MemberRole, QuorumService, QuorumStatus},
    wire::metadata::RemoteQuorum,
};
use serde_json::{Value, json};
use std::{process::ExitCode, time::Duration};

/// How long a node that may be gone is waited for.
const LOOK: Duration = Duration::from_secs(2);

/// `metadata status`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar metadata status\n  magnetar metadata status --json | jq '.[] | select(.state == \"down\")'\n\nExit status: 0 if a node leads, 1 if none does or two nodes hold different states."
)]
pub struct Status {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The nodes to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
}

/// A node, and what it says.
struct Seen {
    id: u64,
    role: MemberRole,
    address: String,
    status: Option<QuorumStatus>,
}

impl Status {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        Nodes::run(&self.connection.clone(), async |nodes| self.show(nodes).await)
    }

    async fn show(&self, nodes: &Nodes) -> anyhow::Result<ExitCode> {
        let first = nodes.status().await?;
        let mut seen = Vec::new();
        for known in &first.members {
            let address = known.member.address.clone();
            let status = if known.member.id == first.node { Some(first.clone()) } else { ask(nodes, &address).await };
            seen.push(Seen { id: known.member.id, role: known.role, address, status });
        }
        let leader = seen.iter().find_map(|s| s.status.as_ref().filter(|status| status.leader == Some(status.node)));
        let diverged = has_diverged(&seen);
        if self.json {
            let nodes: Vec<Value> = seen.iter().map(|one| one.json(leader)).collect();
            println!("{}", serde_json::to_string_pretty(&nodes)?);
        } else {
            println!("group {}, term {}", first.group, leader.map_or(first.term, |l| l.term));
            let heads = [
                "NODE",
                "STATE",
                "ADDRESS",
                "LOG",
                "COMMITTED",
                "APPLIED",
                "KEYS",
                "SESSIONS",
                "WATCHES",
                "LOG SIZE",
                "SNAPSHOT",
                "AUDITED",
            ];
            let right = ["NODE", "LOG", "COMMITTED", "APPLIED", "KEYS", "SESSIONS", "WATCHES", "LOG SIZE"];
            table::print(&heads, &right, seen.iter().map(|one| one.row(leader)));
            if leader.is_none() {
                eprintln!("no node leads; a majority of the voters has to run and to reach each other");
            }
            if diverged {
                eprintln!(
                    "nodes hold different states at the same position of the log; keep their directories and report this"
                );
            }
        }
        Ok(if leader.is_some() && !diverged { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

async fn ask(nodes: &Nodes, address: &str) -> Option<QuorumStatus> {
    if address.is_empty() {
        return None;
    }
    let node = RemoteQuorum::connect(&[address.to_owned()], LOOK.min(PATIENCE), &nodes.tasks).ok()?;
    node.status().await.ok()
}

/// Whether two nodes audited the same position and found different states.
fn has_diverged(seen: &[Seen]) -> bool {
    let audits: Vec<(u64, u64)> = seen.iter().filter_map(|one| one.status.as_ref()?.audited).collect();
    audits.iter().any(|(at, digest)| audits.iter().any(|(other, theirs)| at == other && digest != theirs))
}

impl Seen {
    fn state(&self, leader: Option<&QuorumStatus>) -> &'static str {
        match (&self.status, self.role) {
            (None, _) => "down",
            (Some(_), _) if leader.is_some_and(|l| l.node == self.id) => "leader",
            (Some(status), _) if status.leader.is_none() => "looking for a leader",
            (Some(_), MemberRole::Voter) => "follower",
            (Some(_), MemberRole::Learner) => "learner",
        }
    }

    fn row(&self, leader: Option<&QuorumStatus>) -> Vec<String> {
        let mut row = vec![self.id.to_string(), self.state(leader).into(), self.address.clone()];
        let Some(status) = &self.status else {
            row.resize(12, "-".into());
            return row;
        };
        let numbers = [status.last_log, status.committed, status.applied, status.keys, status.sessions, status.watches];
        row.extend(numbers.map(table::number));
        row.push(table::bytes(status.log_bytes));
        row.push(
            status.snapshot.map_or_else(
                || "none yet".into(),
                |s| format!("{} at {}", table::bytes(s.bytes), table::number(s.index)),
            ),
        );
        row.push(status.audited.map_or_else(|| "-".into(), |(at, digest)| format!("{at}: {digest:016x}")));
        row
    }

    fn json(&self, leader: Option<&QuorumStatus>) -> Value {
        let mut value = json!({ "node": self.id, "state": self.state(leader), "address": self.address });
        if let (Some(status), Some(fields)) = (&self.status, value.as_object_mut()) {
            let more = json!({
                "group": status.group.to_string(), "term": status.term, "leader": status.leader,
                "last_log": status.last_log, "committed": status.committed, "applied": status.applied,
                "revision": status.revision.0, "keys": status.keys, "sessions": status.sessions,
                "watches": status.watches, "log_bytes": status.log_bytes,
                "snapshot": status.snapshot.map(|s| json!({
                    "index": s.index, "bytes": s.bytes, "age_seconds": s.age.map(|age| age.as_secs()),
                })),
                "audited": status.audited.map(|(at, digest)| json!({ "index": at, "digest": format!("{digest:016x}") })),
            });
            fields.extend(more.as_object().cloned().unwrap_or_default());
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::testing::quorum::status;
    use uuid::Uuid;

    fn seen(id: u64, leader: Option<u64>, audited: Option<(u64, u64)>) -> Seen {
        let logs = QuorumStatus { last_log: 12_345, committed: 12_345, applied: 12_344, ..status(id, Uuid::nil()) };
        let status = QuorumStatus { leader, audited, ..logs };
        Seen { id, role: MemberRole::Voter, address: format!("m{id}:1"), status: Some(status) }
    }

    #[test]
    fn every_node_has_a_state_and_a_row() {
        let (one, two, lost) = (seen(1, Some(1), None), seen(2, Some(1), Some((256, 7))), seen(3, None, None));
        let gone = Seen { status: None, ..seen(4, None, None) };
        let leader = one.status.as_ref();
        let states = [&one, &two, &lost, &gone].map(|node| node.state(leader));
        assert_eq!(states, ["leader", "follower", "looking for a leader", "down"]);
        assert_eq!(two.row(leader)[3..6], ["12,345", "12,345", "12,344"]);
        assert_eq!(two.row(leader).len(), gone.row(leader).len());
        assert_eq!(two.json(leader)["audited"]["digest"], "0000000000000007");
    }

    #[test]
    fn two_states_at_one_position_are_a_divergence() {
        let same = [seen(1, None, Some((256, 7))), seen(2, None, Some((256, 7))), seen(3, None, Some((512, 8)))];
        assert!(!has_diverged(&same));
        assert!(has_diverged(&[seen(1, None, Some((256, 7))), seen(2, None, Some((256, 8)))]));
    }
}
