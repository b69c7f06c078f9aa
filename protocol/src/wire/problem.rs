//! Errors on the wire: every error of the three services as one message, without loss in either direction.
//!
//! Owns the message and the helpers around it; each service's file owns the numbers of its own variants. A number that
//! this node does not know comes from a newer one and is answered as [`Failure::unknown`]: never as success, never as
//! "nothing happened".

use crate::service::Abandoned;

/// An error: which one, and its fields in order.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Problem {
    #[prost(uint32, tag = "1")]
    pub(super) kind: u32,
    #[prost(string, tag = "2")]
    pub(super) text: String,
    #[prost(sint64, repeated, tag = "3")]
    pub(super) numbers: Vec<i64>,
    #[prost(message, repeated, tag = "4")]
    pub(super) details: Vec<Detail>,
}

/// What is wrong with one record of a batch.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Detail {
    #[prost(int32, tag = "1")]
    pub(super) index: i32,
    #[prost(string, tag = "2")]
    pub(super) text: String,
}

impl Problem {
    pub(super) fn new(kind: u32, text: &str, numbers: &[i64]) -> Self {
        Self { kind, text: text.into(), numbers: numbers.into(), details: Vec::new() }
    }

    /// The field at `at`; none if the peer did not send it.
    pub(super) fn number(&self, at: usize) -> Option<i64> {
        self.numbers.get(at).copied()
    }

    /// An unsigned field; the same 64 bits.
    pub(super) fn unsigned(&self, at: usize) -> Option<u64> {
        self.number(at).map(i64::cast_unsigned)
    }

    /// A field of a narrower type; none if it does not fit.
    pub(super) fn narrow<T: TryFrom<i64>>(&self, at: usize) -> Option<T> {
        T::try_from(self.number(at)?).ok()
    }
}

/// An error type of a service, as the wire needs it.
pub(super) trait Failure: Abandoned + Sized + Send + 'static {
    /// Nothing happened.
    fn unavailable(reason: String) -> Self;
    /// The call was sent and never answered.
    fn unknown(reason: String) -> Self;
    /// Which message says this.
    fn to_problem(&self) -> Problem;
    /// What a message says; none if this node does not know it.
    fn from_problem(problem: &Problem) -> Option<Self>;

    /// What a message says, in any case.
    fn of(problem: &Problem) -> Self {
        Self::from_problem(problem).unwrap_or_else(|| {
            Self::unknown(format!("the peer answered with error {}, unknown here: {}", problem.kind, problem.text))
        })
    }
}
