//! `magnetar metadata members`, `add`, `remove` and `transfer`: who the metadata nodes are, and changes of that. Owns the
//! words; what is allowed is decided by the nodes.

use super::{CHANGE, Nodes};
use crate::cli::{cluster_client::ClusterAddress, table};
use anyhow::Context;
use clap::Args;
use indicatif::ProgressBar;
use protocol::service::quorum::{MemberRole, MemberStatus, QuorumError, QuorumService, QuorumStatus};
use serde_json::json;
use std::{process::ExitCode, time::Duration};

/// How often a learner is asked for that has not caught up.
const LOOK: Duration = Duration::from_millis(500);

/// `metadata members`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar metadata members\n  magnetar metadata members --metadata m2.example.com:9095"
)]
pub struct Members {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The nodes to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
}

/// `metadata add`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar metadata add 4\n\nA node joins by itself: magnetar metadata start --join HOST:PORT. It gets its vote as soon as it has caught up, unless it was started with --learner; this command waits until such a learner has caught up, and gives it its vote."
)]
pub struct Add {
    /// The learner's number
    #[arg(value_name = "ID")]
    pub id: u64,
    /// The nodes to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
}

/// `metadata remove`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar metadata remove 2\n\nTo replace a node that lost its disk: remove it, then start it again on an empty directory with --join. A node that was removed for good is to be stopped; what it held stays on the others.\n\nIt is refused if no majority of the voters that are left answers."
)]
pub struct Remove {
    /// The node's number
    #[arg(value_name = "ID")]
    pub id: u64,
    /// The nodes to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
}

/// `metadata transfer`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar metadata transfer\n  magnetar metadata transfer 3\n\nCalls wait for about a second meanwhile. A node that is stopped in order hands over by itself."
)]
pub struct Transfer {
    /// Who shall lead; the voter that holds most of the log if not given
    #[arg(value_name = "ID")]
    pub id: Option<u64>,
    /// The nodes to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
}

impl Members {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        Nodes::run(&self.connection.clone(), async |nodes| {
            let status = nodes.leader_status().await?;
            if self.json {
                let members: Vec<_> = status.members.iter().map(|member| json(member, &status)).collect();
                println!("{}", serde_json::to_string_pretty(&members)?);
            } else {
                let heads = ["NODE", "ROLE", "ADDRESS", "PEER ADDRESS", "BEHIND", "HEARD"];
                table::print(&heads, &["NODE", "BEHIND"], status.members.iter().map(|member| row(member, &status)));
                if status.is_changing {
                    println!("a change of the members is under way; until it is done, do not stop any of them");
                }
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

fn role(member: &MemberStatus, status: &QuorumStatus) -> &'static str {
    match member.role {
        MemberRole::Voter if status.leader == Some(member.member.id) => "leader",
        MemberRole::Voter => "voter",
        MemberRole::Learner => "learner",
    }
}

fn row(member: &MemberStatus, status: &QuorumStatus) -> Vec<String> {
    let behind = member.matched.map(|matched| table::number(status.last_log.saturating_sub(matched)));
    let heard = member.heard.map(|heard| match heard.as_millis() {
        0 => "itself".into(),
        ms if ms < 1_500 => "now".into(),
        _ => format!("{} s ago", heard.as_secs()),
    });
    vec![
        member.member.id.to_string(),
        role(member, status).into(),
        or_dash(&member.member.address),
        or_dash(&member.member.peer_address),
        behind.unwrap_or_else(|| "-".into()),
        heard.unwrap_or_else(|| "-".into()),
    ]
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.into() }
}

fn json(member: &MemberStatus, status: &QuorumStatus) -> serde_json::Value {
    json!({
        "node": member.member.id, "role": role(member, status), "address": member.member.address,
        "peer_address": member.member.peer_address, "disk": member.member.life.to_string(),
        "matched": member.matched, "heard_ms": member.heard.map(|heard| heard.as_millis() as u64),
    })
}

impl Add {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        Nodes::run(&self.connection.clone(), async |nodes| {
            let (quorum, progress) = (nodes.quorum(CHANGE)?, ProgressBar::new_spinner());
            progress.enable_steady_tick(Duration::from_millis(100));
            loop {
                match quorum.promote(self.id).await {
                    Ok(()) => break,
                    // It is catching up; that is what there is to wait for.
                    Err(QuorumError::Unavailable { reason }) => progress.set_message(reason),
                    Err(problem) => return Err(problem).with_context(|| format!("node {} has no vote", self.id)),
                }
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    _ = tokio::signal::ctrl_c() => {
                        progress.finish_and_clear();
                        println!("node {} has no vote yet; run this again when it has caught up", self.id);
                        return Ok(ExitCode::from(130));
                    }
                }
            }
            progress.finish_and_clear();
            println!("node {} votes now", self.id);
            Ok(ExitCode::SUCCESS)
        })
    }
}

impl Remove {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        Nodes::run(&self.connection.clone(), async |nodes| {
            let id = self.id;
            nodes.quorum(CHANGE)?.remove(id).await.with_context(|| format!("node {id} was not removed"))?;
            let left = nodes.leader_status().await?;
            let voters = left.members.iter().filter(|member| member.role == MemberRole::Voter).count();
            println!("node {id} is out; {voters} voters are left, which survive the loss of {}", (voters - 1) / 2);
            Ok(ExitCode::SUCCESS)
        })
    }
}

impl Transfer {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        Nodes::run(&self.connection.clone(), async |nodes| {
            let leader = nodes.quorum(CHANGE)?.transfer(self.id).await.context("the lead was not handed over")?;
            println!("node {leader} leads now");
            Ok(ExitCode::SUCCESS)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{service::quorum::Member, testing::quorum::status};
    use uuid::Uuid;

    #[test]
    fn members_are_shown_with_what_the_leader_knows_of_them() {
        let member = |id: u64, role, matched, heard: Option<u64>| MemberStatus {
            member: Member { id, life: Uuid::nil(), address: format!("m{id}:1"), peer_address: String::new() },
            role,
            matched,
            heard: heard.map(Duration::from_millis),
        };
        let members = vec![
            member(1, MemberRole::Voter, Some(2_000), Some(0)),
            member(2, MemberRole::Voter, Some(500), Some(90)),
            member(3, MemberRole::Learner, None, Some(7_000)),
        ];
        let status = QuorumStatus { last_log: 2_000, members: members.clone(), ..status(1, Uuid::nil()) };
        let rows: Vec<_> = members.iter().map(|m| row(m, &status).join(" ")).collect();
        assert_eq!(rows, ["1 leader m1:1 - 0 itself", "2 voter m2:1 - 1,500 now", "3 learner m3:1 - - 7 s ago"]);
        assert_eq!(json(&members[1], &status)["heard_ms"], 90);
    }
}
