//! The command line from outside: help, errors and exit codes of the real binary, and that `docs/config.md` says what the
//! program says.

use std::process::{Command, Output};

fn magnetar(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_magnetar"));
    command.args(args).env_remove("MAGNETAR_BOOTSTRAP");
    command.output().expect("the magnetar binary")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard error of a command that must fail.
fn failure(args: &[&str]) -> String {
    let output = magnetar(args);
    assert!(!output.status.success(), "{args:?} succeeded: {}", text(&output.stdout));
    text(&output.stderr)
}

/// An address at which nothing listens.
fn nobody() -> String {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    probe.local_addr().expect("bound").to_string()
}

#[test]
fn help_shows_what_to_type() {
    for args in
        [&["--help"][..], &["standalone", "--help"], &["bench", "produce", "--help"], &["topic", "create", "--help"]]
    {
        let output = magnetar(args);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("  magnetar "), "{args:?} shows no example");
    }
}

#[test]
fn a_mistyped_command_suggests_the_right_one() {
    assert!(failure(&["standalon"]).contains("standalone"));
    assert!(failure(&["topic", "crate", "x"]).contains("create"));
}

#[test]
fn without_a_server_every_client_command_says_how_to_start_one() {
    let address = nobody();
    for args in [
        &["topic", "list"][..],
        &["topic", "create", "x"],
        &["topic", "describe", "x"],
        &["topic", "delete", "x"],
        &["group", "list"],
        &["group", "describe", "x"],
        &["produce", "x"],
        &["consume", "x"],
        &["bench", "produce"],
        &["bench", "consume"],
    ] {
        let all: Vec<&str> = args.iter().copied().chain(["--bootstrap", &address]).collect();
        let problem = failure(&all);
        assert!(problem.contains(&format!("{address}: connection refused")), "{args:?}: {problem}");
        assert!(problem.contains("magnetar standalone"), "{args:?}: {problem}");
    }
}

#[test]
fn a_bad_setting_stops_the_server_before_it_starts() {
    let problem = failure(&["standalone", "--set", "num.partition=3"]);
    assert!(problem.contains("did you mean \"num.partitions\""), "{problem}");
    let problem = failure(&["standalone", "--set", "num.partitions=none"]);
    assert!(problem.contains("whole number"), "{problem}");
    let problem = failure(&["standalone", "--config", "/does/not/exist.toml"]);
    assert!(problem.contains("/does/not/exist.toml"), "{problem}");
}

#[test]
fn a_port_in_use_names_the_port_and_the_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let data = tempfile::tempdir().expect("a scratch folder");
    let dir = data.path().display().to_string();
    let problem =
        failure(&["standalone", "--data-dir", &dir, "--kafka-address", &address, "--admin-address", "127.0.0.1:0"]);
    assert!(problem.contains(&address) && problem.contains("--kafka-address"), "{problem}");
    let problem =
        failure(&["standalone", "--data-dir", &dir, "--kafka-address", "127.0.0.1:0", "--admin-address", &address]);
    assert!(problem.contains(&address) && problem.contains("--admin-address"), "{problem}");
}

#[test]
fn the_printed_defaults_are_a_valid_file() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let file = dir.path().join("magnetar.toml");
    std::fs::write(&file, magnetar(&["config"]).stdout).expect("written");
    let path = file.display().to_string();
    let checked = magnetar(&["config", "check", &path]);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    std::fs::write(&file, "[admin]\nadress = \"x:1\"\n").expect("written");
    assert!(failure(&["config", "check", &path]).contains("did you mean \"admin.address\""));
}

#[test]
fn the_page_of_settings_is_what_the_program_says() {
    let page = include_str!("../docs/config.md");
    let said = text(&magnetar(&["config", "--markdown"]).stdout);
    assert!(page == said, "docs/config.md is out of date; run: magnetar config --markdown > docs/config.md");
}
