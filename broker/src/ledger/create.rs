//! The metadata of a new ledger: which quorum it gets from what is there now. Owns the degraded quorum; never writes
//! metadata and never draws ids or keys (the caller does).

use super::placement::{self, PlacementError};
use protocol::{
    id::{LedgerId, LedgerKey, Timestamp},
    ledger::{metadata::LedgerMetadata, quorum::Quorum},
    model::BookieRecord,
};

/// Why there is no new ledger.
pub type CreateError = PlacementError;

/// What a new ledger is made of.
#[derive(Debug, Clone)]
pub struct NewLedger<'a> {
    /// Its id, from the sequence.
    pub id: LedgerId,
    /// Its secret, drawn at random by the caller.
    pub key: LedgerKey,
    /// The quorum that is wanted: Wq copies, Aq before an acknowledgement.
    pub wanted: Quorum,
    /// Every live bookie.
    pub bookies: &'a [BookieRecord],
    /// When it is created.
    pub now: Timestamp,
}

/// The metadata of a ledger about to be written.
///
/// With fewer than Wq writable bookies it takes those that exist, and records the wanted Wq so that repair adds the
/// missing copies; with fewer than Aq it refuses. The choice of bookies is seeded by the ledger's id and key.
///
/// # Errors
/// [`CreateError`] if fewer bookies are writable than the ack quorum needs.
pub fn new_ledger(new: &NewLedger<'_>) -> Result<LedgerMetadata, CreateError> {
    let seed = new.id.0 ^ new.key.0.rotate_left(17);
    let ensemble = placement::choose(new.bookies, new.wanted, seed)?;
    let copies = u8::try_from(ensemble.len()).unwrap_or(u8::MAX);
    let ack = u8::try_from(new.wanted.ack()).unwrap_or(u8::MAX);
    let quorum = Quorum::new(copies, copies, ack).expect("placement gives at least Aq and at most Wq bookies");
    let mut metadata = LedgerMetadata::open(new.id, new.key, quorum, ensemble, new.now);
    metadata.wanted_write = u8::try_from(new.wanted.write()).unwrap_or(u8::MAX);
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{
        id::{BookieId, EntryId, Incarnation},
        ledger::metadata::{BookieMember, LedgerState},
        model::BookieState,
    };

    fn bookies(count: u32) -> Vec<BookieRecord> {
        let record = |id| {
            let member = BookieMember { id: BookieId(id), incarnation: Incarnation(1) };
            BookieRecord::new(member, BookieState::Writable)
        };
        (0..count).map(record).collect()
    }

    fn create(count: u32) -> Result<LedgerMetadata, CreateError> {
        let wanted = Quorum::new(3, 3, 2).expect("legal");
        let (id, key, now) = (LedgerId(5), LedgerKey(6), Timestamp(7));
        new_ledger(&NewLedger { id, key, wanted, bookies: &bookies(count), now })
    }

    #[test]
    fn a_ledger_gets_the_quorum_that_is_wanted() {
        let ledger = create(5).expect("enough");
        assert_eq!((ledger.id, ledger.key, ledger.created_at), (LedgerId(5), LedgerKey(6), Timestamp(7)));
        assert_eq!((ledger.quorum, ledger.wanted_write), (Quorum::new(3, 3, 2).expect("legal"), 3));
        assert_eq!((ledger.state, ledger.fragments.len()), (LedgerState::Open, 1));
        assert_eq!((ledger.fragments[0].first_entry, ledger.fragments[0].ensemble.len()), (EntryId(0), 3));
    }

    #[test]
    fn with_fewer_bookies_it_takes_those_there_are_but_never_fewer_than_the_ack_quorum() {
        let ledger = create(2).expect("the ack quorum is there");
        assert_eq!((ledger.quorum, ledger.wanted_write), (Quorum::new(2, 2, 2).expect("legal"), 3));
        assert_eq!(create(1), Err(CreateError { available: 1, required: 2 }));
    }
}
