//! Snapshots: whole, cut, damaged, out of order, newer, and contradicting themselves.

use super::*;
use crate::state::Command;
use chunks::CHUNK;
use protocol::service::metadata::{Operation, RequestId, Transaction};

/// A state with some of everything and large enough for several chunks.
fn state() -> State {
    let mut state = State::default();
    let Reply::Session(session) = state.apply(Command::OpenSession { ttl_ms: 5_000 }) else { panic!("opens") };
    for n in 0..60u64 {
        let value = Bytes::from(vec![n as u8; 50_000]);
        let operations = vec![
            Operation::Put { key: format!("k/{n:04}"), value, session: (n % 2 == 0).then_some(session) },
            Operation::Sequence { name: format!("s/{}", n % 7), count: n + 1 },
        ];
        let request = Some(RequestId { client: u128::from(n % 3), sequence: n });
        state.apply(Transaction { operations, request, ..Transaction::default() }.into());
        state.advance(500);
    }
    state
}

fn read(bytes: &[u8]) -> Result<State, SnapshotError> {
    State::decode(bytes)
}

/// Where each chunk begins, and the end.
fn borders(bytes: &[u8]) -> Vec<usize> {
    let mut borders = vec![8];
    while let Some(length) = bytes.get(borders[borders.len() - 1] + 5..).and_then(|rest| rest.first_chunk::<4>()) {
        borders.push(borders[borders.len() - 1] + 13 + u32::from_le_bytes(*length) as usize);
    }
    borders
}

