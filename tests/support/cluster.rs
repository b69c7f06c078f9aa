//! A cluster of real processes for fault tests: one metadata node, any number of bookies, one broker. Owns the processes
//! (killed when the test ends, however it ends), their directories, their addresses, which survive restarts, and what is
//! put between them on purpose: the fault shim below each and a proxy before each. Kills only what it started.

use super::{
    free_port,
    lan::Lan,
    proxy::Proxy,
    shim::{Shim, cut},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tempfile::TempDir;

/// Tests that start many processes take turns; a test that failed does not keep the others from running.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a cluster is made of.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// How many bookies, with the ids 1 to n.
    pub bookies: usize,
    /// Runs every process under the fault shim, where there is a C compiler.
    pub shim: bool,
    /// Puts a proxy before every bookie, and before metadata for every bookie and for the broker.
    pub proxies: bool,
    /// `name=value` for every process.
    pub settings: Vec<String>,
    /// Puts every process into a room of its own ([`Room`]); whoever starts the cluster is in [`Room::CLIENT`].
    pub lan: Option<Arc<Lan>>,
    /// Directories of bookies that are not below the scratch folder, by position.
    pub homes: Vec<Option<PathBuf>>,
}

impl Plan {
    /// So many bookies, nothing between them.
    pub fn of(bookies: usize) -> Self {
        Self { bookies, ..Self::default() }
    }

    /// With the fault shim.
    pub fn with_shim(self) -> Self {
        Self { shim: true, ..self }
    }

    /// With proxies.
    pub fn with_proxies(self) -> Self {
        Self { proxies: true, ..self }
    }

    /// In namespaces of their own; one room for the client, one for metadata, one for the broker, and one per bookie.
    pub fn with_lan(self, lan: Arc<Lan>) -> Self {
        Self { lan: Some(lan), ..self }
    }

    /// With a setting for every process.
    pub fn with(mut self, setting: &str) -> Self {
        self.settings.push(setting.into());
        self
    }
}

/// Which room of a [`Lan`] is whose.
pub struct Room;

impl Room {
    /// Clients and commands.
    pub const CLIENT: usize = 0;
    /// The metadata node.
    pub const METADATA: usize = 1;
    /// The broker.
    pub const BROKER: usize = 2;

    /// A bookie, by position.
    pub const fn bookie(at: usize) -> usize {
        3 + at
    }
}

/// One process of a cluster and all that outlives it.
pub struct Member {
    /// What it is called in messages.
    pub name: String,
    /// Its admin port.
    pub admin: u16,
    /// The port on which it serves its role.
    pub port: u16,
    /// The fault shim below it.
    pub shim: Option<Shim>,
    /// The proxy that others reach it through.
    pub link: Option<Proxy>,
    /// The proxy through which it reaches metadata.
    pub metadata_link: Option<Proxy>,
    /// Where it listens.
    host: Ipv4Addr,
    /// The namespace it runs in; that of whoever starts it if none is named.
    room: Option<String>,
    home: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
    stopped: bool,
}

impl Member {
    fn new(name: String, home: PathBuf, role: &[&str], plan: &Plan, at: usize) -> Self {
        fs::create_dir_all(home.join("data")).expect("a home");
        let shim = if plan.shim { Shim::new(&home.join("data"), &home.join("shim")) } else { None };
        let (admin, port) = (free_port(), free_port());
        let host = plan.lan.as_ref().map_or(Ipv4Addr::LOCALHOST, |lan| lan.host(at));
        let room = plan.lan.as_ref().map(|lan| lan.room(at));
        let mut arguments: Vec<String> = role.iter().map(ToString::to_string).collect();
        arguments.extend(["--data-dir".into(), home.join("data").display().to_string()]);
        arguments.extend(["--admin-address".into(), format!("{host}:{admin}")]);
        for setting in &plan.settings {
            arguments.extend(["--set".into(), setting.clone()]);
        }
        let (link, metadata_link) = (None, None);
        let (child, stopped) = (None, false);
        Self { name, admin, port, shim, link, metadata_link, host, room, home, arguments, child, stopped }
    }

