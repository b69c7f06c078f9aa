//! Metrics that are counted when asked: what this process is and uses, and how far consumer groups are behind. Owns who
//! the process says it is.

use crate::{process, role::RoleSet};
use futures::future::BoxFuture;
use gateway::group::{Coordinators, render_prometheus};
use std::sync::{Arc, OnceLock};

/// Metrics that are counted when asked, in exposition format.
pub(super) type Extra = Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>;

/// Who a process is, as far as it knows.
pub(super) struct Identity {
    node: i32,
    roles: String,
    cluster: OnceLock<String>,
}

impl Identity {
    /// A process that has not found its cluster yet.
    pub(super) fn new(node: i32, roles: RoleSet) -> Self {
        let roles = roles.iter().map(|role| role.to_string()).collect::<Vec<_>>().join(",");
        Self { node, roles, cluster: OnceLock::new() }
    }

    /// It has found its cluster. Only the first call counts.
    pub(super) fn found(&self, cluster: &str) {
        let _ = self.cluster.set(cluster.into());
    }
}

/// What this process is and uses, and, once there are coordinators, the lag of consumer groups.
pub(super) fn extra(identity: &Arc<Identity>, coordinators: &Arc<OnceLock<Arc<Coordinators>>>) -> Extra {
    let (identity, coordinators) = (Arc::clone(identity), Arc::clone(coordinators));
    Arc::new(move || {
        let cluster = identity.cluster.get().map_or("", String::as_str);
        let mut text = process::render(identity.node, &identity.roles, cluster);
        let coordinators = coordinators.get().cloned();
        Box::pin(async move {
            if let Some(coordinators) = coordinators {
                text += &render_prometheus(&coordinators.lag().await);
            }
            text
        })
    })
}
