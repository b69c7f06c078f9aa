//! One process, all roles, unmodified librdkafka: codecs, acks, offsets, groups with rebalances, restarts, metrics.

mod support;

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer},
    producer::{BaseRecord, Producer},
};
use std::{collections::BTreeSet, time::Duration};
use support::{PATIENCE, Server, client, wait_until};

#[test]
fn every_codec_and_every_acks_setting_round_trips() {
    let server = Server::start(&["num.partitions=1"]);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        for acks in ["0", "1", "all"] {
            let topic = format!("codec-{codec}-{acks}");
            let (producer, ledger) =
                client::producer(&server.bootstrap(), &[("compression.type", codec), ("acks", acks)]);
            let values: Vec<String> = (0..200).map(|n| format!("{n} {}", "repetitive ".repeat(20))).collect();
            values.iter().for_each(|v| client::send(&producer, &topic, Some(0), v));
            client::flush(&producer);
            assert!(ledger.failed.lock().expect("whole").is_empty(), "{topic}");
            let consumer = client::consumer(&server.bootstrap(), "codecs", &[]);
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&topic, 0, Offset::Beginning).expect("a partition");
            consumer.assign(&list).expect("assigned");
            let read: Vec<String> = client::take(&consumer, 200).into_iter().map(|r| r.value).collect();
            assert_eq!(read, values, "{topic}");
        }
    }
}

#[test]
fn keys_headers_and_timestamps_come_back_as_sent() {
    let server = Server::start(&[]);
    client::create_topic(&server.bootstrap(), "rich", 1, &[]);
    let (producer, _) = client::producer(&server.bootstrap(), &[]);
    let headers = rdkafka::message::OwnedHeaders::new()
        .insert(rdkafka::message::Header { key: "trace", value: Some("a") })
        .insert(rdkafka::message::Header { key: "trace", value: Some("b") });
    let record = BaseRecord::to("rich").key("k").payload("v").headers(headers).timestamp(1_700_000_000_123);
    producer.send(record).map_err(|(e, _)| e).expect("queued");
    client::flush(&producer);
    let records = client::read_all(&server.bootstrap(), "rich", 1);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].key.as_deref(), Some("k"));
    let pair = |v: &str| ("trace".to_string(), v.to_string());
    assert_eq!(records[0].headers, [pair("a"), pair("b")], "duplicate header keys survive");
    let consumer = client::consumer(&server.bootstrap(), "times", &[]);
    let mut wanted = TopicPartitionList::new();
    wanted.add_partition_offset("rich", 0, Offset::Offset(1_700_000_000_000)).expect("a partition");
    let found = consumer.offsets_for_times(wanted, PATIENCE).expect("an answer");
    assert_eq!(found.elements()[0].offset(), Offset::Offset(0));
}

#[test]
fn reading_starts_anywhere_even_inside_a_batch() {
    let server = Server::start(&[]);
    client::create_topic(&server.bootstrap(), "middle", 1, &[]);
    let (producer, _) = client::producer(&server.bootstrap(), &[("linger.ms", "50")]);
    (0..100).for_each(|n| client::send(&producer, "middle", Some(0), &n.to_string()));
    client::flush(&producer);
    for start in [0, 1, 57, 99] {
        let consumer = client::consumer(&server.bootstrap(), "middle", &[]);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("middle", 0, Offset::Offset(start)).expect("a partition");
        consumer.assign(&list).expect("assigned");
        let first = client::take(&consumer, 1).remove(0);
        assert_eq!((first.offset, first.value), (start, start.to_string()));
    }
}

#[test]
fn a_group_shares_partitions_and_hands_them_over() {
    for strategy in ["range", "cooperative-sticky"] {
        let server = Server::start(&[]);
        client::create_topic(&server.bootstrap(), "shared", 6, &[]);
        let settings = [("partition.assignment.strategy", strategy), ("session.timeout.ms", "6000")];
        let first = client::consumer(&server.bootstrap(), "team", &settings);
        first.subscribe(&["shared"]).expect("subscribed");
        let owned = |c: &rdkafka::consumer::BaseConsumer| c.assignment().expect("an assignment").count();
        wait_until("the first member owns everything", || {
            client::poll(&first);
            owned(&first) == 6
        });
        let second = client::consumer(&server.bootstrap(), "team", &settings);
        second.subscribe(&["shared"]).expect("subscribed");
        wait_until("both members own half", || {
            client::poll(&first);
            client::poll(&second);
            (owned(&first), owned(&second)) == (3, 3)
        });
        drop(second);
        wait_until("the first member owns everything again", || {
            client::poll(&first);
            owned(&first) == 6
        });
    }
}

