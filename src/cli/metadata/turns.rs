//! `magnetar metadata lock` and `elect`: run something while nobody else does. Owns the command that runs meanwhile and how
//! it ends; whose turn it is, and the fencing token, are decided by the recipes of `protocol::lock` and `protocol::election`.
//!
//! Invariant: the command never outlives the turn by more than [`GRACE`]: when the turn is lost, it is asked to end, and
//! then killed.

use super::Nodes;
use crate::{cli::cluster_client::ClusterAddress, config::amount};
use anyhow::Context;
use clap::Args;
use futures::StreamExt;
use protocol::{
    election::{Election, Leadership},
    id::Revision,
    lock::{HeldLock, Holder, Lock},
    service::metadata::MetadataError,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time::timeout,
};

/// How long a command may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);
/// What tells the command its fencing token.
const TOKEN: &str = "MAGNETAR_TOKEN";
/// The exit status when the turn was lost, or did not come in time: "temporary failure" of sysexits.h.
const NOT_OURS: u8 = 75;

/// `metadata lock`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar metadata lock backup -- ./backup.sh        nobody else runs it at the same time\n  magnetar metadata lock backup --wait 0s -- ./backup.sh\n  magnetar metadata lock backup                       holds it until Ctrl-C\n  magnetar metadata lock backup --show                who holds it\n\nThe command finds its fencing token in MAGNETAR_TOKEN: a number that is higher than that of everybody who held the lock\nbefore. What the lock guards should refuse a lower one than it has seen.\n\nExit status: that of the command; 75 if the lock was lost, or not free in time."
)]
pub struct Hold {
    /// The lock's name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Only show who holds it
    #[arg(long, conflicts_with_all = ["wait", "command"])]
    pub show: bool,
    /// How to take part.
    #[command(flatten)]
    pub turn: TurnArgs,
}

/// `metadata elect`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar metadata elect scheduler -- ./scheduler      runs it while this process leads\n  magnetar metadata elect scheduler --observe           who leads, now and whenever that changes\n\nThe command finds its fencing token in MAGNETAR_TOKEN: a number that is higher than that of every leader before.\n\nExit status: that of the command; 75 if the lead was lost, or not won in time."
)]
pub struct Elect {
    /// The election's name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Only show who leads, now and whenever that changes, until Ctrl-C
    #[arg(long, conflicts_with_all = ["wait", "command"])]
    pub observe: bool,
    /// How to take part.
    #[command(flatten)]
    pub turn: TurnArgs,
}

/// How a process takes part.
#[derive(Debug, Args)]
pub struct TurnArgs {
    /// What others see; the machine's name and the process if not given
    #[arg(long, value_name = "TEXT")]
    pub who: Option<String>,
    /// The turn ends if this process is not heard for so long
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = amount::duration)]
    pub ttl: Duration,
    /// Give up if it is not our turn after so long; waits for ever if not given
    #[arg(long, value_name = "DURATION", value_parser = amount::duration)]
    pub wait: Option<Duration>,
    /// The nodes to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
    /// What to run meanwhile
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// A turn that has come.
enum Turn {
    Lock(HeldLock),
    Lead(Leadership),
}

impl Turn {
    const fn token(&self) -> Revision {
        match self {
            Self::Lock(held) => held.token(),
            Self::Lead(lead) => lead.token(),
        }
    }

    async fn lost(&self) {
        match self {
            Self::Lock(held) => held.lost().await,
            Self::Lead(lead) => lead.lost().await,
        }
    }

    async fn give_up(self) {
        match self {
            Self::Lock(held) => held.release().await,
            Self::Lead(lead) => lead.resign().await,
        }
    }
}

