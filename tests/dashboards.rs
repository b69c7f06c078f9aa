//! The dashboard and the alerts against a real server: what they name is scraped, what they ask parses, and every panel
//! says what it shows. Owns reading just enough of PromQL to find metrics and labels in it; never judges a threshold.

mod support;

use rdkafka::consumer::{CommitMode, Consumer};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use support::{Server, client, free_port, wait_until};
use tempfile::TempDir;

/// Made by Prometheus itself for every target it scrapes.
const FROM_PROMETHEUS: &str = "up";
/// Labels that Prometheus adds to every series.
const TARGET_LABELS: [&str; 2] = ["instance", "job"];
/// What stands between operands without being a metric.
const OPERATORS: [&str; 4] = ["and", "or", "unless", "bool"];
/// Words that a list of labels in parentheses follows; the first two stand behind an aggregation.
const GROUPINGS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Units of Grafana that this dashboard uses; an unknown one is shown as a suffix and misleads.
const UNITS: [&str; 9] = ["none", "short", "s", "bytes", "Bps", "cps", "ops", "reqps", "percentunit"];

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("grafana").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap_or_else(|e| panic!("grafana/{name}: {e}"))
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The panels that show something: rows are titles only.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let all = dashboard["panels"].as_array().expect("panels");
    all.iter().filter(|p| p["type"] != "row").collect()
}

/// Every expression with the place it stands at, as Grafana would send it.
fn dashboard_expressions(dashboard: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for panel in panels(dashboard) {
        for target in panel["targets"].as_array().expect("targets") {
            let expression = text(target, "/expr").replace("$__rate_interval", "1m").replace("$node", ".*");
            assert!(!expression.contains('$'), "an unknown variable in {expression}");
            found.push((text(panel, "/title").to_string(), expression));
        }
    }
    found
}

fn alert_expressions(rules: &str) -> Vec<(String, String)> {
    let mut alert = String::new();
    let mut found = Vec::new();
    for line in rules.lines() {
        if let Some((_, name)) = line.split_once("- alert: ") {
            alert = name.to_string();
        } else if let Some(expression) = line.trim().strip_prefix("expr: ") {
            found.push((alert.clone(), expression.to_string()));
        }
    }
    assert_eq!(found.len(), rules.matches("- alert: ").count(), "each alert has its expression on one line");
    found
}

/// What an expression names: each metric with the labels that select its series, and the labels it groups by.
#[derive(Debug, Default, PartialEq, Eq)]
struct Named {
    metrics: Vec<(String, Vec<String>)>,
    grouped: BTreeSet<String>,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Takes what stands before the closing character, without quoted strings, off the front of `rest`.
fn inside(rest: &mut &str, close: char) -> String {
    let (mut words, mut quoted) = (String::new(), false);
    for (at, c) in rest.char_indices() {
        if c == '"' {
            quoted = !quoted;
        } else if c == close && !quoted {
            *rest = &rest[at + 1..];
            return words;
        } else if !quoted {
            words.push(c);
        }
    }
    panic!("no {close} after {rest}");
}

fn words(list: &str) -> impl Iterator<Item = String> + '_ {
    list.split(|c| !is_word(c)).filter(|w| !w.is_empty()).map(ToString::to_string)
}

fn named(expression: &str) -> Named {
    let mut found = Named::default();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        if !is_word(first) {
            rest = &rest[first.len_utf8()..];
            if first == '[' {
                inside(&mut rest, ']');
            }
            continue;
        }
        let word = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
        rest = rest[word.len()..].trim_start();
        // Numbers are 0.99, 5m or 10; the part after a dot is a number too.
        if first.is_ascii_digit() || OPERATORS.contains(&word) {
            continue;
        }
        if GROUPINGS.contains(&word) {
            rest = rest.strip_prefix('(').unwrap_or_else(|| panic!("no labels after {word} in {expression}"));
            found.grouped.extend(words(&inside(&mut rest, ')')));
        } else if let Some(selector) = rest.strip_prefix('{') {
            rest = selector;
            found.metrics.push((word.to_string(), words(&inside(&mut rest, '}')).collect()));
        } else if !rest.starts_with('(') && !["by", "without"].iter().any(|g| rest.starts_with(g)) {
            found.metrics.push((word.to_string(), Vec::new()));
        }
    }
    found
}

/// The series of a scrape: each metric with all labels its series have.
fn scraped(body: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut series: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in body.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let name: String = line.chars().take_while(|c| is_word(*c)).collect();
        let labels = series.entry(name.clone()).or_default();
        if let Some(mut list) = line[name.len()..].strip_prefix('{') {
            labels.extend(words(&inside(&mut list, '}')));
        }
    }
    series
}

/// A second metadata node, which only follows; it is killed when the test ends, however it ends.
struct Follower {
    child: Child,
    _data: TempDir,
}

