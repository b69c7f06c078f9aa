//! Every API in every version, and what each refuses.

use super::*;

#[tokio::test]
async fn a_member_lives_in_every_version() {
    let f = Fixture::new();
    for version in 0..=9 {
        let group = format!("g{version}");
        let mut joined = f.ask(&group, version, &join(&group, "")).await;
        if version >= 4 {
            assert_eq!(joined.error_code, 79);
            joined = f.ask(&group, version, &join(&group, &joined.member_id)).await;
        }
        assert_eq!((joined.error_code, joined.generation_id, joined.members.len()), (0, 1, 1), "version {version}");
        assert_eq!(joined.members[0].metadata, subscription());
        let synced = f.ask(&group, version.min(5), &sync(&group, &joined)).await;
        assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"all"[..]));
        let beat = f.ask(&group, version.min(4), &heartbeat(&group, &joined.member_id, 1)).await;
        assert_eq!(beat.error_code, 0);
        let described = f.ask(&group, version.min(6), &describe(&group)).await;
        let described = &described.groups[0];
        assert_eq!(
            (&*described.group_state, &*described.protocol_data, described.members.len()),
            ("Stable", "range", 1)
        );
        assert_eq!(&described.members[0].member_assignment[..], b"all");

        let leave = LeaveGroupRequest::default().with_group_id(id(&group));
        let member = MemberIdentity::default().with_member_id(joined.member_id.clone());
        let left = match version.min(5) {
            old @ 0..=2 => f.ask(&group, old, &leave.with_member_id(joined.member_id.clone())).await,
            new => f.ask(&group, new, &leave.with_members(vec![member])).await,
        };
        assert_eq!(left.error_code, 0);
        assert!(left.members.iter().all(|m| m.error_code == 0));
        let beat = f.ask(&group, version.min(4), &heartbeat(&group, &joined.member_id, 1)).await;
        assert_eq!(beat.error_code, 25);
    }
}

#[tokio::test]
async fn unknown_groups_have_no_members() {
    let f = Fixture::new();
    assert_eq!(f.ask("g", 5, &join("g", "x")).await.error_code, 25);
    assert_eq!(f.ask("", 5, &join("", "")).await.error_code, 24);
    assert_eq!(f.ask("g", 4, &heartbeat("g", "x", 1)).await.error_code, 25);
    let joined = JoinGroupResponse::default().with_member_id("x".into());
    assert_eq!(f.ask("g", 5, &sync("g", &joined)).await.error_code, 25);
    let leave = LeaveGroupRequest::default().with_group_id(id("g"));
    assert_eq!(f.ask("g", 1, &leave.clone().with_member_id("x".into())).await.error_code, 25);
    let members = vec![MemberIdentity::default().with_member_id("x".into())];
    assert_eq!(f.ask("g", 4, &leave.with_members(members)).await.members[0].error_code, 25);
    assert_eq!(f.ask("g", 5, &describe("g")).await.groups[0].error_code, 0);
    assert_eq!(&*f.ask("g", 5, &describe("g")).await.groups[0].group_state, "Dead");
    assert_eq!(f.ask("g", 6, &describe("g")).await.groups[0].error_code, 69);
    assert_eq!(f.ask("g", 2, &delete("g")).await.results[0].error_code, 69);
    assert_eq!(f.ask("g", 0, &delete_offset("g", 0)).await.error_code, 69);
    let late = commit("g", "t", 0, 1).with_generation_id_or_member_epoch(4).with_member_id("x".into());
    assert_eq!(f.ask("g", 8, &late).await.topics[0].partitions[0].error_code, 22);
    assert!(f.ask("", 5, &ListGroupsRequest::default()).await.groups.is_empty());
}

