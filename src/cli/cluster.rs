//! `magnetar cluster`: a whole cluster on this machine, every role in a process of its own, below one directory. Owns the
//! order of start and stop and what is said; never restarts anything by itself, because being able to break it is the
//! point.

mod member;

use super::{banner, server::Signals, table};
use anyhow::{Context, bail};
use clap::Args;
use member::{Addresses, Member, Stopped};
use std::{
    fs::{self, File, TryLockError},
    net::TcpListener,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

/// How long a process may take to say where it is, and then to be ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often processes are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Runs a cluster in processes of their own.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar cluster\n  magnetar cluster --dir ~/cluster --bookies 5 --metadata 3\n  magnetar cluster --set num.partitions=4\n\nThe data is kept: a second run goes on with it. It may have more metadata nodes than the first, but not fewer: a majority of those there were has to run."
)]
pub struct Cluster {
    /// Where data and logs are kept [default: ~/.local/share/magnetar-cluster]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How many bookies
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9), value_name = "N")]
    pub bookies: u16,
    /// How many metadata nodes; 3 survive the loss of one, 5 that of two
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=5), value_name = "N")]
    pub metadata: u16,
    /// Let the system choose all ports, so that several clusters fit on one machine
    #[arg(long)]
    pub any_port: bool,
    /// A setting for every process, as in magnetar standalone; may be repeated
    #[arg(short, long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
}

impl Cluster {
    /// Runs until a signal, or until no process is left.
    ///
    /// # Errors
    /// A process does not start; then the others are stopped.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let dir = self.directory()?;
        let _lock = lock(&dir)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("cannot start a runtime")?.block_on(self.supervise(&dir))
    }

    async fn supervise(&self, dir: &Path) -> anyhow::Result<ExitCode> {
        let mut signals = Signals::new()?;
        let mut running = Running::default();
        println!("starting a cluster in {}", dir.display());
        let started = tokio::select! {
            started = self.start(dir, &mut running) => Some(started),
            () = signals.next() => None,
        };
        match started {
            None => {}
            Some(Err(problem)) => {
                running.stop(&mut signals).await;
                return Err(problem);
            }
            Some(Ok(())) => {
                println!("{}", running.welcome(dir));
                tokio::select! {
                    () = signals.next() => println!("\nstopping: the broker first, then the bookies, then metadata"),
                    () = running.until_all_ended() => bail!("no process of the cluster is left; their logs are in {}", dir.display()),
                }
            }
        }
        Ok(match running.stop(&mut signals).await {
            Stopped::Clean => {
                println!("stopped; the data is kept in {}", dir.display());
                ExitCode::SUCCESS
            }
            Stopped::CutOff => ExitCode::from(3),
            Stopped::AtOnce => ExitCode::from(130),
        })
    }

    /// Metadata first, because the others ask it; then everything else at the same time.
    async fn start(&self, dir: &Path, running: &mut Running) -> anyhow::Result<()> {
        let address = |port: u16| format!("localhost:{}", if self.any_port { 0 } else { port });
        let common = |name: &str, admin: u16| {
            let data = dir.join(name).display().to_string();
            let mut args = vec!["--data-dir".into(), data, "--admin-address".into(), address(admin)];
            args.extend(self.set.iter().flat_map(|set| ["--set".to_string(), set.clone()]));
            args
        };
        let role = |role: &str, own: &[&str], common: Vec<String>| {
            let mut words = vec![role.to_string(), "start".into()];
            words.extend(own.iter().map(ToString::to_string));
            words.extend(common);
            words
        };
        let mut servers = String::new();
        for id in 1..=self.metadata {
            let (name, number) = (format!("metadata-{id}"), id.to_string());
            let (listen, peers) = if id == 1 { (9095, 9094) } else { (9110 + id, 9120 + id) };
            let peers = if self.any_port { kept_port(dir, &name)? } else { peers };
            let (listen, peers) = (address(listen), format!("localhost:{peers}"));
            let mut own = vec!["--id", &number, "--address", &listen, "--peer-address", &peers];
            if id > 1 {
                own.extend(["--join", &servers]);
            }
            running.add(&name, dir, role("metadata", &own, common(&name, 8080 + id)))?;
            let here = running.addresses(&name).await?.metadata;
            servers = if id == 1 { here } else { format!("{servers},{here}") };
        }
        for id in 1..=self.bookies {
            let (name, number, listen) = (format!("bookie-{id}"), id.to_string(), address(9095 + id));
            let own = ["--id", &number, "--address", &listen, "--metadata", &servers];
            running.add(&name, dir, role("bookie", &own, common(&name, 8090 + id)))?;
        }
        let own = ["--id", "1", "--kafka-address", &address(9092), "--metadata", &servers];
        running.add("broker", dir, role("broker", &own, common("broker", 8080)))?;
        running.wait_ready().await
    }

    fn directory(&self) -> anyhow::Result<PathBuf> {
        let dir = match &self.dir {
            Some(dir) => dir.clone(),
            None => default_directory().context("there is no home directory; name a directory with --dir")?,
        };
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        fs::canonicalize(&dir).with_context(|| format!("cannot use {}", dir.display()))
    }
}

/// The port of a metadata node for the others, free when it was first asked for and the same at every start: they find
/// each other by it, and cannot tell each other of a new one while no majority runs.
fn kept_port(dir: &Path, name: &str) -> anyhow::Result<u16> {
    let path = dir.join(format!("{name}.port"));
    if let Some(port) = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()) {
        return Ok(port);
    }
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = free.context("there is no free port")?.port();
    fs::write(&path, port.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(port)
}

