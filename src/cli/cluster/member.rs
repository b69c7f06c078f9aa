//! One process of a cluster on this machine: how it is started, where it says that it listens, how it ends. Owns the
//! process; its output goes to a file, which is read for the lines that say where it is.

use crate::cli::banner;
use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long a process may take to stop after it was asked to; longer than its own deadline.
const STOP: Duration = Duration::from_secs(30);
/// How long a question about readiness may take.
const ASK: Duration = Duration::from_secs(5);
/// How much of a log is read for addresses, and how much is shown of one that ends badly.
const HEAD: u64 = 64 * 1024;
const TAIL: usize = 12;

/// How a cluster stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// In order, everything written.
    Clean,
    /// Something had to be cut off.
    CutOff,
    /// A second signal ended all processes at once.
    AtOnce,
}

/// Where a process is; empty for what it does not serve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) admin: String,
    pub(super) metadata: String,
    pub(super) bookie: String,
    pub(super) kafka: String,
}

/// A process of the cluster.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) log: PathBuf,
    /// How it ended, if it did.
    pub(super) ended: Option<ExitStatus>,
    child: Child,
    args: Vec<String>,
    /// Where the output of this run begins in the log.
    begin: u64,
    addresses: Option<Addresses>,
}

impl Member {
    /// Starts this program with these arguments. It has a process group of its own, so that Ctrl-C reaches only us and
    /// everything can be stopped in order.
    pub(super) fn spawn(name: &str, dir: &Path, args: Vec<String>) -> anyhow::Result<Self> {
        let logs = dir.join("logs");
        fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let log = logs.join(format!("{name}.log"));
        let open = || File::options().create(true).append(true).open(&log);
        let file = open().with_context(|| format!("cannot write {}", log.display()))?;
        let begin = file.metadata().map_or(0, |m| m.len());
        let errors = file.try_clone().context("cannot share the log")?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.args(&args).stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.into(), log, ended: None, child, args, begin, addresses: None })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens, once it has said so.
    pub(super) fn addresses(&mut self) -> Option<Addresses> {
        if self.addresses.is_none() {
            self.addresses = read_addresses(&self.output());
        }
        self.addresses.clone()
    }

    /// An error if it has ended, with its last words.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        let Some(how) = self.newly_ended() else { return Ok(()) };
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        let last = lines[lines.len().saturating_sub(TAIL)..].join("\n  ");
        bail!("{} ended while it started ({how}):\n  {last}", self.name)
    }

    /// How it ended, if it has since this was last asked.
    pub(super) fn newly_ended(&mut self) -> Option<String> {
        if self.ended.is_some() {
            return None;
        }
        self.ended = self.child.try_wait().ok().flatten();
        self.ended.map(|status| match status.signal() {
            Some(signal) => format!("by signal {signal}"),
            None => format!("with exit code {}", status.code().unwrap_or_default()),
        })
    }

    /// What starts it again, in another terminal, where it was.
    pub(super) fn command_line(&self) -> String {
        let program = banner::program(std::env::var_os("PATH").as_deref(), std::env::current_exe().ok().as_deref());
        let words = std::iter::once(&program).chain(&self.args).map(|word| quoted(word));
        let line = words.collect::<Vec<_>>().join(" ");
        format!("{line} >> {} 2>&1 &", quoted(&self.log.display().to_string()))
    }

    /// Asks it to stop.
    pub(super) fn terminate(&mut self) {
        if self.newly_ended().is_none()
            && self.ended.is_none()
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            // It can only fail because the process has just ended, which the wait will tell.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Waits until it has ended; whether it did in time and in order. One that had ended before is no fault of ours.
    pub(super) async fn wait_stopped(&mut self, look: Duration) -> bool {
        if self.ended.is_some() {
            return true;
        }
        let ending = async {
            while self.newly_ended().is_none() {
                tokio::time::sleep(look).await;
            }
        };
        let in_time = tokio::time::timeout(STOP, ending).await.is_ok();
        in_time && self.ended.is_some_and(|status| status.success())
    }

    /// Ends it at once, if it still runs.
    pub(super) fn kill(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }

    /// What this run has printed so far, up to a limit.
    fn output(&self) -> String {
        let read = || {
            let mut file = File::open(&self.log)?;
            file.seek(SeekFrom::Start(self.begin))?;
            let mut bytes = Vec::new();
            file.take(HEAD).read_to_end(&mut bytes)?;
            std::io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_default()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The lines that say where a process listens; none before it has said all of them.
fn read_addresses(output: &str) -> Option<Addresses> {
    let of = |name: &str| {
        let found = output.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.map(|address| address.trim_start_matches("http://").to_string()).unwrap_or_default()
    };
    let found = Addresses { admin: of("admin"), metadata: of("metadata"), bookie: of("bookie"), kafka: of("kafka") };
    let whole = [&found.metadata, &found.bookie, &found.kafka].iter().any(|address| !address.is_empty());
    (whole && !found.admin.is_empty()).then_some(found)
}

/// Whether `/ready` says yes.
pub(super) async fn is_ready(admin: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(admin).await?;
        let request = format!("GET /ready HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    matches!(tokio::time::timeout(ASK, ask).await, Ok(Ok(answer)) if answer.ends_with(b" 200"))
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_between_log_lines() {
        let output = "2026 INFO something\nadmin: http://127.0.0.1:8091\nbookie: localhost:9097\n2026 INFO more\n";
        let found = read_addresses(output).expect("said");
        assert_eq!((&*found.admin, &*found.bookie, &*found.kafka), ("127.0.0.1:8091", "localhost:9097", ""));
        assert_eq!(read_addresses("admin: http://127.0.0.1:8091\n"), None, "not all of it yet");
    }

    #[test]
    fn commands_can_be_pasted() {
        assert_eq!(quoted("--data-dir"), "--data-dir");
        assert_eq!(quoted("/my data/it's"), "'/my data/it'\\''s'");
        assert_eq!(quoted(""), "''");
    }
}