#[tokio::test]
async fn commits_round_trip_in_every_version() {
    let f = Fixture::new();
    for version in 2..=9 {
        let response = f.ask("g", version, &commit("g", "t", 0, 100 + i64::from(version))).await;
        assert_eq!(response.topics[0].partitions[0].error_code, 0, "version {version}");
        assert_eq!(f.committed("g", 0).await, 100 + i64::from(version));
    }
    for version in 1..=7 {
        let response = f.ask("g", version, &fetch("g", "t", 0)).await;
        let found = &response.topics[0].partitions[0];
        assert_eq!((found.committed_offset, found.metadata.as_deref()), (109, Some("note")));
        assert_eq!(found.committed_leader_epoch, if version >= 5 { 3 } else { -1 });
        assert_eq!(f.ask("g", version, &fetch("g", "t", 1)).await.topics[0].partitions[0].committed_offset, -1);
    }
    for version in 8..=9 {
        let topics = OffsetFetchRequestTopics::default().with_name(text("t").into()).with_partition_indexes(vec![0, 1]);
        let group = OffsetFetchRequestGroup::default().with_group_id(id("g")).with_topics(Some(vec![topics]));
        let all = OffsetFetchRequestGroup::default().with_group_id(id("g")).with_topics(None);
        let nobody = OffsetFetchRequestGroup::default().with_group_id(id("nobody")).with_topics(None);
        let request = OffsetFetchRequest::default().with_groups(vec![group, all, nobody]);
        let response = f.ask("g", version, &request).await;
        let found = &response.groups[0].topics[0].partitions;
        assert_eq!((found[0].committed_offset, found[0].committed_leader_epoch), (109, 3));
        assert_eq!((found[1].committed_offset, found[1].committed_leader_epoch, found[1].error_code), (-1, -1, 0));
        assert_eq!(response.groups[1].topics[0].partitions.len(), 1);
        assert_eq!((response.groups[2].error_code, response.groups[2].topics.len()), (0, 0));
    }
    let all = f.ask("g", 7, &OffsetFetchRequest::default().with_group_id(id("g")).with_topics(None)).await;
    assert_eq!(all.topics[0].partitions[0].committed_offset, 109);
}

#[tokio::test]
async fn commits_are_refused_partition_by_partition() {
    let f = Fixture::new();
    let mut request = commit("g", "t", 0, 1);
    request.topics.push(commit("g", "nowhere", 0, 1).topics.remove(0));
    request.topics.push(commit("g", "t", 1, 1).topics.remove(0));
    request.topics[2].partitions[0].committed_metadata = Some("123456789".into());
    let response = f.ask("g", 8, &request).await;
    let codes: Vec<i16> = response.topics.iter().map(|t| t.partitions[0].error_code).collect();
    assert_eq!(codes, [0, 3, 12]);
    assert_eq!((f.committed("g", 0).await, f.committed("g", 1).await), (1, -1));

    let member = f.member("m").await;
    let mut request = commit("m", "t", 0, 1);
    assert_eq!(f.ask("m", 8, &request).await.topics[0].partitions[0].error_code, 25);
    request = request.with_member_id(text(&member)).with_generation_id_or_member_epoch(9);
    assert_eq!(f.ask("m", 8, &request).await.topics[0].partitions[0].error_code, 22);
    request = request.with_generation_id_or_member_epoch(1);
    assert_eq!(f.ask("m", 8, &request).await.topics[0].partitions[0].error_code, 0);
}

#[tokio::test]
async fn groups_are_listed_by_state_and_type() {
    let f = Fixture::new();
    f.member("m").await;
    assert_eq!(f.commit("s", 0, 1).await, 0);
    let list = |states: &[&str], types: &[&str]| {
        let all = |names: &[&str]| names.iter().map(|n| text(n)).collect::<Vec<_>>();
        ListGroupsRequest::default().with_states_filter(all(states)).with_types_filter(all(types))
    };
    for (states, types, wanted) in [
        (vec![], vec![], vec!["m", "s"]),
        (vec!["stable"], vec![], vec!["m"]),
        (vec!["Empty", "Dead"], vec!["Classic"], vec!["s"]),
        (vec![], vec!["consumer"], vec![]),
        (vec!["nonsense"], vec![], vec![]),
    ] {
        let listed = f.ask("", 5, &list(&states, &types)).await;
        let names: Vec<_> = listed.groups.iter().map(|g| g.group_id.0.to_string()).collect();
        assert_eq!(names, wanted, "{states:?} {types:?}");
        assert!(listed.groups.iter().all(|g| &*g.group_type == "classic"));
    }
    for version in 0..=3 {
        assert_eq!(f.ask("", version, &ListGroupsRequest::default()).await.groups.len(), 2);
    }
}

