//! What the node still waits for, and what ails it: the answers behind `/ready` and `/health`. Owns the sentences; the
//! roles own what ready means.

use crate::role::{Role, RoleSet};
use parking_lot::Mutex;
use std::sync::OnceLock;

/// What keeps a role from being ready at this moment, if anything does.
type Check = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// The state of the node as others see it.
pub struct Readiness {
    roles: RoleSet,
    checks: [OnceLock<Check>; Role::ALL.len()],
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stopping: bool,
    failure: Option<String>,
    awaited: Option<String>,
}

impl Readiness {
    /// A node that is to play these roles and has started none.
    #[must_use]
    pub fn new(roles: RoleSet) -> Self {
        Self { roles, checks: Default::default(), state: Mutex::default() }
    }

    /// A role has started; `check` says whether it is ready. Only the first call for a role counts.
    pub fn started(&self, role: Role, check: impl Fn() -> bool + Send + Sync + 'static) {
        self.started_with(role, move || (!check()).then(|| format!("the {role} role is not ready")));
    }

    /// Like [`Readiness::started`], for a role that can say what ails it.
    pub fn started_with(&self, role: Role, check: impl Fn() -> Option<String> + Send + Sync + 'static) {
        let _ = self.checks[role as usize].set(Box::new(check));
    }

    /// The start waits for this; or for nothing any more.
    pub fn waits_for(&self, what: Option<String>) {
        self.state.lock().awaited = what;
    }

    /// The node is about to stop.
    pub fn stopping(&self) {
        self.state.lock().stopping = true;
    }

    /// Something without which the node cannot go on has failed.
    pub fn failed(&self, problem: String) {
        self.state.lock().failure = Some(problem);
    }

    /// What keeps the node from serving clients; nothing if it is ready.
    #[must_use]
    pub fn obstacles(&self) -> Vec<String> {
        let mut found = self.ailments();
        if self.state.lock().stopping {
            found.push("the node is stopping".into());
        }
        found.extend(self.state.lock().awaited.clone());
        for role in self.roles.iter() {
            match self.checks[role as usize].get() {
                None => found.push(format!("the {role} role is starting")),
                Some(check) => found.extend(check()),
            }
        }
        found
    }

    /// What is broken; nothing if the node works.
    #[must_use]
    pub fn ailments(&self) -> Vec<String> {
        self.state.lock().failure.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    #[test]
    fn every_role_must_have_started_and_be_ready() {
        let readiness = Readiness::new(RoleSet::STANDALONE);
        assert_eq!(readiness.obstacles().len(), 4);
        let broken = Readiness::new(RoleSet::STANDALONE);
        broken.started_with(Role::Bookie, || Some("no disk".into()));
        assert!(broken.obstacles().contains(&"no disk".into()), "a role says what ails it");
        let bookie = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&bookie);
        readiness.started(Role::Bookie, move || seen.load(Ordering::Relaxed));
        for role in [Role::Metadata, Role::Broker, Role::Gateway] {
            readiness.started(role, || true);
        }
        assert_eq!(readiness.obstacles(), ["the bookie role is not ready"]);
        bookie.store(true, Ordering::Relaxed);
        assert!(readiness.obstacles().is_empty() && readiness.ailments().is_empty());
        readiness.stopping();
        assert_eq!(readiness.obstacles(), ["the node is stopping"]);
        readiness.failed("disk gone".into());
        assert_eq!(readiness.ailments(), ["disk gone"]);
        assert_eq!(readiness.obstacles(), ["disk gone", "the node is stopping"]);
    }

    #[test]
    fn only_the_roles_of_the_process_count_and_what_the_start_waits_for() {
        let readiness = Readiness::new(RoleSet::BOOKIE);
        readiness.waits_for(Some("waiting for metadata at a:1".into()));
        assert_eq!(readiness.obstacles(), ["waiting for metadata at a:1", "the bookie role is starting"]);
        readiness.waits_for(None);
        readiness.started(Role::Bookie, || true);
        assert!(readiness.obstacles().is_empty());
    }
}