impl Hold {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        Nodes::run(&self.turn.connection.clone(), async |nodes| {
            let lock = Lock::new(nodes.keys()?, &self.name, self.turn.ttl, &nodes.tasks)?;
            if self.show {
                let holder = timeout(super::PATIENCE, lock.holder()).await.ok().with_context(|| nodes.hint())??;
                println!("{}", told(holder.as_ref(), "nobody holds it"));
                return Ok(ExitCode::SUCCESS);
            }
            let (who, what) = (self.turn.who(), format!("lock {}", self.name));
            self.turn.take(&what, async { lock.acquire(&who).await.map(Turn::Lock) }).await
        })
    }
}

impl Elect {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        Nodes::run(&self.turn.connection.clone(), async |nodes| {
            let election = Election::new(nodes.keys()?, &self.name, self.turn.ttl, &nodes.tasks)?;
            if self.observe {
                return observe(&election).await;
            }
            let (who, what) = (self.turn.who(), format!("election {}", self.name));
            self.turn.take(&what, async { election.campaign(&who).await.map(Turn::Lead) }).await
        })
    }
}

async fn observe(election: &Election) -> anyhow::Result<ExitCode> {
    let mut leaders = election.observe();
    loop {
        let leader = tokio::select! {
            leader = leaders.next() => leader.context("nothing more is told")??,
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
        };
        println!("{}", told(leader.as_ref(), "nobody leads"));
    }
}

fn told(holder: Option<&Holder>, nobody: &str) -> String {
    holder.map_or_else(|| nobody.into(), |holder| format!("{} token {}", holder.who, holder.token))
}

impl TurnArgs {
    fn who(&self) -> String {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        self.who.clone().unwrap_or_else(|| format!("{host}:{}", std::process::id()))
    }

    /// Waits for the turn and does what is to be done in it.
    async fn take(
        &self,
        what: &str,
        turn: impl Future<Output = Result<Turn, MetadataError>>,
    ) -> anyhow::Result<ExitCode> {
        let patience = async {
            match self.wait {
                // Even who does not want to wait has to ask, which takes its time.
                Some(wait) => tokio::time::sleep(wait.max(Duration::from_secs(1))).await,
                None => std::future::pending().await,
            }
        };
        let turn = tokio::select! {
            turn = turn => turn?,
            () = patience => {
                eprintln!("{what}: somebody else's turn; --show or --observe says whose");
                return Ok(ExitCode::from(NOT_OURS));
            }
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(130)),
        };
        let token = turn.token();
        eprintln!("{what}: our turn, token {token}");
        let code = match self.command.split_first() {
            Some((program, arguments)) => run(program, arguments, &turn).await,
            None => tokio::select! {
                _ = tokio::signal::ctrl_c() => Ok(Some(ExitCode::SUCCESS)),
                () = turn.lost() => Ok(None),
            },
        };
        if matches!(code, Ok(None)) {
            eprintln!("{what}: lost, because the metadata service was not reached for {:?}", self.ttl);
            return Ok(ExitCode::from(NOT_OURS));
        }
        turn.give_up().await;
        code.map(|code| code.unwrap_or(ExitCode::FAILURE))
    }
}

/// Runs a command for as long as the turn lasts; nothing if the turn was lost before it ended.
async fn run(program: &str, arguments: &[String], turn: &Turn) -> anyhow::Result<Option<ExitCode>> {
    let mut command = Command::new(program);
    command.args(arguments).env(TOKEN, turn.token().to_string()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
    let mut asked = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    loop {
        tokio::select! {
            status = child.wait() => return status.context("cannot wait for the command").map(|s| Some(code_of(s))),
            // The terminal tells the command as well; whoever types it expects to see how that ends.
            _ = tokio::signal::ctrl_c() => {}
            _ = asked.recv() => terminate(&child),
            () = turn.lost() => {
                terminate(&child);
                if timeout(GRACE, child.wait()).await.is_err() {
                    child.kill().await.context("cannot kill the command")?;
                }
                return Ok(None);
            }
        }
    }
}

fn terminate(child: &Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    // It may have ended at this moment.
    let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
}

/// The exit status of a command as a shell tells it.
fn code_of(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests;