#[tokio::test]
async fn a_group_in_use_is_not_deleted() {
    let f = Fixture::new();
    let member = f.member("g").await;
    let request = commit("g", "t", 0, 5).with_member_id(text(&member)).with_generation_id_or_member_epoch(1);
    f.ask("g", 8, &request).await;
    assert_eq!(f.ask("g", 2, &delete("g")).await.results[0].error_code, 68);
    let refused = f.ask("g", 0, &delete_offset("g", 0)).await;
    assert_eq!((refused.error_code, refused.topics[0].partitions[0].error_code), (0, 86));
    assert_eq!(f.committed("g", 0).await, 5);

    let leave = LeaveGroupRequest::default().with_group_id(id("g")).with_member_id(text(&member));
    assert_eq!(f.ask("g", 1, &leave).await.error_code, 0);
    let deleted = f.ask("g", 0, &delete_offset("g", 0)).await;
    assert_eq!((deleted.error_code, deleted.topics[0].partitions[0].error_code), (0, 0));
    assert_eq!(f.committed("g", 0).await, -1);

    // A deletion that cannot be written has not happened.
    f.broker().append_faults().fail_next(AppendError::Unavailable { reason: String::new() });
    assert_eq!(f.ask("g", 2, &delete("g")).await.results[0].error_code, 15);
    assert_eq!(f.ask("g", 6, &describe("g")).await.groups[0].error_code, 0);
    assert_eq!(f.ask("g", 2, &delete("g")).await.results[0].error_code, 0);
    assert_eq!(f.ask("g", 6, &describe("g")).await.groups[0].error_code, 69);
}

#[tokio::test]
async fn lag_is_measured_at_the_high_watermark() {
    let f = Fixture::new();
    f.member("m").await;
    assert_eq!(f.commit("g", 0, 0).await, 0);
    let report = f.coordinators.lag().await;
    assert_eq!(report.partitions.len(), 1);
    let lag = &report.partitions[0];
    assert_eq!((&*lag.group, &*lag.topic, lag.partition, lag.committed, lag.lag), ("g", "t", 0, 0, 0));
    let members: BTreeMap<_, _> = report.groups.iter().map(|g| (&*g.group, g.members)).collect();
    assert_eq!(members, BTreeMap::from([("g", 0), ("m", 1)]));
    assert!(report.ranges.iter().any(|r| r.topic == "t" && r.partition == 0));
}

#[tokio::test]
async fn calls_that_lead_nowhere_are_refused() {
    let f = Fixture::new();
    let call = |key, api_key, body: &'static [u8]| CoordinatorCall {
        key,
        api_key,
        api_version: 0,
        client_id: None,
        client_host: String::new(),
        body: Bytes::from_static(body),
    };
    let group = || CoordinatorKey::Group("g".into());
    let transaction = f.coordinators.call(call(CoordinatorKey::Transaction("x".into()), 12, b"")).await;
    assert_eq!(transaction, Err(CoordinatorError::NotCoordinator("x".into())));
    for (key, api_key, body) in [
        (group(), 12, &b""[..]),
        (group(), 0, &b""[..]),
        (group(), 11, &[0, 1, b'g', 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff][..]),
        (group(), 16, &b""[..]),
        (CoordinatorKey::Node, 12, &b"\0\x01g\0\0\0\0\0\0"[..]),
    ] {
        let answer = f.coordinators.call(call(key, api_key, body)).await;
        assert!(matches!(answer, Err(CoordinatorError::Malformed { .. })), "API {api_key}: {answer:?}");
    }
    f.cluster.assign(f.groups_partition(), None);
    let elsewhere = f.try_ask("g", 7, &fetch("g", "t", 0)).await;
    assert_eq!(elsewhere, Err(CoordinatorError::NotCoordinator("g".into())));
}
