//! Takes calls out of the queue, in order, and brings each to where it is done: to the log while this node leads, to the
//! leader while there is another one, and nowhere, for a while, while nobody leads.
//!
//! Owns what a change of role means for calls: those that wait go on waiting for the next leader; those that were passed
//! on to a leader that is gone are of unknown outcome (if they write) or unavailable (if they read), at once. A call that
//! another node has passed on is never passed on again: it is refused where another node leads, and waits where nobody
//! does yet, because its sender may know of this node's election first. That, and the order of the queue, keeps the calls
//! of one handle in order across leaders.

use crate::{
    proposals::Proposals,
    queue::{Call, Exit, Queued, unavailable},
    role::Role,
};
use protocol::{
    runtime::{Clock, TaskKind, Tasks},
    service::{
        Answer, Reply,
        metadata::{Consistency, MetadataError, MetadataService, Scan},
    },
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a call waits for a leader before it is refused. Nothing has happened then, and whoever calls may go to
/// another node.
const HOLD: Duration = Duration::from_secs(2);

/// Opens the way to a leader at an address; its calls end with the tasks.
pub(crate) type OpenWay = Arc<dyn Fn(&str, &Tasks) -> Result<Arc<dyn MetadataService>, MetadataError> + Send + Sync>;

/// The one task that takes calls out of the queue.
pub(crate) struct Router {
    pub(crate) role: watch::Receiver<Role>,
    pub(crate) proposals: Arc<Proposals>,
    pub(crate) open_way: OpenWay,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: Tasks,
    pub(crate) exit: Exit,
}

impl Router {
    /// Runs until `stopping`, until nobody can call any more, or until raft has ended. What is still queued then did not
    /// happen.
    pub(crate) async fn run(mut self, stopping: CancellationToken) -> Result<(), String> {
        let mut held = None;
        while !stopping.is_cancelled() {
            let role = self.role.borrow_and_update().clone();
            let goes_on = tokio::select! {
                biased;
                () = stopping.cancelled() => false,
                goes_on = self.serve(role, &mut held) => goes_on,
            };
            if !goes_on {
                break;
            }
        }
        if let Some(queued) = held {
            queued.call.fail(unavailable("it is shutting down"));
        }
        self.exit.close();
        Ok(())
    }

    /// Works in one role until it changes; `false` if nobody can call any more, or raft has ended.
    async fn serve(&mut self, role: Role, held: &mut Option<Queued>) -> bool {
        match role {
            Role::Leads { .. } => self.lead(role, held).await,
            Role::Follows { address, .. } if !address.is_empty() => self.pass_on(&address, held).await,
            Role::Follows { .. } | Role::Nobody => self.hold(held).await,
        }
    }

    /// The call that was held, or the next one out of the queue; an error when the role has changed, and whether the router
    /// goes on then.
    async fn next(&mut self, held: &mut Option<Queued>) -> Result<Queued, bool> {
        if let Some(held) = held.take() {
            return Ok(held);
        }
        tokio::select! {
            biased;
            moved = self.role.changed() => Err(moved.is_ok()),
            next = self.exit.next() => next.ok_or(false),
        }
    }

    async fn lead(&mut self, role: Role, held: &mut Option<Queued>) -> bool {
        self.proposals.begin();
        loop {
            let first = match self.next(held).await {
                Ok(first) => first,
                Err(goes_on) => return goes_on,
            };
            if first.call.is_write() {
                let room = tokio::select! {
                    room = self.proposals.room() => Ok(room),
                    moved = self.role.changed() => Err(moved.is_ok()),
                };
                let room = match room {
                    Ok(Some(room)) => room,
                    Ok(None) => return false,
                    Err(goes_on) => {
                        *held = Some(first);
                        return goes_on;
                    }
                };
                self.proposals.write(first, &mut self.exit, held, room, ends(&self.role, &role)).await;
            } else {
                self.proposals.read(first, &mut self.exit, held, ends(&self.role, &role)).await;
            }
        }
    }

    /// Brings calls to the leader at `address`. When the role changes, the way is closed with everything on it.
    async fn pass_on(&mut self, address: &str, held: &mut Option<Queued>) -> bool {
        let on_the_way = self.tasks.child();
        let _closed = on_the_way.stopping().drop_guard();
        let way = match (self.open_way)(address, &on_the_way) {
            Ok(way) => way,
            Err(problem) => {
                tracing::error!(address, %problem, "the leader's address cannot be used");
                return self.hold(held).await;
            }
        };
        loop {
            let next = match self.next(held).await {
                Ok(next) => next,
                Err(goes_on) => return goes_on,
            };
            if next.is_passed_on {
                next.call.fail(unavailable("this node does not lead"));
            } else {
                self.forward(&way, next.call);
            }
        }
    }

    /// Makes the call at the leader; the answer is brought back by a task of its own.
    fn forward(&self, way: &Arc<dyn MetadataService>, call: Call) {
        match call {
            Call::Transact(transaction, caller) => self.bring_back(way.transact(transaction), caller),
            Call::OpenSession(ttl, caller) => self.bring_back(way.open_session(ttl), caller),
            Call::CloseSession(session, caller) => self.bring_back(way.close_session(session), caller),
            Call::KeepAlive(session, caller) => self.bring_back(way.keep_alive(session), caller),
            Call::Get(key, caller) => self.bring_back(way.get(key, Consistency::Linearizable), caller),
            Call::Scan(scan, caller) => {
                let scan = Scan { consistency: Consistency::Linearizable, ..scan };
                self.bring_back(way.scan(scan), caller);
            }
            // Only a leader may say that a session is overdue.
            Call::Expire(_) => {}
        }
    }

    fn bring_back<T: Send + 'static>(&self, answer: Answer<T, MetadataError>, caller: Reply<T, MetadataError>) {
        self.tasks.spawn(TaskKind::Request, "metadata call passed on", async move {
            caller.send(answer.await);
            Ok(())
        });
    }

    /// Lets calls wait for a leader, but not for ever.
    async fn hold(&mut self, held: &mut Option<Queued>) -> bool {
        let somebody_else_leads = matches!(*self.role.borrow(), Role::Follows { .. });
        loop {
            let next = match self.next(held).await {
                Ok(next) => next,
                Err(goes_on) => return goes_on,
            };
            if next.is_passed_on && somebody_else_leads {
                next.call.fail(unavailable("this node does not lead"));
                continue;
            }
            let left = (next.made + HOLD).saturating_sub(self.clock.monotonic());
            tokio::select! {
                biased;
                moved = self.role.changed() => {
                    *held = Some(next);
                    return moved.is_ok();
                }
                () = tokio::time::sleep(left) => next.call.fail(unavailable("nobody leads it at the moment")),
            }
        }
    }
}

/// The end of this role.
fn ends(now: &watch::Receiver<Role>, role: &Role) -> impl Future<Output = ()> + Send + 'static {
    let (mut now, role) = (now.clone(), role.clone());
    async move { drop(now.wait_for(|now| *now != role).await) }
}
