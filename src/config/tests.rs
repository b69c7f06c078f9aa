//! Precedence, unknown keys, types, and that the annotated defaults are a valid file.

use super::{
    Config, ConfigError, annotated, key,
    layers::{Layers, Source},
};
use ::bookie::OnEmptyDisk;
use protocol::id::NodeId;
use std::path::Path;

fn file(text: &str) -> Result<Layers, ConfigError> {
    let mut layers = Layers::default();
    layers.toml(text, Path::new("magnetar.toml"))?;
    layers.set("node.data_dir", "/data".into(), Source::Flag("--data-dir".into()))?;
    Ok(layers)
}

fn config(text: &str) -> Config {
    Config::read(&file(text).expect("legal")).expect("consistent")
}

fn refusal(text: &str) -> String {
    match file(text) {
        Ok(layers) => Config::read(&layers).expect_err("refused").to_string(),
        Err(problem) => problem.to_string(),
    }
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.into(), value.into())
}

#[test]
fn defaults_need_no_file() {
    let config = config("");
    assert_eq!(config.node, NodeId(1));
    assert_eq!(config.listener.to_string(), "localhost:9092");
    assert_eq!(config.admin.to_string(), "localhost:8080");
    assert_eq!(config.bookie.data_dir, Path::new("/data/bookie"));
    assert_eq!(config.metadata.data_dir, Path::new("/data/metadata"));
    assert_eq!(config.broker.cache, 128 << 20);
}

