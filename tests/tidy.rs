//! The house rules, as tests: arrows between crates, names and sizes of files, module docs, banned calls, paths in
//! documents, metrics in dashboards. What clippy can check (function length, `unwrap`, arguments) is left to clippy.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const ROLES: [&str; 4] = ["metadata", "bookie", "broker", "gateway"];
const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 70;
const DRAWERS: [&str; 7] = ["util", "utils", "helper", "helpers", "common", "misc", "types"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All files below the source and test folders with this extension.
fn files(extension: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                if !path.ends_with("node_modules") && !path.ends_with("target") {
                    walk(&path, extension, found);
                }
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for top in ["src", "protocol", "metadata", "bookie", "broker", "gateway", "tests", "grafana", "docs"] {
        walk(&root().join(top), extension, &mut found);
    }
    found.sort();
    assert!(extension != "rs" || found.len() > 50, "the walk found only {} files", found.len());
    found
}

fn is_test(path: &Path) -> bool {
    let relative = path.strip_prefix(root()).expect("below the root");
    relative.starts_with("tests")
        || relative.components().any(|c| matches!(c.as_os_str().to_str(), Some("tests" | "tests.rs" | "testing")))
}

/// The lines of a file before its test module.
fn production(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let end = lines.iter().position(|l| l.trim_start() == "#[cfg(test)]").unwrap_or(lines.len());
    lines[..end].to_vec()
}

fn report(rule: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{rule}:\n  {}", violations.join("\n  "));
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).expect("below the root").display().to_string()
}

#[test]
fn roles_depend_on_protocol_and_on_no_other_crate_of_ours() {
    let mut violations = Vec::new();
    for name in ROLES.iter().chain(&["protocol"]) {
        let manifest = read(&root().join(name).join("Cargo.toml"));
        let dependencies = manifest.split("[dependencies]").nth(1).expect("a [dependencies] table");
        let listed: BTreeSet<&str> = dependencies
            .lines()
            .filter_map(|l| l.split(['.', '=', ' ']).next())
            .filter(|l| !l.is_empty() && !l.starts_with('['))
            .collect();
        violations.extend(ROLES.iter().filter(|r| listed.contains(**r)).map(|r| format!("{name} -> {r}")));
        if *name != "protocol" && !listed.contains("protocol") {
            violations.push(format!("{name} does not depend on protocol"));
        }
        if !matches!(*name, "bookie" | "metadata") && listed.contains("rocksdb") {
            violations.push(format!("{name} lists rocksdb, so it is not stateless"));
        }
    }
    report("forbidden arrows between crates", &violations);
}

#[test]
fn files_are_rooms_not_halls() {
    let mut violations = Vec::new();
    let mut sizes = Vec::new();
    for path in files("rs") {
        let text = read(&path);
        let lines = production(&text).len();
        if !is_test(&path) {
            sizes.push(lines);
        }
        if lines > MAX_FILE_LINES {
            violations.push(format!("{} has {lines} lines", shown(&path)));
        }
    }
    report(&format!("files over {MAX_FILE_LINES} lines"), &violations);
    sizes.sort_unstable();
    let median = sizes[sizes.len() / 2];
    assert!(median <= 250, "the median file has {median} lines");
}

#[test]
fn functions_fit_on_a_screen() {
    let mut violations = Vec::new();
    for path in files("rs") {
        let text = read(&path);
        let lines = production(&text);
        for (at, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let starts = ["fn ", "pub fn ", "async fn ", "pub async fn ", "pub(crate) fn ", "pub(super) fn "];
            if !starts.iter().any(|s| line.trim_start().starts_with(s)) || line.trim_end().ends_with(';') {
                continue;
            }
            let close = format!("{}}}", " ".repeat(indent));
            let length = lines[at..].iter().position(|l| *l == close).unwrap_or(0);
            if length > MAX_FUNCTION_LINES {
                violations.push(format!("{}:{} is {length} lines long", shown(&path), at + 1));
            }
        }
    }
    report(&format!("functions over {MAX_FUNCTION_LINES} lines"), &violations);
}

#[test]
fn every_file_says_what_it_owns() {
    let missing: Vec<String> = files("rs")
        .into_iter()
        .filter(|p| !read(p).trim_start_matches("#![").trim_start().starts_with("//!"))
        .map(|p| shown(&p))
        .collect();
    report("files without a module doc at the top", &missing);
}

#[test]
fn there_are_no_drawers() {
    let named_badly = |p: &Path| {
        let stem = p.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        let folder = p.parent().and_then(|d| d.file_name()).and_then(|s| s.to_str()).unwrap_or_default();
        DRAWERS.contains(&stem) || DRAWERS.contains(&folder) || stem.ends_with("_v2")
    };
    let drawers: Vec<String> = files("rs").iter().filter(|p| named_badly(p)).map(|p| shown(p)).collect();
    report("files named after nothing they own", &drawers);
}

