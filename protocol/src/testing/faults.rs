//! The switches that every fake has: answer an error, do the work but lose the answer, never answer, hold answers back.
//!
//! Owns what becomes of a call; never knows what the call does. A fault is taken when the call is *made*, in call order.

use crate::service::{Abandoned, Answer, ready};
use parking_lot::Mutex;
use std::{collections::VecDeque, future::Future};
use tokio::sync::watch;

/// What becomes of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault<E> {
    /// Nothing happens, and this is answered.
    Refuse(E),
    /// It happens, and this is answered.
    LoseAnswer(E),
    /// Nothing happens, and nothing is ever answered.
    Hang,
    /// It happens as usual; to reach a later call with a fault.
    Pass,
}

/// The switches of one fake.
#[derive(Debug)]
pub struct Faults<E> {
    next: Mutex<VecDeque<Fault<E>>>,
    standing: Mutex<Option<Fault<E>>>,
    held: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
}

impl<E> Default for Faults<E> {
    fn default() -> Self {
        Self {
            next: Mutex::default(),
            standing: Mutex::new(None),
            held: watch::Sender::new(false),
            waiting: watch::Sender::new(0),
        }
    }
}

impl<E: Abandoned + Clone + Send + 'static> Faults<E> {
    /// The next call answers `error`, and nothing happens.
    pub fn fail_next(&self, error: E) {
        self.push(Fault::Refuse(error));
    }

    /// The next call happens, and its caller learns only that the outcome is unknown.
    pub fn lose_next_answer(&self) {
        self.push(Fault::LoseAnswer(E::abandoned()));
    }

    /// The next call does not happen, and its caller learns only that the outcome is unknown.
    pub fn lose_next_call(&self) {
        self.push(Fault::Refuse(E::abandoned()));
    }

    /// The next call does not happen and is never answered.
    pub fn hang_next(&self) {
        self.push(Fault::Hang);
    }

    /// Queues a fault behind those that wait for their calls.
    pub fn push(&self, fault: Fault<E>) {
        self.next.lock().push_back(fault);
    }

    /// Every call from now on meets this fault; `None` ends it.
    pub fn always(&self, fault: Option<Fault<E>>) {
        *self.standing.lock() = fault;
    }

    /// Calls made from now on happen, but are not answered before [`Faults::release_answers`].
    pub fn hold_answers(&self) {
        self.held.send_replace(true);
    }

    /// Answers everything that was held, and holds no more.
    pub fn release_answers(&self) {
        self.held.send_replace(false);
    }

    /// How many calls have happened while answers were held; a test waits for it with [`Faults::wait_held`].
    #[must_use]
    pub fn held(&self) -> usize {
        *self.waiting.borrow()
    }

    /// Waits until `count` calls have happened with their answers held.
    pub async fn wait_held(&self, count: usize) {
        let mut waiting = self.waiting.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        drop(waiting.wait_for(|n| *n >= count).await);
    }

    /// Makes a call: does the work at once, unless a fault says otherwise.
    pub(super) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, E>) -> Answer<T, E> {
        self.run_async(|| std::future::ready(work()))
    }

    /// Makes a call whose answer takes time. `work` is called at once; what it returns is the waiting.
    pub(super) fn run_async<T, F>(&self, work: impl FnOnce() -> F) -> Answer<T, E>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let fault = self.next.lock().pop_front().or_else(|| self.standing.lock().clone());
        let lost = match fault {
            Some(Fault::Refuse(error)) => return ready(Err(error)),
            Some(Fault::Hang) => return Box::pin(std::future::pending()),
            Some(Fault::LoseAnswer(error)) => Some(error),
            Some(Fault::Pass) | None => None,
        };
        let answer = work();
        let mut held = self.held.subscribe();
        if *held.borrow() {
            self.waiting.send_modify(|n| *n += 1);
        }
        Box::pin(async move {
            drop(held.wait_for(|held| !held).await);
            let answer = answer.await;
            lost.map_or(answer, Err)
        })
    }
}
