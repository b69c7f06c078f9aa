//! A cluster of real processes for fault tests: one or more metadata nodes, any number of bookies, one broker. Owns which
//! processes there are and how they find each other, and what is put between them on purpose: the fault shim below each
//! and a proxy before each. All of them end when the test ends, however it ends.

pub use super::member::Member;
use super::{free_port, lan::Lan, proxy::Proxy};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
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
    /// How many metadata nodes, with the ids 1 to n; one if none are named.
    pub voters: usize,
    /// The server whose metadata the nodes 2 to n join; the first node if none is named.
    pub founder: Option<String>,
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

    /// With so many metadata nodes, reached without proxies.
    pub fn with_voters(self, voters: usize) -> Self {
        Self { voters, ..self }
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

/// All processes.
pub struct Cluster {
    /// The first metadata node, which founds the cluster.
    pub metadata: Member,
    /// The metadata nodes that join it, with the ids 2 to n.
    pub joined: Vec<Member>,
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
        assert!(plan.voters < 2 || (!plan.proxies && plan.lan.is_none()), "nothing is put between metadata nodes");
        let metadata = Self::metadata_node(1, scratch.path().join("metadata"), &plan);
        let join = |id| {
            let mut node = Self::metadata_node(id, scratch.path().join(format!("metadata{id}")), &plan);
            node.argue("--join", plan.founder.clone().unwrap_or_else(|| metadata.address().to_string()));
            node
        };
        let joined = (2..=plan.voters).map(join).collect();
        let mut broker =
            Member::new("broker".into(), scratch.path().join("broker"), &["broker", "start"], &plan, Room::BROKER);
        broker.argue("--id", 1);
        broker.argue("--kafka-address", broker.address());
        let mut cluster = Self { metadata, joined, bookies: Vec::new(), broker, plan, scratch };
        cluster.broker.metadata_link = cluster.way_to_metadata();
        let address = cluster.metadata_for(&cluster.broker);
        cluster.broker.argue("--metadata", address);
        for _ in 0..cluster.plan.bookies {
            cluster.prepare_bookie();
        }
        cluster
    }

    fn metadata_node(id: usize, home: PathBuf, plan: &Plan) -> Member {
        let name = if id == 1 { "metadata".into() } else { format!("metadata{id}") };
        let mut node = Member::new(name, home, &["metadata", "start"], plan, Room::METADATA);
        node.argue("--id", id);
        node.argue("--address", node.address());
        node.argue("--peer-address", SocketAddr::new(node.address().ip(), free_port()));
        node
    }

    /// The proxy of one member before metadata, if the plan has proxies.
    fn way_to_metadata(&self) -> Option<Proxy> {
        self.plan.proxies.then(|| Proxy::start(self.metadata.address()))
    }

    /// What a member is told about where metadata is.
    fn metadata_for(&self, member: &Member) -> String {
        member.metadata_link.as_ref().map_or_else(|| self.metadata_addresses(), |link| link.address().to_string())
    }

    /// The addresses of all metadata nodes, with commas between them.
    pub fn metadata_addresses(&self) -> String {
        self.metadata_nodes().map(|node| node.address().to_string()).collect::<Vec<_>>().join(",")
    }

    /// All metadata nodes, by number.
    pub fn metadata_nodes(&self) -> impl Iterator<Item = &Member> {
        [&self.metadata].into_iter().chain(&self.joined)
    }

    /// A metadata node by its number.
    pub fn metadata_at(&mut self, id: u64) -> &mut Member {
        if id == 1 { &mut self.metadata } else { &mut self.joined[usize::try_from(id).expect("small") - 2] }
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
        bookie.metadata_link = self.way_to_metadata();
        bookie.argue("--metadata", self.metadata_for(&bookie));
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
        [&mut self.metadata].into_iter().chain(&mut self.joined).chain(&mut self.bookies).chain([&mut self.broker])
    }

    /// SIGKILL to every process at once.
    pub fn kill_all(&mut self) {
        self.members().for_each(Member::strike);
        self.members().for_each(Member::kill);
    }

    /// Starts all members that do not run and waits until all are ready.
    pub fn restart_all(&mut self) {
        self.members().filter_map(|m| (!m.is_running()).then_some(m)).for_each(Member::spawn);
        self.members().for_each(Member::wait_ready);
    }

    /// Starts the metadata nodes that do not run and waits until all are ready.
    pub fn restart_metadata(&mut self) {
        let nodes = [&mut self.metadata].into_iter().chain(&mut self.joined);
        nodes.filter_map(|m| (!m.is_running()).then_some(m)).for_each(Member::spawn);
        [&mut self.metadata].into_iter().chain(&mut self.joined).for_each(Member::wait_ready);
    }

    /// Waits until every copy of every entry of a topic is where metadata says; repair may take more than our patience.
    pub fn wait_whole(&self, topic: &str) {
        let deadline = super::deadline() + super::PATIENCE;
        loop {
            let (whole, text) = self.run(&["verify", topic]);
            if whole {
                return;
            }
            assert!(!super::passed(deadline), "copies are missing:\n{text}");
            super::hold(Duration::from_millis(500));
        }
    }

    /// Runs a command of ours against this cluster; returns whether it succeeded and all that it printed.
    pub fn run(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(super::binary())
            .args(arguments)
            .env("MAGNETAR_METADATA", self.metadata_addresses())
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
