//! Plays the scenarios of `testscripts/`: each command stands at the start of a line, what it causes is indented below
//! it. To write the traces anew after a wanted change, set `MAGNETAR_REGENERATE_SCRIPTS=1` and read the difference.
//!
//! | command | what happens |
//! |---|---|
//! | `client`, `node that passes on` | a new client; one that makes every call once |
//! | `put a`, `put a as 9#3` | a transaction; with a request id of its own |
//! | `get a`, `open`, `beat s4`, `close s4` | a read; a session is opened, kept alive, closed |
//! | `puts 300` | that many transactions at once |
//! | `watch a after 3`, `drop w1` | a watch is opened; its reader goes |
//! | `connected` | a server said hello |
//! | `answer 1 committed 7`, `value`, `session s4`, `done` | the server answers call 1 |
//! | `fail 1 unavailable no leader` | or it answers an error: `unavailable`, `unknown`, `overtaken`, `expired`, `invalid` |
//! | `opened 1`, `event 1 at 5`, `progress 1 at 9` | the server tells something of watch 1 |
//! | `end 1 unavailable shutting down` | or its end: `unavailable`, `unknown`, `compacted`, `invalid` |
//! | `lost the cable` | the server is gone, or was not reached |
//! | `after 5s` | time passes; callers wait for ten seconds |
//! | `shut down` | the client ends |
//!
//! An arrow is a message to the server in use. `leave` means that the client wants another server.

use super::super::{
    buffer::Dropped,
    calls::{Calls, Outgoing},
    machine::{Leave, Machine},
    room::Room,
    waiting::Waiting,
    watches::{Request, Watches},
};
use crate::{
    id::{Revision, SessionId},
    service::{
        metadata::{Change, MetadataError, Operation, Outcome, RequestId, Transaction, WatchEvent, WatchStream},
        reply,
    },
    wire::metadata::proto::{
        self, call::Kind, call_answer::Result as Done, operation, watch_answer::Kind as Told, watch_call::Kind as Ask,
    },
};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use parking_lot::Mutex;
use std::{collections::BTreeMap, fmt::Write, fs, path::Path, sync::Arc, time::Duration};

const INDENT: &str = "    ";
/// How long callers wait.
const PATIENCE: Duration = Duration::from_secs(10);
/// What every client is known by.
const CLIENT: u128 = 1;

#[test]
fn every_scenario_goes_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wire/metadata/client/testscripts");
    let regenerate = std::env::var_os("MAGNETAR_REGENERATE_SCRIPTS").is_some();
    let mut played = 0;
    for file in fs::read_dir(&folder).expect("the folder of scenarios") {
        let path = file.expect("a readable folder").path();
        let written = fs::read_to_string(&path).expect("a readable scenario");
        let actual = play(&written, &path);
        if regenerate {
            fs::write(&path, &actual).expect("a writable scenario");
        }
        assert!(regenerate || written == actual, "{} goes differently:\n{actual}", path.display());
        played += 1;
    }
    assert!(played >= 15, "only {played} scenarios were found");
}

/// The scenario with the trace that it really gives.
fn play(script: &str, path: &Path) -> String {
    let mut desk = Desk::new(true);
    let mut actual = String::new();
    for (number, line) in script.lines().enumerate() {
        if line.starts_with(INDENT) {
            continue;
        }
        writeln!(actual, "{line}").expect("a string takes everything");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        assert!(desk.obey(&words).is_some(), "{}:{}: cannot {line:?}", path.display(), number + 1);
        for traced in desk.look() {
            writeln!(actual, "{INDENT}{traced}").expect("a string takes everything");
        }
    }
    actual
}

/// A client, its callers, and the server in use.
struct Desk {
    calls: Calls,
    watches: Watches,
    room: Arc<Room>,
    now: Duration,
    connected: bool,
    /// Answers that callers wait for, by what they asked.
    waiting: Vec<(String, BoxFuture<'static, String>)>,
    opening: BTreeMap<u64, BoxFuture<'static, Result<WatchStream, MetadataError>>>,
    reading: BTreeMap<u64, WatchStream>,
    /// Watches opened so far; they are called w1, w2, ...
    watched: u64,
    dropped: Arc<Mutex<Vec<u64>>>,
    trace: Vec<String>,
}

impl Desk {
    fn new(retries: bool) -> Self {
        Self {
            calls: Calls::new(CLIENT, retries),
            watches: Watches::new(retries),
            room: Arc::new(Room::new(1 << 20)),
            now: Duration::ZERO,
            connected: false,
            waiting: Vec::new(),
            opening: BTreeMap::new(),
            reading: BTreeMap::new(),
            watched: 0,
            dropped: Arc::default(),
            trace: Vec::new(),
        }
    }

