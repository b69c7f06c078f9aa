//! The four contracts through which the roles meet.
//!
//! Of all four:
//! * Calls on one handle take effect in call order: a method *makes* the call before it returns, and the future it
//!   returns only waits for the answer.
//! * An accepted call runs to its end. Dropping the future drops the answer, never the work.
//! * "Outcome unknown" is an error of its own: the call may or may not have taken effect.
//! * Admission is by bytes, and every remote call has a deadline.
//!
//! Two more are between metadata nodes: [`peer`] carries raft, [`quorum`] is for those who look after the cluster.
//!
//! Each of the four has a fake and one conformance suite in [`crate::testing`], which runs on the in-process handle and on
//! the remote client over an in-memory stream.

pub mod answer;
pub mod bookie;
pub mod broker;
pub mod coordinator;
pub mod directory;
pub mod metadata;
pub mod peer;
pub mod quorum;

pub use answer::{Abandoned, Answer, Reply, ready, reply};