#[test]
fn committed_offsets_survive_a_restart() {
    let mut server = Server::start(&[]);
    client::create_topic(&server.bootstrap(), "jobs", 2, &[]);
    let (producer, _) = client::producer(&server.bootstrap(), &[]);
    (0..100).for_each(|n| client::send(&producer, "jobs", Some(n % 2), &n.to_string()));
    client::flush(&producer);
    let read = |server: &Server, count| {
        let consumer = client::consumer(&server.bootstrap(), "workers", &[("enable.auto.offset.store", "true")]);
        consumer.subscribe(&["jobs"]).expect("subscribed");
        let records = client::take(&consumer, count);
        consumer.commit_consumer_state(CommitMode::Sync).expect("committed");
        records.into_iter().map(|r| r.value).collect::<BTreeSet<_>>()
    };
    let before = read(&server, 60);
    server.kill();
    server.restart();
    let after = read(&server, 40);
    assert_eq!(before.len() + after.len(), 100);
    assert!(before.is_disjoint(&after), "a committed record came again");
    let lag = "magnetar_gateway_group_lag_records{group=\"workers\",topic=\"jobs\",partition=\"0\"}";
    wait_until("lag of a caught-up group is zero", || server.metric(lag) == Some(0.0));
    (0..10).for_each(|n| client::send(&producer, "jobs", Some(0), &format!("late-{n}")));
    client::flush(&producer);
    assert_eq!(server.metric(lag), Some(10.0), "lag is exact at the time of the scrape");
}

#[test]
fn topics_come_and_go_and_grow() {
    let server = Server::start(&[]);
    let metadata = |name: &str| {
        let admin = client::consumer(&server.bootstrap(), "admin", &[("allow.auto.create.topics", "false")]);
        let all = admin.fetch_metadata(None, PATIENCE).expect("metadata");
        all.topics().iter().find(|t| t.name() == name).map(|t| t.partitions().len())
    };
    client::create_topic(&server.bootstrap(), "growing", 2, &[("retention.ms", "3600000")]);
    assert_eq!(metadata("growing"), Some(2));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let admin = client::admin(&server.bootstrap());
    let options = rdkafka::admin::AdminOptions::new();
    runtime.block_on(async {
        let more = rdkafka::admin::NewPartitions::new("growing", 5);
        for done in admin.create_partitions(&[more], &options).await.expect("an answer") {
            done.expect("grown");
        }
    });
    assert_eq!(metadata("growing"), Some(5));
    runtime.block_on(async {
        for done in admin.delete_topics(&["growing"], &options).await.expect("an answer") {
            done.expect("deleted");
        }
    });
    assert_eq!(metadata("growing"), None);
    client::create_topic(&server.bootstrap(), "growing", 1, &[]);
    assert_eq!(metadata("growing"), Some(1), "a deleted name can be used again");
    assert!(client::read_all(&server.bootstrap(), "growing", 1).is_empty(), "and starts empty");
}

#[test]
fn health_readiness_and_metrics_answer() {
    let server = Server::start(&[]);
    client::create_topic(&server.bootstrap(), "watched", 1, &[]);
    let (producer, _) = client::producer(&server.bootstrap(), &[]);
    (0..10).for_each(|n| client::send(&producer, "watched", Some(0), &n.to_string()));
    client::flush(&producer);
    client::read_all(&server.bootstrap(), "watched", 1);
    assert_eq!(server.get("/health").map(|(s, _)| s), Some(200));
    assert_eq!(server.metric("magnetar_broker_topic_records_in_total{topic=\"watched\"}"), Some(10.0));
    assert!(server.metric("magnetar_broker_topic_bytes_in_total{topic=\"watched\"}").is_some_and(|b| b > 10.0));
    assert!(server.metric("magnetar_broker_topic_records_out_total{topic=\"watched\"}").is_some_and(|n| n >= 10.0));
    assert!(server.metric("magnetar_bookie_sync_seconds_count").is_some_and(|n| n >= 1.0), "a real histogram");
    assert!(server.metric("magnetar_bookie_sync_seconds_bucket").is_some());
    let produce = server.get("/metrics").expect("metrics").1;
    assert!(produce.lines().any(|l| l.starts_with("magnetar_gateway_request_seconds_bucket") && l.contains("Produce")));
}

#[test]
fn an_idle_server_is_small() {
    let server = Server::start(&[]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("procfs");
    let kib: u64 = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
        .expect("VmRSS");
    assert!(kib < 150 * 1024, "{kib} KiB resident while idle");
}

#[test]
fn a_second_server_on_the_same_data_or_port_says_so() {
    let server = Server::start(&[]);
    let run = |kafka: String, data: &std::path::Path| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_magnetar"))
            .arg("standalone")
            .arg("--data-dir")
            .arg(data)
            .args(["--kafka-address", &kafka, "--admin-address", "127.0.0.1:0"])
            .output()
            .expect("the binary");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
    };
    let elsewhere = tempfile::tempdir().expect("a folder");
    let text = run(server.bootstrap(), elsewhere.path());
    assert!(text.contains(&server.kafka.to_string()) && text.contains("in use"), "{text}");
    let text = run(format!("127.0.0.1:{}", support::free_port()), &server.data_dir());
    assert!(text.contains(&*server.data_dir().to_string_lossy()), "names the directory: {text}");
    let (producer, ledger) = client::producer(&server.bootstrap(), &[("message.timeout.ms", "10000")]);
    client::send(&producer, "still-here", None, "x");
    producer.flush(Duration::from_secs(10)).expect("the first server is unharmed");
    assert_eq!(ledger.acked.lock().expect("whole").len(), 1);
}