impl Follower {
    /// Joins the metadata node at this port.
    fn start(leader: u16) -> Self {
        let data = tempfile::tempdir().expect("a scratch folder");
        let mut command = Command::new(support::binary());
        command.args(["metadata", "start", "--learner", "--join", &format!("127.0.0.1:{leader}")]);
        for address in ["--address", "--peer-address", "--admin-address"] {
            command.args([address, "127.0.0.1:0"]);
        }
        command.arg("--data-dir").arg(data.path().join("data"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { child: command.spawn().expect("the magnetar binary"), _data: data }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server on which all that the dashboard shows has happened: a topic, a group with a member that is 40 records behind,
/// a producer that was refused, and a metadata node that follows.
fn busy_server() -> (Server, impl Sized) {
    let (metadata, peers) = (free_port(), free_port());
    let addresses = [("address", metadata), ("peer_address", peers)];
    let addresses = addresses.map(|(name, port)| format!("metadata.{name}=127.0.0.1:{port}"));
    let server = Server::start(&addresses.each_ref().map(String::as_str));
    let follower = Follower::start(metadata);
    client::create_topic(&server.bootstrap(), "orders", 1, &[("max.message.bytes", "2000")]);
    let (producer, ledger) = client::producer(&server.bootstrap(), &[("batch.num.messages", "1")]);
    (0..100).for_each(|n| client::send(&producer, "orders", Some(0), &n.to_string()));
    client::flush(&producer);
    assert_eq!(ledger.acked.lock().expect("whole").len(), 100);
    client::send(&producer, "orders", Some(0), &"too large ".repeat(1000));
    client::flush(&producer);
    assert_eq!(ledger.failed.lock().expect("whole").len(), 1, "the large record is refused");
    let consumer = client::consumer(&server.bootstrap(), "billing", &[]);
    consumer.subscribe(&["orders"]).expect("subscribed");
    assert_eq!(client::take(&consumer, 60).len(), 60);
    consumer.commit_consumer_state(CommitMode::Sync).expect("committed");
    wait_until("the leader tells how far its follower is behind", || {
        server.metric("magnetar_metadata_follower_lag_entries{member=").is_some()
    });
    (server, (consumer, follower))
}

#[test]
fn every_metric_and_label_they_name_is_scraped() {
    let (server, _others) = busy_server();
    let lag = "magnetar_gateway_group_lag_records{group=\"billing\",topic=\"orders\",partition=\"0\"}";
    assert_eq!(server.metric(lag), Some(40.0));
    let (status, body) = server.get("/metrics").expect("an answer");
    assert_eq!(status, 200);
    let series = scraped(&body);
    let dashboard: Value = serde_json::from_str(&read("overview.json")).expect("JSON");
    let mut expressions = dashboard_expressions(&dashboard);
    expressions.extend(alert_expressions(&read("alerts.yml")));
    let mut missing = Vec::new();
    for (place, expression) in &expressions {
        let Named { metrics, grouped } = named(expression);
        assert!(!metrics.is_empty(), "{place} asks for nothing: {expression}");
        let mut known: BTreeSet<&str> = TARGET_LABELS.into();
        for (metric, selected) in metrics.iter().filter(|(metric, _)| metric != FROM_PROMETHEUS) {
            let Some(labels) = series.get(metric) else {
                missing.push(format!("{place}: metric {metric}"));
                continue;
            };
            known.extend(labels.iter().map(String::as_str));
            let unknown = selected.iter().filter(|l| !labels.contains(*l) && !TARGET_LABELS.contains(&l.as_str()));
            missing.extend(unknown.map(|l| format!("{place}: label {l} of {metric}")));
        }
        missing.extend(grouped.iter().filter(|l| !known.contains(l.as_str())).map(|l| format!("{place}: by {l}")));
    }
    assert!(missing.is_empty(), "not in a scrape:\n  {}", missing.join("\n  "));
}

/// The metric that a series of a histogram belongs to.
fn histogram(series: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|part| series.strip_suffix(part)).unwrap_or(series)
}

#[test]
fn everything_that_metadata_counts_has_a_panel() {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("metadata/src/metrics.rs");
    let source = fs::read_to_string(source).expect("the metrics of the metadata role");
    let counted: BTreeSet<&str> = source.split('"').filter(|text| text.starts_with("magnetar_")).collect();
    assert!(counted.len() >= 20, "only {} metrics found", counted.len());
    let dashboard: Value = serde_json::from_str(&read("overview.json")).expect("JSON");
    let expressions = dashboard_expressions(&dashboard);
    let shown: Vec<String> =
        expressions.iter().flat_map(|(_, expression)| named(expression).metrics).map(|(metric, _)| metric).collect();
    let shown: BTreeSet<&str> = shown.iter().map(|metric| histogram(metric)).collect();
    let hidden: Vec<&&str> = counted.difference(&shown).collect();
    assert!(hidden.is_empty(), "on no panel: {hidden:?}");
}

#[test]
fn names_are_found_in_expressions() {
    let found = named(
        "histogram_quantile(0.99, sum by (le, api) (rate(a_bucket{api!~\"x|y}\", node=\"$n\"}[5m]))) > 1 and topk(3, b) > 0.1",
    );
    let metrics = vec![("a_bucket".into(), vec!["api".into(), "node".into()]), ("b".into(), vec![])];
    assert_eq!(found, Named { metrics, grouped: ["le".into(), "api".into()].into() });
    let found = named("sum(a * on (instance) b) == 0 or max(min_over_time((c > 0)[10m:])) > 3");
    let metrics = ["a", "b", "c"].map(|name| (name.to_string(), Vec::new())).to_vec();
    assert_eq!(found, Named { metrics, grouped: ["instance".into()].into() });
    let body = "# TYPE a counter\na{x=\"1, y=} 2\",z=\"3\"} 4\n\nb 5\n";
    let labels = BTreeSet::from(["x".to_string(), "z".to_string()]);
    assert_eq!(scraped(body), BTreeMap::from([("a".into(), labels), ("b".into(), BTreeSet::new())]));
}

#[test]
fn every_panel_says_what_it_shows_in_which_unit() {
    let dashboard: Value = serde_json::from_str(&read("overview.json")).expect("JSON");
    assert_eq!((text(&dashboard, "/uid"), dashboard["schemaVersion"].as_i64()), ("magnetar-overview", Some(39)));
    let shown = panels(&dashboard);
    assert!(shown.len() >= 14, "only {} panels", shown.len());
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_i64().expect("an id")), "an id twice: {}", panel["title"]);
    }
    for panel in shown {
        let title = text(panel, "/title");
        assert!(!title.is_empty(), "a panel without a title: {panel}");
        assert!(text(panel, "/description").len() > 40, "{title} does not say what it tells");
        assert!(UNITS.contains(&text(panel, "/fieldConfig/defaults/unit")), "{title} has no known unit");
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{title} asks for nothing");
        for target in targets {
            assert!(!text(target, "/expr").is_empty(), "{title} has an empty expression");
            assert_eq!(text(target, "/datasource/uid"), "${datasource}", "{title} is tied to one data source");
        }
    }
}