    /// Does what a line says; `None` if it makes no sense.
    fn obey(&mut self, words: &[&str]) -> Option<()> {
        match words {
            ["client"] => *self = Self::new(true),
            ["node", "that", "passes", "on"] => *self = Self::new(false),
            ["connected"] => self.connected = true,
            ["lost", reason @ ..] => {
                self.connected = false;
                self.calls.lost(&reason.join(" "));
                self.watches.lost(&reason.join(" "));
            }
            ["after", time] => {
                self.now += Duration::from_secs(time.strip_suffix('s')?.parse().ok()?);
                self.calls.expire(self.now);
                self.watches.expire(self.now);
            }
            ["shut", "down"] => {
                self.calls.stop("the client is shutting down");
                self.watches.stop("the client is shutting down");
            }
            ["answer", id, done @ ..] => self.answer(id, done_of(done)?)?,
            ["fail", id, error @ ..] => self.answer(id, Done::Failed(error_of(error)?.into()))?,
            ["watch", prefix, "after", revision] => self.watch(prefix, Revision(revision.parse().ok()?)),
            ["drop", watch] => drop(self.reading.remove(&watch.strip_prefix('w')?.parse().ok()?)?),
            ["opened", id] => self.tell(id, Told::Opened(proto::Done {}))?,
            ["event", id, "at", at] => {
                let changes = vec![Change::Deleted("x".into())];
                self.tell(id, Told::Event(WatchEvent { revision: Revision(at.parse().ok()?), changes }.into()))?;
            }
            ["progress", id, "at", at] => {
                let event = WatchEvent { revision: Revision(at.parse().ok()?), changes: Vec::new() };
                self.tell(id, Told::Event(event.into()))?;
            }
            ["end", id, error @ ..] => self.tell(id, Told::Failed(error_of(error)?.into()))?,
            ["puts", count] => (0..count.parse().ok()?).try_for_each(|n: u32| self.call(&["put", &n.to_string()]))?,
            call => self.call(call)?,
        }
        Some(())
    }

    fn call(&mut self, words: &[&str]) -> Option<()> {
        let session = |name: &&str| name.strip_prefix('s')?.parse().ok();
        let (kind, waiting, answer): (Kind, Waiting, BoxFuture<'static, String>) = match words {
            ["put", key, rest @ ..] => {
                let (caller, answer) = reply();
                let put = Kind::Transact(put(key, rest)?.into());
                (put, Waiting::Outcome(caller), answer.map(shown(|outcome: Outcome| format!("{outcome:?}"))).boxed())
            }
            ["get", key] => {
                let (caller, answer) = reply();
                let get = Kind::Get(proto::Get { key: (*key).into(), stale: false });
                (get, Waiting::Value(caller), answer.map(shown(|_| "a value".into())).boxed())
            }
            ["open"] => {
                let (caller, answer) = reply();
                let open = Kind::OpenSession(proto::OpenSession { ttl_micros: 1 });
                (open, Waiting::Session(caller), answer.map(shown(|session: SessionId| session.to_string())).boxed())
            }
            ["beat", name] => {
                let (caller, answer) = reply();
                let beat = Kind::KeepAlive(proto::KeepAlive { session: session(name)? });
                (beat, Waiting::KeptAlive(caller), answer.map(shown(|()| "done".into())).boxed())
            }
            ["close", name] => {
                let (caller, answer) = reply();
                let close = Kind::CloseSession(proto::CloseSession { session: session(name)? });
                (close, Waiting::Closed(caller), answer.map(shown(|()| "done".into())).boxed())
            }
            _ => return None,
        };
        self.waiting.push((words.join(" "), answer));
        let room = self.room.take(1)?;
        self.calls.request(Outgoing { kind, waiting, deadline: self.now + PATIENCE, _room: room });
        Some(())
    }

    fn watch(&mut self, prefix: &str, after: Revision) {
        let (caller, answer) = reply();
        let dropped = Arc::clone(&self.dropped);
        let dropped: Dropped = Arc::new(move |watch| dropped.lock().push(watch));
        let deadline = self.now + PATIENCE;
        self.watched += 1;
        let number = self.watched;
        self.watches.request(Request::Open { prefix: prefix.into(), after, caller, deadline, dropped });
        self.opening.insert(number, answer);
    }

    fn answer(&mut self, id: &str, result: Done) -> Option<()> {
        let answer = proto::CallAnswer { id: id.parse().ok()?, result: Some(result) };
        let left = self.calls.answer(answer);
        self.leave(left);
        Some(())
    }

    fn tell(&mut self, id: &str, kind: Told) -> Option<()> {
        let left = self.watches.answer(proto::WatchAnswer { id: id.parse().ok()?, kind: Some(kind) });
        self.leave(left);
        Some(())
    }

