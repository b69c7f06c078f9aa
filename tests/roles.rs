//! Roles in processes of their own, as an operator starts them: what they say, what they wait for, what they refuse, and
//! what goes on while metadata is away. Faults under load are in other files; this one owns starts and stops.

mod support;

use std::{
    fs::File,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use support::{Server, wait_until};
use tempfile::TempDir;

/// One test at a time: each runs several processes.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process of the program, with a log. It is killed when this is dropped.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(dir: &Path, name: &str, args: &[&str]) -> Self {
        let log = dir.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).expect("a log");
        let errors = out.try_clone().expect("a second handle");
        let mut command = Command::new(env!("CARGO_BIN_EXE_magnetar"));
        command.args(args).stdin(Stdio::null()).stdout(out).stderr(errors);
        Self { child: command.spawn().expect("the magnetar binary"), log }
    }

    /// Starts a role on ports that the system chooses.
    fn role(dir: &Path, name: &str, role: &str, args: &[&str]) -> Self {
        let data = dir.join(name).display().to_string();
        let common = [role, "start", "--data-dir", &data, "--admin-address", "localhost:0"];
        Self::start(dir, name, &[&common[..], args].concat())
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The address on the line that begins with `name`, once it is there; the latest, if the log holds several runs.
    fn address(&self, name: &str) -> String {
        let prefix = format!("{name}: ");
        let find = || self.text().lines().rev().find_map(|line| Some(line.strip_prefix(&prefix)?.to_string()));
        wait_until(&format!("{name} of {}", self.log.display()), || find().is_some());
        find().expect("just seen").trim_start_matches("http://").into()
    }

    fn ready_answer(&self) -> Option<String> {
        let admin = self.address("admin");
        let mut stream = TcpStream::connect(&admin).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(stream, "GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn wait_ready(&mut self) {
        wait_until(&format!("ready: {}", self.log.display()), || {
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none(), "ended ({ended:?}):\n{}", self.text());
            self.ready_answer().is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        });
    }

    fn signal(&self, name: &str) {
        let kill = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(kill.expect("kill").success());
    }

    fn wait_end(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until(&format!("the end of {}", self.log.display()), || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("just seen")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.text());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command of the program with this input; its output, or what it said.
fn magnetar(args: &[&str], input: &str) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_magnetar"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the magnetar binary");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("ends");
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if output.status.success() { Ok(out) } else { Err(out + &err) }
}

fn produce(kafka: &str, text: &str) {
    magnetar(&["produce", "demo", "-b", kafka], text).expect("produced");
}

fn consume(kafka: &str, count: usize) -> String {
    let count = count.to_string();
    magnetar(&["consume", "demo", "--from-beginning", "-n", &count, "-b", kafka], "").expect("consumed")
}

/// One process of each role, for what does not need three bookies.
struct Small {
    dir: TempDir,
    metadata: Process,
    bookie: Process,
    broker: Process,
}

impl Small {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let port = support::free_port();
        let servers = format!("127.0.0.1:{port}");
        // The others come first: they wait.
        let bookie = Self::bookie(dir.path(), &servers);
        let set = ["--set", "default.replication.factor=1", "--set", "offsets.topic.replication.factor=1"];
        let own = ["--kafka-address", "127.0.0.1:0", "--metadata", &servers];
        let broker = Process::role(dir.path(), "broker", "broker", &[&own[..], &set].concat());
        for process in [&bookie, &broker] {
            wait_until("it says what it waits for", || {
                process.ready_answer().is_some_and(|answer| answer.contains("waiting for metadata at 127.0.0.1"))
            });
        }
        let metadata = Self::metadata(dir.path(), &servers);
        let mut small = Self { dir, metadata, bookie, broker };
        small.metadata.wait_ready();
        small.bookie.wait_ready();
        small.broker.wait_ready();
        small
    }

    fn metadata(dir: &Path, address: &str) -> Process {
        Process::role(dir, "metadata", "metadata", &["--address", address, "--peer-address", "127.0.0.1:0"])
    }

    fn bookie(dir: &Path, servers: &str) -> Process {
        Process::role(dir, "bookie", "bookie", &["--id", "7", "--address", "127.0.0.1:0", "--metadata", servers])
    }

    fn servers(&self) -> String {
        self.metadata.address("metadata")
    }
}

#[test]
fn roles_find_each_other_in_any_order_and_stop_cleanly() {
    let _turn = alone();
    let mut small = Small::start();
    let kafka = small.broker.address("kafka");
    produce(&kafka, "one\ntwo\n");
    assert_eq!(consume(&kafka, 2), "one\ntwo\n");
    let listed = magnetar(&["bookie", "list", "--metadata", &small.servers()], "").expect("listed");
    assert!(listed.contains("writable") && listed.contains(&small.bookie.address("bookie")), "{listed}");
    for process in [&mut small.broker, &mut small.bookie, &mut small.metadata] {
        process.signal("TERM");
        let status = process.wait_end();
        assert!(status.success(), "{status}:\n{}", process.text());
    }
}

#[test]
fn a_bookie_that_comes_back_at_another_address_is_found_again() {
    let _turn = alone();
    let mut small = Small::start();
    let kafka = small.broker.address("kafka");
    produce(&kafka, "before\n");
    let (old, servers) = (small.bookie.address("bookie"), small.servers());
    small.bookie.signal("KILL");
    small.bookie.wait_end();
    small.bookie = Small::bookie(small.dir.path(), &servers);
    wait_until("it listens again", || small.bookie.address("bookie") != old);
    small.bookie.wait_ready();
    produce(&kafka, "after\n");
    assert_eq!(consume(&kafka, 2), "before\nafter\n");
}

