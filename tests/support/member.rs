//! One process of a cluster of real processes, and all that outlives it: its directory, its addresses, which survive
//! restarts, and the fault shim below it. Owns the child, which it kills when it is dropped; kills nothing else.

use super::{
    cluster::Plan,
    free_port,
    proxy::Proxy,
    shim::{Shim, cut},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

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
    pub(super) fn new(name: String, home: PathBuf, role: &[&str], plan: &Plan, at: usize) -> Self {
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

    /// One more argument, for all its lives.
    pub fn argue(&mut self, name: &str, value: impl ToString) {
        self.arguments.extend([name.into(), value.to_string()]);
    }

    /// Another value for an argument that it has, from its next start on.
    pub fn argue_anew(&mut self, name: &str, value: impl ToString) {
        let at = self.arguments.iter().position(|argument| argument == name).expect("it has the argument");
        self.arguments[at + 1] = value.to_string();
    }

    /// Where it serves its role.
    pub fn address(&self) -> SocketAddr {
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

    /// SIGKILL, without waiting for its end.
    pub(super) fn strike(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
        }
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
