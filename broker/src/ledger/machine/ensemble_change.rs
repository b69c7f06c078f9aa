//! What a writer does about members that failed: replace them if there are spares, else go on without them while the
//! ack quorum lasts, else stop.
//!
//! Invariants: the new fragment begins right after last-add-confirmed (W6); the change is committed before an ack of the
//! new ensemble counts (W7); losing the compare-and-swap means that the ledger has a new owner, so the writer stops (W9).

use super::{Command, LedgerWriter, Member, ReplaceError, WriteError};
use protocol::{
    id::EntryId,
    ledger::metadata::{BookieMember, Fragment, Hole, LedgerMetadata},
    mutant::Mutant,
};

impl LedgerWriter {
    /// Sends nothing more to the member at this position, and forgets the answers it owes.
    pub(super) fn leave_behind(&mut self, at: usize) {
        let from = self.first_awaited(at).unwrap_or_else(|| self.next_entry());
        self.members[at].missing_from = Some(from);
        self.members[at].owed = 0;
        for add in &mut self.adds {
            add.awaited.remove(at);
        }
    }

    /// Starts an ensemble change for the members left behind, or goes on degraded, or stops.
    pub(super) fn replace_failed(&mut self, spares: &[BookieMember], reason: &str, out: &mut Vec<Command>) {
        let ensemble = self.with_spares(spares);
        let replaced = self.members.iter().zip(&ensemble).filter(|(m, new)| m.id != **new).count();
        if !self.quorum().is_acked(self.live() + replaced) {
            return self.fail_for_want_of_bookies(reason, out);
        }
        if replaced == 0 {
            return self.advance(out);
        }
        self.changes += 1;
        let new = self.with_ensemble(ensemble);
        self.change = Some(new.clone());
        out.push(Command::ChangeEnsemble { new: new.clone() });
        if self.has(Mutant::CountAcksBeforeSwap) {
            self.enlist(&new, out);
        }
    }

    /// The answer to [`Command::ChangeEnsemble`]; see [`super::Event::EnsembleChanged`].
    pub(super) fn on_ensemble_changed(
        &mut self,
        result: Result<(), ReplaceError>,
        spares: &[BookieMember],
        out: &mut Vec<Command>,
    ) {
        let Some(new) = self.change.take() else { return };
        let result = match result {
            Err(ReplaceError::Lost) if self.has(Mutant::GoOnAfterLostSwap) => Ok(()),
            Err(ReplaceError::OutcomeUnknown { .. }) if self.has(Mutant::TakeUnknownSwapForDone) => Ok(()),
            result => result,
        };
        match result {
            Ok(()) => {
                self.enlist(&new, out);
                self.metadata = new;
                if self.live() < self.members.len() {
                    return self.replace_failed(spares, "bookies failed during the ensemble change", out);
                }
            }
            Err(ReplaceError::Lost) => return self.fail(WriteError::Fenced(self.metadata.id), out),
            // Metadata may name the new ensemble or the old one: no ack count would be right for both.
            Err(error @ ReplaceError::OutcomeUnknown { .. }) => {
                return self.fail(WriteError::OutcomeUnknown { reason: format!("ensemble change: {error}") }, out);
            }
            // Nothing happened: the failed members stay holes until the next failure asks again.
            Err(error @ ReplaceError::Unavailable { .. }) => {
                if !self.quorum().is_acked(self.live()) {
                    return self.fail_for_want_of_bookies(&format!("ensemble change: {error}"), out);
                }
            }
        }
        self.advance(out);
    }

    /// The current ensemble with spares in the place of members left behind, as far as they go.
    fn with_spares(&self, spares: &[BookieMember]) -> Vec<BookieMember> {
        let fresh = |spare: &&BookieMember| self.members.iter().all(|m| m.id.id != spare.id);
        let allowed = if self.changes < self.limits.ensemble_changes { spares } else { &[] };
        let mut fresh = allowed.iter().filter(fresh).copied();
        // A bookie that lost its disk may follow its old life, in that place and in no other: no bookie is there twice.
        let reborn = |old: BookieMember| allowed.iter().find(|s| s.id == old.id && s.incarnation > old.incarnation);
        let place = |member: &Member| match member.missing_from {
            Some(_) => reborn(member.id).copied().or_else(|| fresh.next()).unwrap_or(member.id),
            None => member.id,
        };
        self.members.iter().map(place).collect()
    }