#[test]
fn an_address_knows_whether_somebody_asked_for_it() {
    let usual = config("");
    assert!(!usual.metadata.listener.is_explicit && !usual.bookie.listener.is_explicit);
    assert_eq!(usual.metadata.listener.address.to_string(), "localhost:9095");
    assert_eq!((usual.metadata.servers.len(), usual.bookie.advertised), (1, None));
    let set = config(
        "[metadata]\nservers = [\"a:1\", \"b:2\"]\n[bookie]\naddress = \"localhost:9096\"\nadvertised = \"c:3\"",
    );
    assert!(set.bookie.listener.is_explicit, "also if it is the default's value");
    assert_eq!(set.metadata.servers.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:1", "b:2"]);
    assert_eq!(set.bookie.advertised.map(|a| a.to_string()).as_deref(), Some("c:3"));
    assert!(refusal("[metadata]\nservers = \"a:1,b\"").contains("metadata.servers"));
    assert!(refusal("[bookie]\nadvertised = \"nowhere\"").contains("bookie.advertised"));
}

#[test]
fn repair_and_scrubbing_have_units() {
    let usual = config("");
    assert_eq!((usual.repair.grace.as_secs(), usual.repair.bandwidth), (10, 64 << 20));
    assert_eq!((usual.repair.audit_interval.as_secs(), usual.bookie.scrub_interval.as_secs()), (600, 604_800));
    assert_eq!((usual.bookie.on_empty_disk, usual.bookie.scrub_bandwidth), (OnEmptyDisk::Heal, 8 << 20));
    let of = |word: &str| config(&format!("[bookie]\non_empty_disk = \"{word}\"")).bookie.on_empty_disk;
    assert_eq!([of("refuse"), of("discard")], [OnEmptyDisk::Refuse, OnEmptyDisk::Discard]);
}

#[test]
fn flags_win_over_environment_and_environment_over_file() {
    let mut layers =
        file("[kafka]\n\"num.partitions\" = 2\n\"message.max.bytes\" = 5\n[broker]\ncache = \"1MiB\"").expect("legal");
    let environment = [
        pair("MAGNETAR_KAFKA_NUM_PARTITIONS", "3"),
        pair("MAGNETAR_KAFKA_MESSAGE_MAX_BYTES", "6"),
        pair("MAGNETAR_BROKER_CACHE", "2MiB"),
        pair("MAGNETAR_BOOTSTRAP", "left alone"),
        pair("PATH", "left alone"),
    ];
    layers.environment(environment).expect("legal");
    let flag = Source::Flag("--set".into());
    layers.set("kafka.num.partitions", "4".into(), flag.clone()).expect("legal");
    let config = Config::read(&layers).expect("consistent");
    assert_eq!(config.kafka.get("num.partitions"), Some("4"));
    assert_eq!(config.kafka.get("message.max.bytes"), Some("6"));
    assert_eq!(config.broker.cache, 2 << 20);
    assert_eq!(layers.source("kafka.num.partitions"), flag);
}

#[test]
fn kafkas_names_may_stand_bare_or_quoted() {
    for text in ["[kafka]\nlog.retention.hours = 5", "[kafka]\n\"log.retention.hours\" = \"5\""] {
        assert_eq!(config(text).kafka.get("log.retention.hours"), Some("5"), "{text}");
    }
    assert_eq!(
        config("[kafka]\n\"log.cleanup.policy\" = [\"compact\", \"delete\"]").kafka.get("log.cleanup.policy"),
        Some("compact,delete")
    );
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    for (text, expected) in [
        (
            "[node]\ndata_dri = \"/x\"",
            "unknown key \"node.data_dri\" in magnetar.toml; did you mean \"node.data_dir\"?",
        ),
        ("[admin]\nadress = \"x:1\"", "unknown key \"admin.adress\" in magnetar.toml; did you mean \"admin.address\"?"),
        (
            "[broker]\nreserve = \"1GiB\"",
            "unknown key \"broker.reserve\" in magnetar.toml; did you mean \"bookie.reserve\"?",
        ),
        (
            "num.partitions = 4",
            "unknown key \"num.partitions\" in magnetar.toml; did you mean \"[kafka] \"num.partitions\"\"?",
        ),
        (
            "[kafka]\n\"num.partition\" = 4",
            "unknown setting \"num.partition\"; did you mean \"num.partitions\"? (in magnetar.toml)",
        ),
        ("[zoo]\nkeeper = 1", "unknown key \"zoo.keeper\" in magnetar.toml"),
    ] {
        assert_eq!(refusal(text), expected);
    }
    let mut layers = Layers::default();
    let problem = layers.environment([pair("MAGNETAR_NODE_DATADIR", "/x")]).expect_err("unknown");
    assert_eq!(
        problem.to_string(),
        "unknown key \"node.datadir\" in the environment variable MAGNETAR_NODE_DATADIR; did you mean \"MAGNETAR_NODE_DATA_DIR\"?"
    );
}

#[test]
fn a_bad_value_says_what_would_be_valid() {
    for (text, part) in [
        ("[broker]\ncache = \"lots\"", "must be a size such as"),
        ("[node]\nstop_deadline = 30", "must be a duration such as"),
        ("[node]\nlog_format = \"xml\"", "must be one of text, json"),
        ("[bookie]\nid = -1", "must be a whole number"),
        ("[bookie]\nid = 99999999999", "the number is too large"),
        ("[admin]\naddress = \"8080\"", "write host:port"),
        ("[kafka]\n\"num.partitions\" = 0", "must be at least 1"),
        ("[kafka]\nlisteners = \"SSL://x:1\"", "only PLAINTEXT"),
        ("[node", "magnetar.toml is not valid TOML"),
        ("[node]\nid = 2020-01-01", "magnetar.toml is not valid TOML"),
    ] {
        let problem = refusal(text);
        assert!(problem.contains(part), "{text}: {problem}");
    }
}

#[test]
fn the_node_id_has_three_names_that_must_agree() {
    assert_eq!(config("[kafka]\n\"broker.id\" = 0").node, NodeId(0));
    assert_eq!(config("[kafka]\n\"node.id\" = 7\n[node]\nid = 7").node, NodeId(7));
    assert_eq!(config("[node]\nid = 3").node, NodeId(3));
    let problem = refusal("[kafka]\n\"node.id\" = 7\n\"broker.id\" = 8");
    assert_eq!(problem, "node.id is 7, but broker.id is 8; set only one of them");
}

#[test]
fn the_annotated_defaults_are_valid_with_and_without_their_comments() {
    let text = annotated::defaults();
    assert_eq!(config(&text), config(""));
    let uncommented: String = text
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|l| l.contains(" = ") && !l.ends_with("= \"\"")).unwrap_or(line))
        .filter(|line| !line.starts_with("\"broker.id\""))
        .fold(String::new(), |all, line| all + line + "\n");
    let full = config(&uncommented);
    assert_eq!(full.broker, config("").broker);
    assert!(full.kafka.iter().count() > 60, "every Kafka setting with a default is in the file");
    for key in key::KEYS {
        assert!(text.contains(key.doc.split(' ').next().expect("a word")), "{}", key.path);
    }
}
