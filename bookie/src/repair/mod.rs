//! Repair of closed ledgers: every live bookie takes what it can of the tasks that the auditor has written.
//!
//! * `board`: which tasks there are, who has claimed them, which one is next. Pure.
//! * `worker`: the driver: one session, one watch, a few ledgers at a time.
//! * `job`: one ledger: look, claim, copy at a bounded rate, and then the compare-and-swap of the page that names it.
//! * `claim`: the record that keeps others away meanwhile.
//! * `survey`: the bookies of the cluster, read from metadata.
//!
//! What a ledger lacks is judged by [`protocol::ledger::repair`], here once more and by what metadata says now: a task
//! is never trusted. Nothing but closed ledgers is touched; unclosed ones belong to their brokers (A1).

mod board;
mod claim;
mod job;
mod metrics;
mod survey;
mod worker;

pub(crate) use worker::Worker;