    fn argue(&mut self, name: &str, value: impl ToString) {
        self.arguments.extend([name.into(), value.to_string()]);
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from((self.host, self.port))
    }

    fn get(&self, path: &str) -> Option<(u16, String)> {
        super::http_get((self.host, self.admin).into(), path)
    }

    /// The program, in the room it belongs to; what starts it there becomes it.
    fn program(&self) -> Command {
        let Some(room) = &self.room else { return Command::new(super::binary()) };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", room]).arg(super::binary());
        command
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// All it printed so far, over all its lives.
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    /// Whether a process is there, be it stopped or not.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|c| c.try_wait().expect("a child").is_none())
    }

    /// Starts the process without waiting for it.
    pub fn spawn(&mut self) {
        assert!(!self.is_running(), "{} is already running", self.name);
        let log = File::options().create(true).append(true).open(self.home.join("log")).expect("a log file");
        let mut command = self.program();
        command.args(&self.arguments).env("RUST_BACKTRACE", "1");
        let errors = log.try_clone().expect("a second handle");
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        if let Some(shim) = &self.shim {
            shim.apply(&mut command);
        }
        self.child = Some(command.spawn().expect("the magnetar binary"));
        self.stopped = false;
    }

    /// Whether `/ready` says so.
    pub fn is_ready(&self) -> bool {
        self.get("/ready").is_some_and(|(status, _)| status == 200)
    }

    /// Waits for `/ready`; fails at once if the process ends.
    pub fn wait_ready(&mut self) {
        let deadline = super::deadline();
        while !self.is_ready() {
            let (alive, late) = (self.is_running(), super::passed(deadline));
            assert!(alive && !late, "{} is not ready (alive: {alive}): {:?}", self.name, self.obstacle());
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
    }

    fn obstacle(&self) -> Option<(u16, String)> {
        self.get("/ready")
    }

    /// The sum of a metric over all its series.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let (_, body) = self.get("/metrics")?;
        let values = body.lines().filter(|l| l.strip_prefix(name).is_some_and(|r| r.starts_with(['{', ' '])));
        let values: Vec<f64> = values.filter_map(|l| l.rsplit(' ').next()?.parse().ok()).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("running");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("not zero");
        kill_process(pid, signal).expect("our own process");
    }

    /// SIGKILL: no destructor, no flush.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().expect("reaped");
        }
    }

    /// SIGSTOP: the process hangs, its connections stay open.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
        self.stopped = true;
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
        self.stopped = false;
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_exit()
    }

    /// Waits until the process ends by itself.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let mut status = None;
        let name = self.name.clone();
        super::wait_until(&format!("the end of {name}"), || {
            status = self.child.as_mut().expect("started").try_wait().expect("a child");
            status.is_some()
        });
        self.child = None;
        status.expect("ended")
    }

    /// Starts again on the same directory and addresses, and waits until it is ready.
    pub fn restart(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    /// SIGKILL and the loss of what was not synced; without the shim only SIGKILL. The process stays dead.
    pub fn power_cut(&mut self, how: cut::Survivors) -> cut::Report {
        self.kill();
        self.shim.as_ref().map(|shim| shim.power_cut(how)).unwrap_or_default()
    }

    /// Empties the directory of the dead process.
    pub fn wipe(&mut self) {
        assert!(!self.is_running(), "{} still writes", self.name);
        fs::remove_dir_all(self.data()).expect("removed");
        fs::create_dir(self.data()).expect("made");
        if let Some(shim) = &self.shim {
            shim.forget();
        }
    }

    /// Files below the data directory of the dead process, in a fixed order.
    pub fn files(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).expect("a directory").flatten() {
                if entry.path().is_dir() { walk(&entry.path(), found) } else { found.push(entry.path()) }
            }
        }
        let mut found = Vec::new();
        walk(&self.data(), &mut found);
        found.sort();
        found
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// All processes.
pub struct Cluster {
    /// The one metadata node.
    pub metadata: Member,
    /// Bookies with the ids 1 to n.
    pub bookies: Vec<Member>,
    /// The one broker.
    pub broker: Member,
    plan: Plan,
    scratch: TempDir,
}

