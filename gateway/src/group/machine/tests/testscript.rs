//! Runs the scenarios of `testscripts/*.txt` against a group and compares the trace with the one in the file.
//!
//! A script is a list of things that happen, one per line, each followed by what the group did, indented. Set
//! `MAGNETAR_REWRITE_TESTSCRIPTS=1` to write what the group does now into the files, then read the difference.
//!
//! ```text
//! limits delay=3s max_size=2                   settings; the delay is 0 unless given
//! 0s join r1 client=c range=t1+t2 v=4          request r1; a protocol is name=topics; client, session, rebalance, type
//!                                              and v have defaults; also member= and instance=
//! 1s sync r2 member=c-1 gen=1 assign=c-1:x     also instance=, type=, protocol=
//! 2s heartbeat r3 member=c-1 gen=1             also instance=
//! 2s leave r4 c-1 /i1 c-2/i2                   member, instance, or both
//! 2s commit member=c-1 gen=1                   whether a commit would be accepted
//! 3s written 0 ok                              write 0 was acknowledged (or: failed)
//! 4s tick                                      time has passed; a script says itself when
//! 5s delete                                    | describe | expiry | subscribed t1
//! 6s restart                                   the group is read from what was last acknowledged
//! ```

use super::allowed;
use crate::group::{
    error::GroupError,
    machine::{Answer, Command, Event, Group, GroupLimits, Join, MemberRef, Now, Sync, Token, WriteId, subscription},
    records::{GroupMetadata, MemberMetadata},
};
use bytes::Bytes;
use protocol::id::Timestamp;
use std::{collections::BTreeMap, fmt::Write, path::Path, time::Duration};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/group/testscripts");

#[test]
fn every_script_gives_its_trace() {
    let rewrite = std::env::var_os("MAGNETAR_REWRITE_TESTSCRIPTS").is_some();
    let mut failures = String::new();
    let mut count = 0;
    for file in std::fs::read_dir(DIRECTORY).unwrap() {
        let path = file.unwrap().path();
        let golden = std::fs::read_to_string(&path).unwrap();
        let actual = Run::script(&path, &golden);
        count += 1;
        if rewrite {
            std::fs::write(&path, &actual).unwrap();
        } else if actual != golden {
            let differs = golden.lines().zip(actual.lines()).position(|(a, b)| a != b).unwrap_or_default();
            writeln!(failures, "{} differs from line {}:\n{actual}", path.display(), differs + 1).unwrap();
        }
    }
    assert!(failures.is_empty(), "{failures}");
    assert!(count >= 12, "only {count} scripts in {DIRECTORY}");
}

struct Run {
    limits: GroupLimits,
    group: Group,
    /// The API of each request, to check its closed set.
    asked: BTreeMap<u64, &'static [i16]>,
    writes: BTreeMap<u64, GroupMetadata>,
    stored: Option<GroupMetadata>,
    fresh: u32,
    out: String,
}

fn duration(text: &str) -> Duration {
    let number = |unit: &str| text.strip_suffix(unit).and_then(|n| n.parse::<u64>().ok());
    let millis = number("ms").or_else(|| number("s").map(|s| s * 1000)).or_else(|| number("m").map(|m| m * 60_000));
    Duration::from_millis(millis.unwrap_or_else(|| panic!("\"{text}\" is not a time")))
}

fn show(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}

fn text(bytes: &Bytes) -> String {
    match subscription::topics(bytes.clone()) {
        Some(topics) => topics.into_iter().collect::<Vec<_>>().join("+"),
        None => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// The words `key=value` of a line, and the others.
struct Words<'a> {
    named: Vec<(&'a str, &'a str)>,
    bare: Vec<&'a str>,
}

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        let (named, bare): (Vec<_>, Vec<_>) = line.split_whitespace().partition(|word| word.contains('='));
        Self { named: named.into_iter().filter_map(|word| word.split_once('=')).collect(), bare }
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.named.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
    }

    fn number(&self, key: &str) -> i32 {
        self.get(key).map_or(-1, |v| v.parse().unwrap_or_else(|_| panic!("\"{v}\" is not a number")))
    }

    fn member(&self) -> MemberRef {
        MemberRef {
            member_id: self.get("member").unwrap_or_default().into(),
            instance_id: self.get("instance").map(Into::into),
        }
    }

    /// The request's number: `r7` is 7.
    fn token(&self, position: usize) -> Token {
        Token(self.bare[position].trim_start_matches('r').parse().expect("a request is named r and a number"))
    }
}

