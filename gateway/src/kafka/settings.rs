//! The effective settings of this node, kept current. Owns the cache: settings are resolved again only when a dynamic
//! setting has changed, so that handlers can ask on every request.

use arc_swap::ArcSwapOption;
use protocol::{
    cluster::ClusterView,
    id::NodeId,
    model::ConfigRecord,
    settings::{BrokerSettings, StaticSettings},
};
use std::{collections::BTreeMap, sync::Arc};

/// The effective settings of a node.
#[derive(Debug)]
pub(crate) struct LiveSettings {
    fixed: StaticSettings,
    node: NodeId,
    view: ClusterView,
    cached: ArcSwapOption<Resolved>,
}

#[derive(Debug)]
struct Resolved {
    all: Arc<ConfigRecord>,
    own: Option<Arc<ConfigRecord>>,
    settings: Arc<BrokerSettings>,
}

impl Resolved {
    fn is_of(&self, all: &Arc<ConfigRecord>, own: Option<&Arc<ConfigRecord>>) -> bool {
        let same_own = match (&self.own, own) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same_own && (Arc::ptr_eq(&self.all, all) || self.all == *all)
    }
}

impl LiveSettings {
    /// The settings of `node`, which follow the dynamic settings of the view.
    pub(crate) const fn new(fixed: StaticSettings, node: NodeId, view: ClusterView) -> Self {
        Self { fixed, node, view, cached: ArcSwapOption::const_empty() }
    }

    /// The settings as they are now.
    pub(crate) fn current(&self) -> Arc<BrokerSettings> {
        let snapshot = self.view.snapshot();
        let own = snapshot.node_config.get(&self.node);
        if let Some(resolved) = &*self.cached.load()
            && resolved.is_of(&snapshot.config, own)
        {
            return Arc::clone(&resolved.settings);
        }
        let nothing = BTreeMap::new();
        let values = own.map_or(&nothing, |record| &record.values);
        let settings = Arc::new(self.fixed.effective(&snapshot.config.values, values));
        self.cached.store(Some(Arc::new(Resolved {
            all: Arc::clone(&snapshot.config),
            own: own.cloned(),
            settings: Arc::clone(&settings),
        })));
        settings
    }
}