/// The first bytes of a snapshot, these records, and this end.
fn forged(records: &[Record<'_>], end: &End) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chunks = ChunkWriter::new(&mut bytes).expect("memory");
    for record in records {
        let mut encoded = Vec::new();
        encode(&mut encoded, record);
        chunks.data(&encoded).expect("memory");
    }
    let mut encoded = Vec::new();
    encode(&mut encoded, end);
    chunks.end(&encoded).expect("memory");
    bytes
}

#[test]
fn a_snapshot_is_the_state() {
    let state = state();
    let bytes = state.encode();
    assert!(bytes.len() > 2 * CHUNK);
    let mut back = read(&bytes).expect("reads");
    back.check();
    assert_eq!((back.digest(), back.encode()), (state.digest(), bytes));
    let mut state = state;
    assert_eq!(state.apply(Command::CloseSession { session: SessionId(1) }), Reply::Closed);
    assert_eq!(back.apply(Command::CloseSession { session: SessionId(1) }), Reply::Closed);
    assert_eq!(back.digest(), state.digest());
    let empty = State::default();
    assert_eq!(read(&empty.encode()).expect("reads").digest(), empty.digest());
}

#[test]
fn a_stream_may_go_on_after_the_end() {
    let mut bytes = state().encode();
    let length = bytes.len();
    bytes.extend(b"more");
    let mut from = bytes.as_slice();
    State::read_snapshot(&mut from).expect("reads up to its end");
    assert_eq!((from, bytes.len() - length), (b"more".as_slice(), 4));
    assert!(matches!(read(&bytes), Err(SnapshotError::Malformed(_))), "but a file ends with it");
}

#[test]
fn what_is_cut_off_is_named() {
    let bytes = state().encode();
    let borders = borders(&bytes);
    assert_eq!(borders.last(), Some(&bytes.len()));
    let cuts = borders.iter().flat_map(|at| [at.saturating_sub(1), *at, at + 1, at + 9, at + 14]);
    for at in (0..8).chain(cuts).filter(|at| *at < bytes.len()) {
        let cut = read(&bytes[..at]);
        assert!(matches!(cut, Err(SnapshotError::Truncated)), "cut at {at}: {cut:?}");
    }
}

#[test]
fn what_is_damaged_is_named() {
    let bytes = state().encode();
    let borders = borders(&bytes);
    let heads = borders.iter().flat_map(|at| *at..at + 20);
    for at in heads.chain((0..bytes.len()).step_by(7_919)).filter(|at| *at < bytes.len()) {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        let chunk = borders.iter().filter(|border| **border <= at).count().saturating_sub(1) as u32;
        match read(&bad) {
            Err(SnapshotError::Foreign) if at < 7 => {}
            Err(SnapshotError::Version { .. }) if at == 7 => {}
            Err(SnapshotError::Damaged { chunk: found }) => assert_eq!(found, chunk, "byte {at}"),
            // A length that has become larger takes what follows along, or wants more than there is.
            Err(SnapshotError::Truncated) if (5..9).any(|byte| borders.contains(&(at - byte))) => {}
            other => panic!("byte {at}: {other:?}"),
        }
    }
}

#[test]
fn chunks_out_of_order_are_named() {
    let bytes = state().encode();
    let at = borders(&bytes);
    let piece = |n: usize| &bytes[at[n]..at[n + 1]];
    let swapped = [&bytes[..8], piece(1), piece(0), &bytes[at[2]..]].concat();
    assert!(matches!(read(&swapped), Err(SnapshotError::Order { expected: 0, found: 1 })));
    let missing = [&bytes[..8], piece(0), &bytes[at[2]..]].concat();
    assert!(matches!(read(&missing), Err(SnapshotError::Order { expected: 1, found: 2 })));
    let twice = [&bytes[..8], piece(0), piece(0), &bytes[at[1]..]].concat();
    assert!(matches!(read(&twice), Err(SnapshotError::Order { expected: 1, found: 0 })));
}

#[test]
fn another_version_and_another_file_are_named() {
    let mut bytes = state().encode();
    bytes[7] = VERSION + 1;
    let newer = read(&bytes);
    assert!(matches!(newer, Err(SnapshotError::Version { found }) if found == VERSION + 1));
    assert!(newer.expect_err("newer").to_string().contains("upgrade"));
    assert!(matches!(read(b"#!/bin/sh\nexit 0\n"), Err(SnapshotError::Foreign)));
}

#[test]
fn what_contradicts_itself_is_refused() {
    let head = || Record::Head { revision: Revision(1), uptime_ms: 0, last_session: 1 };
    let session = |id| Record::Session { id: SessionId(id), ttl_ms: 1 };
    let key = |session| {
        let (key, value) = (Cow::Borrowed("k"), Bytes::new());
        Record::Key { key, value, version: Revision(1), session }
    };
    let client = |highest| Record::Client { id: (0, 1), highest, given_up: Some(3), heard: 0 };
    let answer = |sequence| Record::Answer { client: (0, 1), sequence, reply: Cow::Owned(Reply::Closed) };
    let end = || End { sessions: 1, keys: 1, sequences: 0, clients: 1, answers: 1, digest: 0 };
    let good = || vec![head(), session(1), key(Some(SessionId(1))), client(9), answer(4)];
    let Err(SnapshotError::Digest { expected: 0, found }) = read(&forged(&good(), &end())) else { panic!("a digest") };
    read(&forged(&good(), &End { digest: found, ..end() })).expect("the digest was all that was wrong");
    let count = read(&forged(&good(), &End { keys: 2, digest: found, ..end() }));
    assert!(matches!(count, Err(SnapshotError::Count { what: "keys", expected: 2, found: 1 })));
    for (at, wrong) in [
        (0, session(2)),
        (1, head()),
        (2, key(Some(SessionId(7)))),
        (3, key(None)),
        (3, session(1)),
        (4, client(9)),
        (5, answer(4)),
        (5, answer(3)),
        (5, answer(10)),
    ] {
        let mut records = good();
        records.insert(at, wrong);
        let refused = read(&forged(&records, &end()));
        assert!(matches!(refused, Err(SnapshotError::Malformed(_))), "at {at}: {refused:?}");
    }
}

#[test]
fn a_record_that_the_end_cuts_is_refused() {
    let mut bytes = Vec::new();
    let mut chunks = ChunkWriter::new(&mut bytes).expect("memory");
    let mut record = Vec::new();
    encode(&mut record, &Record::Head { revision: Revision(1), uptime_ms: 0, last_session: 0 });
    chunks.data(&record[..record.len() - 1]).expect("memory");
    chunks.end(&[]).expect("memory");
    assert!(matches!(read(&bytes), Err(SnapshotError::Malformed(_))));
}

/// Fails after so many bytes, as a full or a broken disk does.
struct Breaking(usize);

impl Write for Breaking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.min(bytes.len()) {
            0 => Err(io::ErrorKind::StorageFull.into()),
            some => {
                self.0 -= some;
                Ok(some)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Breaking {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

#[test]
fn errors_of_the_disk_are_passed_on() {
    let state = state();
    let length = state.encode().len();
    for room in [0, 8, 20, CHUNK, length - 1] {
        let written = state.write_snapshot(&mut Breaking(room));
        assert_eq!(written.expect_err("no room").kind(), io::ErrorKind::StorageFull);
    }
    state.write_snapshot(&mut Breaking(length)).expect("fits exactly");
    assert!(matches!(State::read_snapshot(&mut Breaking(0)), Err(SnapshotError::Read(_))));
}