impl Run {
    fn script(path: &Path, golden: &str) -> String {
        let limits = GroupLimits {
            min_session: Duration::from_secs(6),
            max_session: Duration::from_secs(1800),
            max_size: usize::MAX,
            initial_rebalance_delay: Duration::ZERO,
        };
        let group = Group::new(limits, Timestamp(0));
        let (asked, writes) = (BTreeMap::new(), BTreeMap::new());
        let mut run = Self { limits, group, asked, writes, stored: None, fresh: 0, out: String::new() };
        for line in golden.lines().filter(|line| !line.starts_with(' ')) {
            writeln!(run.out, "{line}").unwrap();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let before = (run.group.state(), run.group.generation());
            let step = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.line(line)));
            assert!(step.is_ok(), "{}: \"{line}\" failed", path.display());
            let after = (run.group.state(), run.group.generation());
            if before != after {
                run.say(&format!("state {} gen={}", after.0.name(), after.1));
            }
        }
        run.out
    }

    fn say(&mut self, what: &str) {
        writeln!(self.out, "    {what}").unwrap();
    }

    fn line(&mut self, line: &str) {
        let words = Words::of(line);
        if words.bare[0] == "limits" {
            self.limit(&words);
            return;
        }
        let at = duration(words.bare[0]);
        let now = Now { monotonic: at, wall: Timestamp(i64::try_from(at.as_millis()).unwrap()) };
        let event = match words.bare[1] {
            "join" => self.join(&words),
            "sync" => self.sync(&words),
            "heartbeat" => {
                self.asked.insert(words.token(2).0, allowed::HEARTBEAT);
                Event::Heartbeat(words.token(2), words.member(), words.number("gen"))
            }
            "leave" => {
                self.asked.insert(words.token(2).0, allowed::LEAVE);
                Event::Leave(words.token(2), words.bare[3..].iter().map(|word| leaver(word)).collect())
            }
            "tick" => Event::Tick,
            "written" => self.written(&words),
            "restart" => {
                let stored = self.stored.clone().expect("something was written before the restart");
                self.group = Group::restore(&stored, self.limits, now);
                Event::Tick
            }
            other => return self.ask(other, &words, now),
        };
        for command in self.group.handle(now, event) {
            self.show(command);
        }
    }

    fn limit(&mut self, words: &Words<'_>) {
        for (key, value) in &words.named {
            match *key {
                "delay" => self.limits.initial_rebalance_delay = duration(value),
                "max_size" => self.limits.max_size = value.parse().unwrap(),
                other => panic!("no limit is named \"{other}\""),
            }
        }
        self.group.set_limits(self.limits);
    }

    fn join(&mut self, words: &Words<'_>) -> Event {
        self.asked.insert(words.token(2).0, allowed::JOIN);
        self.fresh += 1;
        let version = words.number("v");
        let kind = words.get("type").unwrap_or("consumer");
        let known = ["member", "instance", "client", "session", "rebalance", "type", "v"];
        let protocol = |(name, topics): &(&str, &str)| {
            let metadata = match kind {
                "consumer" => subscription::encode(&topics.split('+').collect::<Vec<_>>()),
                _ => Bytes::copy_from_slice(topics.as_bytes()),
            };
            ((*name).to_owned(), metadata)
        };
        let member = words.member();
        let join = Join {
            member_id: member.member_id,
            instance_id: member.instance_id,
            client_id: words.get("client").unwrap_or("c").into(),
            client_host: "/127.0.0.1".into(),
            session_timeout: duration(words.get("session").unwrap_or("10s")),
            rebalance_timeout: duration(words.get("rebalance").unwrap_or("60s")),
            protocol_type: kind.into(),
            protocols: words.named.iter().filter(|(key, _)| !known.contains(key)).map(protocol).collect(),
            require_known_member: version >= 4,
            may_skip_assignment: version >= 9,
            fresh: self.fresh.to_string(),
        };
        Event::Join(words.token(2), Box::new(join))
    }

    fn sync(&mut self, words: &Words<'_>) -> Event {
        self.asked.insert(words.token(2).0, allowed::SYNC);
        let assign = |word: &str| {
            let (member, what) = word.split_once(':').expect("an assignment is member:what");
            (member.to_owned(), Bytes::copy_from_slice(what.as_bytes()))
        };
        let assignments = words.get("assign").map(|all| all.split(',').map(assign).collect()).unwrap_or_default();
        let sync = Sync {
            member: words.member(),
            generation: words.number("gen"),
            protocol_type: words.get("type").map(Into::into),
            protocol: words.get("protocol").map(Into::into),
            assignments,
        };
        Event::Sync(words.token(2), sync)
    }

    fn written(&mut self, words: &Words<'_>) -> Event {
        let write: u64 = words.bare[2].parse().unwrap();
        let metadata = self.writes.remove(&write).expect("the write was ordered");
        let outcome = match words.bare[3] {
            "ok" => {
                // What is read back is what was encoded.
                let bytes = metadata.encode().unwrap();
                self.stored = Some(GroupMetadata::decode(bytes).unwrap());
                Ok(())
            }
            _ => Err(GroupError::NotAvailable),
        };
        Event::Persisted(WriteId(write), outcome)
    }

    fn ask(&mut self, what: &str, words: &Words<'_>, now: Now) {
        let answer = match what {
            "commit" => {
                let result = self.group.admit_commit(now, &words.member(), words.number("gen"));
                assert!(result.is_ok() || allowed::OFFSET_COMMIT.contains(&GroupError::code_of(&result)));
                verdict(&result)
            }
            "delete" => verdict(&self.group.bury()),
            "describe" => {
                let d = self.group.describe();
                let members = d.members.iter();
                let members: Vec<_> = members
                    .map(|m| {
                        format!("{}:{}={}", name(&m.member_id, &m.instance_id), text(&m.metadata), text(&m.assignment))
                    })
                    .collect();
                let state = d.state.name();
                format!("{state} type={} protocol={} [{}]", d.protocol_type, d.protocol, members.join(" "))
            }
            "expiry" => format!("{:?}", self.group.expiry()),
            "subscribed" => format!("{}", self.group.is_subscribed(words.bare[2])),
            other => panic!("nobody knows how to \"{other}\""),
        };
        self.say(&answer);
    }

    fn show(&mut self, command: Command) {
        match command {
            Command::Reply(token, answer) => {
                let set = self.asked.remove(&token.0).expect("a request is answered once");
                let code = code_of(&answer);
                assert!(code == 0 || set.contains(&code), "request r{} must not get {code}", token.0);
                self.say(&format!("r{}: {}", token.0, describe(&answer)));
            }
            Command::Persist(write, metadata) => {
                let member =
                    |m: &MemberMetadata| format!("{}={}", name(&m.member_id, &m.instance_id), text(&m.assignment));
                let members: Vec<_> = metadata.members.iter().map(member).collect();
                self.say(&format!("write {}: gen={} [{}]", write.0, metadata.generation, members.join(" ")));
                self.writes.insert(write.0, *metadata);
            }
            Command::ArmTimer(deadline) => self.say(&format!("timer at {}", show(deadline))),
        }
    }
}

