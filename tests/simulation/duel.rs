//! Duels: a writer and whoever takes its ledger over meet at bookies that are not equally far away. Owns who is how far.
//!
//! Bugs of recovery show only in rare meetings of messages: a fence that comes later than the add it should stop, two
//! denials that come before the one who knows better. Where everything is delayed at random, two hundred runs do not show
//! them. In a duel each kind of message has one odd bookie: the only one that is far away for it, or the only one that is
//! near. What goes far comes seconds late, or is refused. Which bookie, and which of the two, is drawn anew for each duel.
//! Nobody is so near that a recovery finds nothing under way.

use crate::{chain, network::Request, trace::tell, world::World};
use protocol::id::BookieId;
use std::{collections::BTreeMap, rc::Rc, time::Duration};

/// What is sent to bookies while two brokers fight for a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Add,
    Fence,
    Read,
    Rewrite,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Add, Self::Fence, Self::Read, Self::Rewrite];

    const fn of(request: &Request) -> Option<Self> {
        match request {
            Request::Add(add) if add.recovery => Some(Self::Rewrite),
            Request::Add(_) => Some(Self::Add),
            Request::Fence(_) => Some(Self::Fence),
            Request::Read(_) => Some(Self::Read),
            Request::List(_) | Request::Delete(_) | Request::Confirm(_) => None,
        }
    }
}

/// The bookie that is unlike the others for a kind of message.
#[derive(Debug, Clone, Copy)]
struct Odd {
    bookie: BookieId,
    /// It is the far one; else it is the near one.
    is_far: bool,
    /// What goes far is refused.
    refuses: bool,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrives after so long.
    After(Duration),
    /// It is refused, and the sender learns of it after so long.
    Refused(Duration),
}

/// Who is far away now, for what.
#[derive(Debug, Default)]
pub(crate) struct Duel(BTreeMap<Kind, Odd>);

impl Duel {
    /// Draws a duel over the head; none if nothing is being written.
    fn draw(world: &World) -> Option<Self> {
        let head = chain::with(world, |chain| chain.head().map(|head| head.ledger.clone()))?;
        let bookies: Vec<BookieId> = head.last_fragment()?.ensemble.iter().map(|member| member.id).collect();
        let odd = |kind| {
            Some((kind, Odd { bookie: world.pick(&bookies)?, is_far: world.flips(0.5), refuses: world.flips(0.5) }))
        };
        Some(Self(Kind::ALL.into_iter().filter_map(odd).collect()))
    }

    /// Whether a request goes far, and if so, whether it is refused.
    fn far(&self, request: &Request) -> Option<bool> {
        match Kind::of(request) {
            Some(kind) => {
                let odd = self.0.get(&kind)?;
                ((odd.bookie == request.member().id) == odd.is_far).then_some(odd.refuses)
            }
            // What is confirmed is told late to everybody: a recovery then has entries to find.
            None => matches!(request, Request::Confirm(_)).then_some(false),
        }
    }
}

/// Begins a duel of so long.
pub(crate) fn begin(world: &Rc<World>, time: Duration) {
    if let Some(duel) = Duel::draw(world) {
        tell!(world, "a duel of {} ms: {duel:?}", time.as_millis());
        world.count("duels");
        *world.duel.borrow_mut() = duel;
    }
}

/// What becomes of a request in a duel; none if there is none now.
pub(crate) fn fate(world: &World, request: &Request) -> Option<Fate> {
    if !world.plan.duels || world.engine.now() >= world.jammed_until.get() {
        return None;
    }
    Some(match world.duel.borrow().far(request) {
        None => Fate::After(world.millis(10, 60)),
        Some(false) => Fate::After(world.millis(300, 7_000)),
        Some(true) => Fate::Refused(world.millis(1, 20)),
    })
}
