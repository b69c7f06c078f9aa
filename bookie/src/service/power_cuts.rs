//! The power is cut at every step of every kind of call: whatever was answered is there afterwards (rules B1, B3, B8).

use crate::rig::{
    Rig,
    fragile::{Cut, FragileStore},
};
use crate::store::memory::MemoryStore;
use protocol::{
    id::{EntryId, LedgerId},
    service::bookie::BookieError,
};
use std::sync::Arc;

/// What was answered before the power went.
#[derive(Debug, Default)]
struct Answered {
    added: Vec<(u64, u64)>,
    fenced: Vec<u64>,
    deleted: Vec<u64>,
}

/// One of each, and again; what is answered is noted. After the first failure nothing may be answered any more.
async fn play(rig: &Rig) -> Answered {
    let mut answered = Answered::default();
    let mut failed = false;
    let mut note = |outcome: Result<(), BookieError>| {
        assert!(!(failed && outcome.is_ok()), "acknowledged after a failed write (rule B13)");
        failed |= outcome.is_err();
        outcome.is_ok()
    };
    for entry in 0..3 {
        if note(rig.add(1, entry).await) {
            answered.added.push((1, entry));
        }
    }
    // A fence for a ledger that was never seen, and one for a ledger in use.
    for ledger in [2, 1] {
        if note(rig.fence(ledger).await.map(drop)) {
            answered.fenced.push(ledger);
        }
    }
    for (ledger, entry) in [(1, 3), (2, 0), (3, 5)] {
        if note(rig.add_recovery(ledger, entry).await) {
            answered.added.push((ledger, entry));
        }
    }
    for ledger in [4, 3] {
        if note(rig.delete(ledger).await) {
            answered.deleted.push(ledger);
            answered.added.retain(|(held, _)| *held != ledger);
        }
    }
    answered
}

async fn check(rig: &Rig, answered: &Answered, told: &str) {
    for (ledger, entry) in &answered.added {
        let read = rig.read(*ledger, *entry).await;
        // A deletion that was cut off may have happened: its entries are then refused, never denied.
        let may_be_deleted = *ledger == 3 && read == Err(BookieError::Deleted(LedgerId(3)));
        assert!(may_be_deleted || read.as_ref().is_ok_and(|run| run.first() == Some(entry)), "{told}: {read:?}");
        // The key came with the first entry.
        let stranger = crate::store::conformance::entry(*ledger, 100, b"x");
        let add = protocol::service::bookie::AddEntry {
            key: protocol::id::LedgerKey(1),
            entry: stranger,
            ..Rig::request(1, 0, b"x")
        };
        let refused = protocol::service::bookie::BookieService::add_entry(&rig.0, add).await;
        assert!(may_be_deleted || refused == Err(BookieError::WrongKey(LedgerId(*ledger))), "{told}: {refused:?}");
    }
    for ledger in &answered.fenced {
        assert_eq!(rig.add(*ledger, 50).await, Err(BookieError::Fenced(LedgerId(*ledger))), "{told}");
    }
    for ledger in &answered.deleted {
        assert_eq!(rig.add_recovery(*ledger, 50).await, Err(BookieError::Deleted(LedgerId(*ledger))), "{told}");
        assert_eq!(rig.read(*ledger, 0).await, Err(BookieError::Deleted(LedgerId(*ledger))), "{told}");
    }
}

#[tokio::test]
async fn whatever_was_answered_survives_a_power_cut_at_any_step() {
    for cut in Cut::ALL {
        for steps in 0.. {
            let disk = Arc::new(MemoryStore::new());
            let store = FragileStore::new(Arc::clone(&disk), steps, cut);
            let rig = Rig::new(Arc::clone(&store) as _);
            let answered = play(&rig).await;
            rig.stop();
            let told = format!("{cut:?} after {steps} steps, answered {answered:?}");
            disk.crash();
            let again = Rig::new(disk as _);
            check(&again, &answered, &told).await;
            again.stop();
            if store.survived() {
                assert!(steps >= 10, "every call is a step of its own: {told}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_duplicate_is_answered_only_when_the_first_is_durable() {
    for cut in Cut::ALL {
        let disk = Arc::new(MemoryStore::new());
        let store = FragileStore::new(Arc::clone(&disk), 1, cut);
        let rig = Rig::new(store as _);
        rig.add(1, 0).await.expect("the first step is survived");
        assert_eq!(rig.add(1, 0).await, Ok(()), "the same bytes again");
        let (first, second) = (rig.add(1, 1), rig.add(1, 1));
        let (first, second) = futures::future::join(first, second).await;
        assert!(first.is_err() && second.is_err(), "{cut:?}: {first:?}, {second:?}");
        let other = Rig::request(1, 0, b"other bytes");
        assert!(protocol::service::bookie::BookieService::add_entry(&rig.0, other).await.is_err());
        rig.stop();
        disk.crash();
        let again = Rig::new(disk as _);
        assert_eq!(again.read(1, 0).await.map(|run| run[0]), Ok(0));
        let other = Rig::request(1, 0, b"other bytes");
        let other = protocol::service::bookie::BookieService::add_entry(&again.0, other).await;
        assert_eq!(other, Err(BookieError::Different(LedgerId(1), EntryId(0))));
        again.stop();
    }
}