fn leaver(word: &str) -> MemberRef {
    match word.split_once('/') {
        Some((member, instance)) => MemberRef { member_id: member.into(), instance_id: Some(instance.into()) },
        None => MemberRef { member_id: word.into(), instance_id: None },
    }
}

fn name(member: &str, instance: &Option<String>) -> String {
    instance.as_ref().map_or_else(|| member.to_owned(), |instance| format!("{member}/{instance}"))
}

fn verdict<T>(result: &Result<T, GroupError>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(error) => format!("refused {error:?} ({})", error.code()),
    }
}

fn code_of(answer: &Answer) -> i16 {
    match answer {
        Answer::Joined(_) => 0,
        Answer::JoinRefused(error, _) => error.code(),
        Answer::Synced(result) => GroupError::code_of(result),
        Answer::Beat(result) => GroupError::code_of(result),
        Answer::Left(members) => members.iter().map(|(_, r)| GroupError::code_of(r)).find(|c| *c != 0).unwrap_or(0),
    }
}

fn describe(answer: &Answer) -> String {
    match answer {
        Answer::Joined(j) => {
            let members = j.members.iter();
            let members: Vec<_> =
                members.map(|m| format!("{}:{}", name(&m.member_id, &m.instance_id), text(&m.metadata))).collect();
            let skip = if j.skip_assignment { " skip" } else { "" };
            let protocol = j.protocol.as_deref().unwrap_or("none");
            let (id, gen_, leader) = (&j.member_id, j.generation, &j.leader);
            format!("joined as {id} gen={gen_} protocol={protocol} leader={leader} [{}]{skip}", members.join(" "))
        }
        Answer::JoinRefused(error, id) => format!("refused {error:?} ({}) member={id}", error.code()),
        Answer::Synced(Ok(synced)) => format!("assigned \"{}\"", text(&synced.assignment)),
        Answer::Synced(Err(error)) => verdict::<()>(&Err(*error)),
        Answer::Beat(result) => verdict(result),
        Answer::Left(members) => {
            let left = members.iter();
            let left: Vec<_> =
                left.map(|(m, r)| format!("{} {}", name(&m.member_id, &m.instance_id), verdict(r))).collect();
            left.join(", ")
        }
    }
}