    fn leave(&mut self, left: Result<(), Leave>) {
        if let Err(Leave(reason)) = left {
            self.trace.push(format!("leave: {reason}"));
        }
    }

    /// What has happened since the last look.
    fn look(&mut self) -> Vec<String> {
        let mut trace = std::mem::take(&mut self.trace);
        self.waiting.retain_mut(|(call, answer)| match answer.now_or_never() {
            Some(answer) => {
                trace.push(format!("{call}: {answer}"));
                false
            }
            None => true,
        });
        for (number, mut opening) in std::mem::take(&mut self.opening) {
            match (&mut opening).now_or_never() {
                Some(Ok(watch)) => {
                    trace.push(format!("w{number}: open"));
                    self.reading.insert(number, watch);
                }
                Some(Err(error)) => trace.push(format!("w{number}: {error}")),
                None => drop(self.opening.insert(number, opening)),
            }
        }
        for (number, watch) in &mut self.reading {
            while let Some(Some(event)) = watch.next().now_or_never() {
                trace.push(match event {
                    Ok(event) if event.changes.is_empty() => format!("w{number}: progress to {}", event.revision),
                    Ok(event) => format!("w{number}: event at {}", event.revision),
                    Err(error) => format!("w{number}: {error}"),
                });
            }
        }
        for watch in self.dropped.lock().drain(..) {
            self.watches.request(Request::Close(watch));
        }
        while let Some(call) = self.connected.then(|| self.calls.next()).flatten() {
            trace.push(format!("-> {} {}", call.id, call.kind.as_ref().map_or_else(String::new, show)));
        }
        while let Some(call) = self.connected.then(|| self.watches.next()).flatten() {
            trace.push(match call.kind {
                Some(Ask::Open(open)) => format!("-> watch {}: {} after {}", open.id, open.prefix, open.after),
                Some(Ask::Close(id)) => format!("-> close watch {id}"),
                other => format!("-> {other:?}"),
            });
        }
        shorten(trace)
    }
}

/// Leaves out the middle of what happened many times.
fn shorten(trace: Vec<String>) -> Vec<String> {
    if trace.len() <= 12 {
        return trace;
    }
    let (first, last) = (trace[..2].to_vec(), trace[trace.len() - 2..].to_vec());
    let between = format!("... {} more", trace.len() - 4);
    first.into_iter().chain([between]).chain(last).collect()
}

fn shown<T>(show: fn(T) -> String) -> impl FnOnce(Result<T, MetadataError>) -> String {
    move |answer| answer.map_or_else(|error| error.to_string(), show)
}

fn put(key: &str, rest: &[&str]) -> Option<Transaction> {
    let request = match rest {
        [] => None,
        ["as", name] => {
            let (client, sequence) = name.split_once('#')?;
            Some(RequestId { client: client.parse().ok()?, sequence: sequence.parse().ok()? })
        }
        _ => return None,
    };
    let operations = vec![Operation::Delete(key.into())];
    Some(Transaction { operations, conditions: Vec::new(), request })
}

fn done_of(words: &[&str]) -> Option<Done> {
    Some(match words {
        ["committed", revision] => {
            Done::Committed(proto::Committed { revision: revision.parse().ok()?, sequences: Vec::new() })
        }
        ["value"] => Done::Value(proto::Value { item: None }),
        ["session", name] => Done::Session(name.strip_prefix('s')?.parse().ok()?),
        ["done"] => Done::Done(proto::Done {}),
        _ => return None,
    })
}

fn error_of(words: &[&str]) -> Option<MetadataError> {
    let (kind, reason) = words.split_first()?;
    let reason = reason.join(" ");
    Some(match *kind {
        "unavailable" => MetadataError::Unavailable { reason },
        "unknown" => MetadataError::OutcomeUnknown { reason },
        "overtaken" => MetadataError::overtaken(),
        "expired" => MetadataError::SessionExpired(SessionId(4)),
        "compacted" => MetadataError::Compacted { asked: Revision(1), oldest: Revision(9) },
        "invalid" => MetadataError::Invalid(reason),
        _ => return None,
    })
}

fn show(kind: &Kind) -> String {
    match kind {
        Kind::Transact(proto::Transaction { operations, request, .. }) => {
            let key = match operations.first().and_then(|operation| operation.kind.as_ref()) {
                Some(operation::Kind::Delete(key)) => key,
                other => panic!("{other:?}"),
            };
            let name = request.as_ref().map_or_else(String::new, |id| format!(" as {}#{}", id.client_low, id.sequence));
            format!("put {key}{name}")
        }
        Kind::Get(get) => format!("get {}", get.key),
        Kind::OpenSession(_) => "open".into(),
        Kind::KeepAlive(beat) => format!("beat s{}", beat.session),
        Kind::CloseSession(close) => format!("close s{}", close.session),
        other => panic!("{other:?}"),
    }
}