    /// The metadata with a fragment of this ensemble from last-add-confirmed on (rule W6).
    fn with_ensemble(&self, ensemble: Vec<BookieMember>) -> LedgerMetadata {
        let mut new = self.metadata.clone();
        let first_entry = match self.has(Mutant::FragmentAfterSent) {
            true => self.next_entry(),
            false => self.lac.next(),
        };
        if new.last_fragment().is_some_and(|f| f.first_entry == first_entry) {
            new.fragments.pop();
        }
        // The new ensemble is all that a later recovery would know: what those who leave may lack is written down now.
        let gone = self.members.iter().zip(&ensemble).filter(|(m, new)| m.id != **new).map(|(m, _)| m);
        new.holes.extend(gone.filter_map(|old| {
            let (first, last) = (old.missing_from?, self.lac.entry()?);
            (first <= last).then_some(Hole { member: old.id, entries: first.0..=last.0 })
        }));
        new.fragments.push(Fragment { first_entry, ensemble });
        new
    }

    /// The change is committed: the acks of replaced members no longer count (W4), their successors get what is in
    /// flight.
    fn enlist(&mut self, new: &LedgerMetadata, out: &mut Vec<Command>) {
        let ensemble = new.last_fragment().expect("the change has a fragment").ensemble.clone();
        let acks_stay = self.has(Mutant::KeepAcksOfReplaced);
        let unconfirmed = self.confirmed_adds();
        for (at, member) in ensemble.into_iter().enumerate() {
            if self.members[at].id == member {
                continue;
            }
            self.members[at] = Member::new(member);
            for (index, add) in self.adds.iter_mut().enumerate().skip(unconfirmed) {
                if !acks_stay {
                    add.acks.remove(at);
                }
                add.awaited.insert(at);
                out.push(Command::Send { member, entry: EntryId(self.first_add.0 + index as u64) });
            }
        }
    }

    fn fail_for_want_of_bookies(&mut self, reason: &str, out: &mut Vec<Command>) {
        let (available, required) = (self.live(), self.quorum().ack());
        let error = if self.in_flight() == 0 {
            WriteError::NotEnoughBookies { available, required }
        } else {
            let reason = format!("{available} bookies are left, the ack quorum needs {required}; {reason}");
            WriteError::OutcomeUnknown { reason }
        };
        self.fail(error, out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Event, Limits};
    use super::*;
    use protocol::{
        id::{BookieId, Incarnation, LedgerId, LedgerKey, Timestamp},
        ledger::quorum::Quorum,
        service::bookie::BookieError,
    };

    fn member(id: u32, incarnation: u64) -> BookieMember {
        BookieMember { id: BookieId(id), incarnation: Incarnation(incarnation) }
    }

    /// The ensemble that a writer on b1, b2, b3 asks for when b1 fails and these are the spares.
    fn ensemble_after(spares: Vec<BookieMember>) -> Option<Vec<BookieMember>> {
        let quorum = Quorum::new(3, 3, 2).expect("legal");
        let ensemble = vec![member(1, 1), member(2, 1), member(3, 1)];
        let metadata = LedgerMetadata::open(LedgerId(1), LedgerKey(1), quorum, ensemble, Timestamp(0));
        let (mut writer, mut out) = (LedgerWriter::new(metadata, Limits::default()), Vec::new());
        writer.on_event(Event::Append { size: 1, length: 1 }, &mut out);
        let error = BookieError::Unavailable { reason: "gone".into() };
        writer.on_event(Event::Failed { member: member(1, 1), entry: EntryId(0), error, spares }, &mut out);
        out.into_iter().find_map(|command| match command {
            Command::ChangeEnsemble { new } => Some(new.last_fragment().expect("a fragment").ensemble.clone()),
            _ => None,
        })
    }

    #[test]
    fn a_bookie_that_lost_its_disk_follows_its_old_life_and_takes_no_other_place() {
        assert_eq!(ensemble_after(vec![member(1, 2)]), Some(vec![member(1, 2), member(2, 1), member(3, 1)]));
        assert_eq!(ensemble_after(vec![member(2, 2)]), None, "b2 would be there twice");
        assert_eq!(ensemble_after(vec![member(1, 0)]), None, "an older life knows less, not more");
        let chosen = ensemble_after(vec![member(4, 1), member(1, 2)]);
        assert_eq!(chosen, Some(vec![member(1, 2), member(2, 1), member(3, 1)]), "it leaves b4 for other places");
    }
}