#[test]
fn panels_do_not_overlap() {
    let dashboard: Value = serde_json::from_str(&read("overview.json")).expect("JSON");
    let mut taken = BTreeMap::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let place = |side: &str| panel["gridPos"][side].as_u64().unwrap_or_else(|| panic!("{side} of {panel}"));
        let (x, y, width, height) = (place("x"), place("y"), place("w"), place("h"));
        assert!(width > 0 && height > 0 && x + width <= 24, "{} is off the grid", panel["title"]);
        for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            let other = taken.insert(cell, &panel["title"]);
            assert!(other.is_none(), "{} covers {}", panel["title"], other.expect("just seen"));
        }
    }
}

#[test]
fn every_alert_says_what_to_do() {
    let rules = read("alerts.yml");
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 4, "only {} alerts", alerts.len());
    for alert in alerts {
        let name = alert.lines().next().unwrap_or_default();
        for part in ["expr: ", "severity: ", "summary: ", "description: "] {
            assert!(alert.contains(part), "{name} lacks {part}");
        }
    }
}

/// Runs `promtool`; false if this machine has none.
fn promtool(arguments: &[&str], what: &Path) -> bool {
    let output = match Command::new("promtool").args(arguments).arg(what).output() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return false,
        other => other.expect("promtool runs"),
    };
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&said));
    true
}

#[test]
fn prometheus_accepts_rules_configuration_and_every_expression() {
    let dashboard: Value = serde_json::from_str(&read("overview.json")).expect("JSON");
    // promtool parses rules, so each panel's expression becomes one. JSON strings are YAML strings.
    let mut rules = "groups:\n  - name: panels\n    rules:\n".to_string();
    for (at, (_, expression)) in dashboard_expressions(&dashboard).into_iter().enumerate() {
        rules += &format!("      - record: panel:expression{at}\n        expr: {}\n", Value::String(expression));
    }
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let panels = scratch.path().join("panels.yml");
    fs::write(&panels, rules).expect("written");
    let checked = promtool(&["check", "rules"], &file("alerts.yml"))
        && promtool(&["check", "config"], &file("prometheus.yml"))
        && promtool(&["check", "rules"], &panels);
    if !checked {
        // Straight to standard error: the test harness hides what a passing test prints with a macro.
        writeln!(std::io::stderr(), "SKIPPED: promtool is not installed").expect("standard error");
    }
}
