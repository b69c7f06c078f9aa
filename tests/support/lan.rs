//! A network of Linux network namespaces: every member of a cluster in a room of its own, all rooms on one switch, which
//! stands in a namespace, too. Owns their names, which no other run has, and their end: they are deleted when the test
//! ends, however it ends. Never touches the network of the machine. Needs root and iproute2; without them it says so.
//!
//! A direction is cut at its sender: its neighbour table gets a hardware address that nobody has, so that frames leave
//! and nobody takes them. Nothing is refused and nothing is told, as with a broken cable or a lost route.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::fd::AsFd,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// What every namespace of ours is called before the process id.
const PREFIX: &str = "magnetar-test-";
/// A hardware address that nobody has.
const NOBODY: &str = "02:00:00:00:00:01";

/// One network.
#[derive(Debug)]
pub struct Lan {
    /// What its namespaces are called before the number of the room.
    name: String,
    rooms: usize,
}

impl Lan {
    /// A network with so many rooms; none, with a line that says why, where the machine does not allow it.
    pub fn build(rooms: usize) -> Option<Self> {
        static BUILT: AtomicU32 = AtomicU32::new(0);
        sweep();
        let name = format!("{PREFIX}{}-{}-", std::process::id(), BUILT.fetch_add(1, Ordering::Relaxed));
        // Whatever stands so far goes with it if a step fails.
        let lan = Self { name, rooms };
        match lan.set_up() {
            Ok(()) => Some(lan),
            Err(problem) => {
                super::skip(&format!("this machine gives us no network namespaces: {problem}"));
                None
            }
        }
    }

    fn set_up(&self) -> Result<(), String> {
        let switch = self.switch();
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "switch", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "switch", "up"])?;
        for at in 0..self.rooms {
            let (room, port, address) = (self.room(at), port(at), format!("{}/24", self.host(at)));
            ip(&["netns", "add", &room])?;
            ip(&["-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &room])?;
            ip(&["-n", &switch, "link", "set", &port, "master", "switch", "up"])?;
            ip(&["-n", &room, "link", "set", "lo", "up"])?;
            ip(&["-n", &room, "address", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &room, "link", "set", "eth0", "up"])?;
        }
        Ok(())
    }

    /// The namespace of a room.
    pub fn room(&self, at: usize) -> String {
        format!("{}{at}", self.name)
    }

    fn switch(&self) -> String {
        format!("{}switch", self.name)
    }

    /// The address of a room.
    pub fn host(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, u8::try_from(at + 1).expect("few rooms"))
    }

    /// Moves the calling thread, and those that it starts from now on, into a room for the rest of their lives.
    pub fn enter(&self, at: usize) {
        let room = File::open(Path::new("/run/netns").join(self.room(at))).expect("the room stands");
        move_into_link_name_space(room.as_fd(), Some(LinkNameSpaceType::Network)).expect("we are allowed to");
    }

    /// What goes from one room to another vanishes; the other way is open.
    pub fn cut(&self, from: usize, to: usize) {
        let (room, host) = (self.room(from), self.host(to).to_string());
        run(&["-n", &room, "neigh", "replace", &host, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent"]);
    }

    /// Opens this way again.
    pub fn mend(&self, from: usize, to: usize) {
        let (room, host) = (self.room(from), self.host(to).to_string());
        run(&["-n", &room, "neigh", "del", &host, "dev", "eth0"]);
    }

    /// Pulls the cable of a room.
    pub fn unplug(&self, at: usize) {
        run(&["-n", &self.switch(), "link", "set", &port(at), "down"]);
    }

    /// Puts it in again.
    pub fn plug(&self, at: usize) {
        run(&["-n", &self.switch(), "link", "set", &port(at), "up"]);
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        delete(|name| name.starts_with(&self.name));
    }
}

fn port(at: usize) -> String {
    format!("port{at}")
}

/// Deletes what test processes left behind that were killed.
fn sweep() {
    delete(|name| {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    });
}

fn delete(is_meant: impl Fn(&str) -> bool) {
    let Ok(names) = fs::read_dir("/run/netns") else { return };
    for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_meant(name)) {
        if let Err(problem) = ip(&["netns", "del", &name]) {
            eprintln!("the namespace {name} is left behind: {problem}");
        }
    }
}

fn run(arguments: &[&str]) {
    ip(arguments).unwrap_or_else(|problem| panic!("{problem}"));
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|problem| format!("ip: {problem}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip {}: {}", arguments.join(" "), told.trim())) }
}