#[test]
fn banned_calls_stay_banned() {
    // Spelled in halves, so that this file does not find itself.
    let left_over = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!(")];
    let sleeping = [concat!("time", "::sleep"), concat!("thread", "::sleep")];
    let ignored = concat!("#[", "ignore");
    let mut violations = Vec::new();
    for path in files("rs") {
        let text = read(&path);
        for (at, line) in text.lines().enumerate() {
            let place = || format!("{}:{}: {}", shown(&path), at + 1, line.trim());
            if left_over.iter().any(|b| line.contains(b)) || line.contains(ignored) {
                violations.push(place());
            }
            if is_test(&path) && sleeping.iter().any(|b| line.contains(b)) {
                violations.push(place());
            }
        }
    }
    report("left-overs, ignored tests, and tests that sleep", &violations);
}

#[test]
fn pure_machines_know_no_runtime() {
    let pure = [
        "protocol/src/ledger",
        "protocol/src/model",
        "protocol/src/record_batch",
        "protocol/src/wire/metadata/client/calls.rs",
        "protocol/src/wire/metadata/client/route.rs",
        "protocol/src/wire/metadata/client/watches.rs",
        "metadata/src/controller/auditor/absences.rs",
        "metadata/src/controller/auditor/findings.rs",
        "metadata/src/election/contacts.rs",
        "metadata/src/election/standing.rs",
        "metadata/src/sessions.rs",
        "metadata/src/state",
        "broker/src/ledger/machine.rs",
        "broker/src/ledger/recovery_machine.rs",
        "broker/src/managed_ledger/relocation.rs",
        "broker/src/partition/log.rs",
        "broker/src/partition/producer_state.rs",
        "bookie/src/ledger",
        "bookie/src/repair/board.rs",
        "gateway/src/group/machine.rs",
        "gateway/src/group/machine",
    ];
    let banned = ["tokio", "async fn", "Instant::now", "SystemTime", "rand::"];
    let mut violations = Vec::new();
    let mut seen = 0;
    for path in files("rs") {
        if !pure.iter().any(|p| path.starts_with(root().join(p))) || is_test(&path) {
            continue;
        }
        seen += 1;
        let text = read(&path);
        for line in production(&text).iter().filter(|l| !l.trim_start().starts_with("//")) {
            violations
                .extend(banned.iter().filter(|b| line.contains(**b)).map(|b| format!("{} names {b}", shown(&path))));
        }
    }
    assert!(seen >= 15, "only {seen} pure files found: the list above is out of date");
    report("pure machines that reach for the outside", &violations);
}

#[test]
fn documents_point_at_what_exists() {
    let mut violations = Vec::new();
    for name in ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"] {
        let text = read(&root().join(name));
        let mut paths = 0;
        // A path is what stands in backticks, holds a slash or a known ending, and no blanks.
        for quoted in text.split('`').skip(1).step_by(2) {
            let path = quoted.split(['#', ':']).next().unwrap_or_default();
            let looks = [".rs", ".md", ".toml", ".proto", ".sh", ".json", ".txt"].iter().any(|e| path.ends_with(e))
                || (path.ends_with('/') && !path.contains("//"));
            if !looks || path.contains([' ', '*', '<', '$', '{']) || path.starts_with(['/', '-', '~']) {
                continue;
            }
            paths += 1;
            if !root().join(path).exists() {
                violations.push(format!("{name}: {path}"));
            }
        }
        assert!(name != "ARCHITECTURE.md" || paths > 40, "ARCHITECTURE.md names only {paths} paths");
    }
    report("paths that do not exist", &violations);
}

#[test]
fn dashboards_name_metrics_that_exist() {
    let sources: String = files("rs").iter().map(|p| read(p)).collect();
    let mut violations = Vec::new();
    let mut named = 0;
    for path in files("json") {
        let text = read(&path);
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if !word.starts_with("magnetar_") {
                continue;
            }
            named += 1;
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|s| word.strip_suffix(s)).unwrap_or(word);
            // A name stands in quotes of its own, or in front of its labels in text that is rendered by hand.
            let known = |name: &str| sources.contains(&format!("\"{name}\"")) || sources.contains(&format!("{name}{{"));
            if !known(base) && !known(word) {
                violations.push(format!("{}: {word}", shown(&path)));
            }
        }
    }
    assert!(named > 0, "no dashboard names a metric");
    report("dashboards name unknown metrics", &violations);
}