/// Beside the directory of a standalone server.
fn default_directory() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?;
    Some(base.join("magnetar-cluster"))
}

/// Keeps a second cluster out of the directory; the lock ends with the process.
fn lock(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("a cluster runs in {} already; stop it, or name another directory with --dir", dir.display())
        }
        Err(TryLockError::Error(problem)) => Err(problem).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// The processes of a cluster, in the order in which they were started.
#[derive(Default)]
struct Running(Vec<Member>);

impl Running {
    fn add(&mut self, name: &str, dir: &Path, args: Vec<String>) -> anyhow::Result<()> {
        self.0.push(Member::spawn(name, dir, args)?);
        Ok(())
    }

    /// Where a process is, as soon as it says so.
    async fn addresses(&mut self, name: &str) -> anyhow::Result<Addresses> {
        let member = self.0.iter_mut().find(|member| member.name == name).context("it was started")?;
        let found = async {
            loop {
                if let Some(found) = member.addresses() {
                    return Ok(found);
                }
                member.check()?;
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(found) => found,
            Err(_) => bail!("{name} does not say where it listens; see its log"),
        }
    }

    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let names: Vec<String> = self.0.iter().map(|member| member.name.clone()).collect();
        for name in &names {
            let admin = self.addresses(name).await?.admin;
            let ready = async {
                while !member::is_ready(&admin).await {
                    self.0.iter_mut().try_for_each(Member::check)?;
                    tokio::time::sleep(LOOK).await;
                }
                anyhow::Ok(())
            };
            match tokio::time::timeout(PATIENCE, ready).await {
                Ok(ready) => ready?,
                Err(_) => bail!("{name} is not ready after {PATIENCE:?}; http://{admin}/ready says why"),
            }
        }
        Ok(())
    }

    /// Tells of every process that ends, and what starts it again, until none is left.
    async fn until_all_ended(&mut self) {
        while self.0.iter().any(|member| member.ended.is_none()) {
            for member in &mut self.0 {
                if let Some(how) = member.newly_ended() {
                    println!("{} ended ({how}). To start it again:\n  {}", member.name, member.command_line());
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Stops what still runs: broker, bookies, metadata. A second signal ends all at once.
    async fn stop(&mut self, signals: &mut Signals) -> Stopped {
        let orderly = async {
            let mut clean = true;
            for role in ["broker", "bookie", "metadata"] {
                let group = |member: &&mut Member| member.name.starts_with(role);
                self.0.iter_mut().filter(group).for_each(|member| member.terminate());
                for member in self.0.iter_mut().filter(group) {
                    clean &= member.wait_stopped(LOOK).await;
                }
            }
            clean
        };
        let ended = tokio::select! {
            clean = orderly => Some(clean),
            () = signals.next() => None,
        };
        self.0.iter_mut().for_each(Member::kill);
        match ended {
            Some(true) => Stopped::Clean,
            Some(false) => Stopped::CutOff,
            None => Stopped::AtOnce,
        }
    }

    /// What there is, and what to try.
    fn welcome(&mut self, dir: &Path) -> String {
        let mut rows = Vec::new();
        let (mut kafka, mut metadata) = (String::new(), String::new());
        for member in &mut self.0 {
            let found = member.addresses().unwrap_or_default();
            let serves = [&found.metadata, &found.bookie, &found.kafka].map(String::as_str).concat();
            let (admin, log) = (format!("http://{}", found.admin), member.log.display().to_string());
            rows.push(vec![member.name.clone(), member.pid().to_string(), serves, admin, log]);
            kafka += &found.kafka;
            if !found.metadata.is_empty() {
                metadata =
                    [metadata, found.metadata].into_iter().filter(|m| !m.is_empty()).collect::<Vec<_>>().join(",");
            }
        }
        let processes = table::render(&["PROCESS", "PID", "ADDRESS", "METRICS", "LOG"], &["PID"], rows);
        let program = banner::program(std::env::var_os("PATH").as_deref(), std::env::current_exe().ok().as_deref());
        let server = if kafka == "localhost:9092" { String::new() } else { format!(" -b {kafka}") };
        let cluster =
            if metadata == super::cluster_client::DEFAULT { String::new() } else { format!(" --metadata {metadata}") };
        let watch_metadata = format!("{program} metadata status{cluster}");
        let (pid, again) = match self.0.iter().find(|member| member.name == "bookie-2") {
            Some(second) => (second.pid(), second.command_line()),
            None => (self.0[0].pid(), self.0[0].command_line()),
        };
        let dir = dir.display();
        format!(
            "\n{processes}\n
Kafka clients connect to {kafka}. In another terminal:
  echo hello | {program} produce demo{server}
  {program} consume demo --from-beginning -n 1{server}
  {program} bookie list{cluster}
  {program} verify demo{cluster}
  {watch_metadata}

Break it, while clients go on:
  kill a bookie      kill -9 {pid}
  wipe its disk      rm -rf {dir}/bookie-2
  start it again     {again}
  take its data      {program} bookie replace 2{cluster}
  take it out        {program} bookie decommission 3{cluster}

Ctrl-C stops the cluster."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_belongs_to_one_cluster_at_a_time() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let first = lock(dir.path()).expect("free");
        let refused = lock(dir.path()).expect_err("taken").to_string();
        assert!(refused.contains("--dir"), "{refused}");
        drop(first);
        assert!(lock(dir.path()).is_ok(), "free again");
    }
}