impl Cluster {
    /// Starts all processes and waits until they are ready.
    pub fn start(plan: Plan) -> Self {
        let mut cluster = Self::prepared(plan);
        cluster.restart_all();
        cluster
    }

    /// Directories and addresses, and no process yet.
    pub fn prepared(mut plan: Plan) -> Self {
        plan.settings.insert(0, "group.initial.rebalance.delay.ms=0".into());
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let mut metadata = Member::new(
            "metadata".into(),
            scratch.path().join("metadata"),
            &["metadata", "start"],
            &plan,
            Room::METADATA,
        );
        metadata.argue("--address", metadata.address());
        let mut broker =
            Member::new("broker".into(), scratch.path().join("broker"), &["broker", "start"], &plan, Room::BROKER);
        broker.argue("--id", 1);
        broker.argue("--kafka-address", broker.address());
        Self::lead_to_metadata(&mut broker, &metadata, &plan);
        let mut cluster = Self { metadata, bookies: Vec::new(), broker, plan, scratch };
        for _ in 0..cluster.plan.bookies {
            cluster.prepare_bookie();
        }
        cluster
    }

    fn lead_to_metadata(member: &mut Member, metadata: &Member, plan: &Plan) {
        if plan.proxies {
            member.metadata_link = Some(Proxy::start(metadata.address()));
        }
        let address = member.metadata_link.as_ref().map_or(metadata.address(), Proxy::address);
        member.argue("--metadata", address);
    }

    fn prepare_bookie(&mut self) {
        let at = self.bookies.len();
        let name = format!("bookie{}", at + 1);
        let home = self.plan.homes.get(at).cloned().flatten().unwrap_or_else(|| self.scratch.path().join(&name));
        let mut bookie = Member::new(name, home, &["bookie", "start"], &self.plan, Room::bookie(at));
        bookie.argue("--id", at + 1);
        bookie.argue("--address", bookie.address());
        if self.plan.proxies {
            let link = Proxy::start(bookie.address());
            bookie.argue("--advertised", link.address());
            bookie.link = Some(link);
        }
        Self::lead_to_metadata(&mut bookie, &self.metadata, &self.plan);
        self.bookies.push(bookie);
    }

    /// Starts one more bookie and waits until it is ready; returns its position.
    pub fn add_bookie(&mut self) -> usize {
        self.prepare_bookie();
        let at = self.bookies.len() - 1;
        self.bookies[at].restart();
        at
    }

    /// Where Kafka clients connect.
    pub fn bootstrap(&self) -> String {
        self.broker.address().to_string()
    }

    /// All members.
    pub fn members(&mut self) -> impl Iterator<Item = &mut Member> {
        [&mut self.metadata].into_iter().chain(&mut self.bookies).chain([&mut self.broker])
    }

    /// SIGKILL to every process at once.
    pub fn kill_all(&mut self) {
        for member in self.members() {
            if let Some(child) = &mut member.child {
                let _ = child.kill();
            }
        }
        self.members().for_each(Member::kill);
    }

    /// Starts all members that do not run and waits until all are ready.
    pub fn restart_all(&mut self) {
        self.members().filter_map(|m| (!m.is_running()).then_some(m)).for_each(Member::spawn);
        self.members().for_each(Member::wait_ready);
    }

    /// Runs a command of ours against this cluster; returns whether it succeeded and all that it printed.
    pub fn run(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(super::binary())
            .args(arguments)
            .env("MAGNETAR_METADATA", self.metadata.address().to_string())
            .env("MAGNETAR_BOOTSTRAP", self.bootstrap())
            .stdin(Stdio::null())
            .output()
            .expect("the magnetar binary");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text.into_owned())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for arguments in [&["bookie", "list"][..], &["ledger", "list"]] {
                eprintln!("--- magnetar {arguments:?}\n{}", self.run(arguments).1);
            }
        }
        self.kill_all();
        if std::thread::panicking() {
            for member in self.members() {
                let text = member.log_text();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("--- {}\n{}", member.name, lines[lines.len().saturating_sub(60)..].join("\n"));
                // The whole of it stays beside the build, for whoever looks into the failure.
                let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.log", member.name));
                let _ = fs::write(kept, &text);
            }
        }
    }
}
