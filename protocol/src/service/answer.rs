//! The answer of a call: a future that may be dropped without stopping the work, and a reply that answers on drop, so
//! that no caller waits for a task that died. Owns the pairing of the two; knows no service.

use std::{future::Future, pin::Pin};
use tokio::sync::oneshot;

/// The answer of a call that was already made.
pub type Answer<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'static>>;

/// An error type that can say "nobody answered": the outcome is unknown.
pub trait Abandoned {
    /// The error for a reply that was dropped unanswered.
    fn abandoned() -> Self;
}

/// The answering end of a call. Dropped unanswered, it answers [`Abandoned::abandoned`].
#[derive(Debug)]
pub struct Reply<T, E>(oneshot::Sender<Result<T, E>>);

impl<T, E> Reply<T, E> {
    /// Answers the call. A caller that has gone is not an error.
    pub fn send(self, answer: Result<T, E>) {
        drop(self.0.send(answer));
    }

    /// Whether the caller has dropped the answer.
    #[must_use]
    pub fn is_unwanted(&self) -> bool {
        self.0.is_closed()
    }
}

/// A call to be answered later.
#[must_use]
pub fn reply<T: Send + 'static, E: Abandoned + Send + 'static>() -> (Reply<T, E>, Answer<T, E>) {
    let (tx, rx) = oneshot::channel();
    let answer = Box::pin(async move { rx.await.unwrap_or_else(|_| Err(E::abandoned())) });
    (Reply(tx), answer)
}

/// An answer that is there already.
#[must_use]
pub fn ready<T: Send + 'static, E: Send + 'static>(result: Result<T, E>) -> Answer<T, E> {
    Box::pin(std::future::ready(result))
}