#[test]
fn what_is_open_goes_on_while_metadata_is_away() {
    let _turn = alone();
    let mut small = Small::start();
    let (kafka, servers) = (small.broker.address("kafka"), small.servers());
    produce(&kafka, "before\n");
    small.metadata.signal("KILL");
    small.metadata.wait_end();
    produce(&kafka, "during\n");
    assert_eq!(consume(&kafka, 2), "before\nduring\n");
    small.metadata = Small::metadata(small.dir.path(), &servers);
    small.metadata.wait_ready();
    // A new topic needs metadata, and both others have found it again.
    wait_until("topics can be created again", || {
        magnetar(&["topic", "create", "again", "-b", &kafka], "").is_ok()
            || magnetar(&["topic", "list", "-b", &kafka], "").is_ok_and(|topics| topics.contains("again"))
    });
    assert_eq!(consume(&kafka, 2), "before\nduring\n");
}

#[test]
fn a_second_process_on_a_directory_and_a_wrong_cluster_are_refused_with_words() {
    let _turn = alone();
    let mut small = Small::start();
    // Both write to one log, and the twin says where it would listen before it is refused.
    let taken = small.bookie.address("bookie");
    let mut twin = Small::bookie(small.dir.path(), &small.servers());
    assert!(!twin.wait_end().success());
    assert!(twin.text().contains("is in use by another Magnetar process"), "{}", twin.text());

    let own = ["--id", "8", "--address", &taken, "--metadata", &small.servers()];
    let mut same_port = Process::role(small.dir.path(), "same-port", "bookie", &own);
    assert!(!same_port.wait_end().success());
    assert!(same_port.text().contains("another program uses this port"), "{}", same_port.text());

    small.bookie.signal("TERM");
    assert!(small.bookie.wait_end().success());
    let other = Process::role(
        small.dir.path(),
        "other-metadata",
        "metadata",
        &["--address", "127.0.0.1:0", "--peer-address", "127.0.0.1:0"],
    );
    let mut lost = Small::bookie(small.dir.path(), &other.address("metadata"));
    assert!(!lost.wait_end().success());
    assert!(lost.text().contains("belongs to bookie 7 of cluster"), "{}", lost.text());
}

#[test]
fn a_standalone_node_that_gets_more_bookies_raises_its_copies() {
    let _turn = alone();
    let dir = tempfile::tempdir().expect("a scratch folder");
    let address = || format!("127.0.0.1:{}", support::free_port());
    let (metadata, bookie, peers) = (address(), address(), address());
    let set = [
        format!("metadata.address={metadata}"),
        format!("metadata.peer_address={peers}"),
        format!("bookie.address={bookie}"),
    ];
    let node = Server::start(&set.each_ref().map(String::as_str));
    produce(&node.bootstrap(), "one\ntwo\n");
    let asked = |command: &[&str]| magnetar(&[command, &["--metadata", &metadata]].concat(), "");
    let lacking = || asked(&["ledger", "list", "--short"]).expect("listed");
    assert!(lacking().contains("1 of 3"), "{}", lacking());
    let mut more = ["8", "9"].map(|id| {
        let own = ["--id", id, "--address", "127.0.0.1:0", "--metadata", &metadata];
        Process::role(dir.path(), &format!("bookie{id}"), "bookie", &own)
    });
    more.iter_mut().for_each(Process::wait_ready);
    wait_until("every ledger has its three copies", || lacking().contains("no ledgers lack copies"));
    let told = asked(&["verify", "demo"]).expect("every copy is whole");
    println!("{told}");
    assert_eq!(consume(&node.bootstrap(), 2), "one\ntwo\n");
}

#[test]
fn a_cluster_in_one_command_starts_stops_and_finds_its_data_again() {
    let _turn = alone();
    let dir = tempfile::tempdir().expect("a scratch folder");
    let data = dir.path().join("cluster").display().to_string();
    let args = ["cluster", "--any-port", "--dir", &data];
    let line = |process: &Process, name: &str, at: usize| {
        let text = process.text();
        let found = text.lines().rev().find(|line| line.starts_with(name)).map(|l| l.split_whitespace().nth(at));
        found.flatten().expect("a line of the table").to_string()
    };
    let mut first = Process::start(dir.path(), "first", &args);
    wait_until("the first run is ready", || first.text().contains("Ctrl-C stops the cluster."));
    let kafka = line(&first, "broker", 2);
    produce(&kafka, "kept\n");
    let mut second = Process::start(dir.path(), "second", &args);
    assert!(!second.wait_end().success());
    assert!(second.text().contains("a cluster runs in"), "{}", second.text());

    // A bookie dies: it says so and what starts it again, and writing goes on.
    let killed = Command::new("kill").args(["-KILL", &line(&first, "bookie-2", 1)]).status();
    assert!(killed.expect("kill").success());
    wait_until("it tells of the end", || first.text().contains("bookie-2 ended (by signal 9)"));
    assert!(first.text().contains("bookie start --id 2"), "{}", first.text());
    produce(&kafka, "and more\n");
    first.signal("INT");
    let status = first.wait_end();
    assert!(status.success() && first.text().contains("the data is kept"), "{status}");

    let mut again = Process::start(dir.path(), "again", &args);
    wait_until("the second run is ready", || again.text().contains("Ctrl-C stops the cluster."));
    assert_eq!(consume(&line(&again, "broker", 2), 2), "kept\nand more\n");
    again.signal("TERM");
    assert!(again.wait_end().success());
}
