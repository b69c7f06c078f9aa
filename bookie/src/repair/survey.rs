//! The bookies of the cluster as metadata has them now. Owns three scans and how long their answer may be used; never
//! decides who is lost: that takes time, and the auditor has told it.

use super::job::{JobError, in_time};
use protocol::{
    id::{BookieId, Incarnation},
    ledger::{metadata::BookieMember, repair::Roster},
    model::{BookieRecord, Cookie, Decommission, ModelError, Record, decode, prefix},
    runtime::Clock,
    service::metadata::{Consistency, MetadataService, Scan},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// How long an answer may be used: ledgers of a few bytes must not cost three scans each.
const FRESH: Duration = Duration::from_secs(1);
/// Bookies per page of a scan.
const PAGE: u32 = 1_000;

/// Reads who is there.
pub(super) struct Survey {
    metadata: Arc<dyn MetadataService>,
    clock: Arc<dyn Clock>,
    latest: tokio::sync::Mutex<Option<(Duration, Arc<Roster>)>>,
}

impl Survey {
    pub(super) fn new(metadata: Arc<dyn MetadataService>, clock: Arc<dyn Clock>) -> Self {
        Self { metadata, clock, latest: tokio::sync::Mutex::default() }
    }

    /// The bookies, with those for lost that were named so and are not there.
    pub(super) async fn roster(&self, lost: &[BookieMember]) -> Result<Roster, JobError> {
        let mut latest = self.latest.lock().await;
        let now = self.clock.monotonic();
        let known = latest.as_ref().filter(|(at, _)| now.saturating_sub(*at) < FRESH).map(|(_, r)| Arc::clone(r));
        let roster = match known {
            Some(known) => known,
            None => {
                let read = Arc::new(self.read().await?);
                *latest = Some((now, Arc::clone(&read)));
                read
            }
        };
        Ok(Roster { lost: lost.iter().copied().collect(), ..roster.as_ref().clone() })
    }

    async fn read(&self) -> Result<Roster, JobError> {
        let live: Vec<BookieRecord> = self.records(prefix::BOOKIES).await?;
        let cookies: Vec<Cookie> = self.records(prefix::COOKIES).await?;
        let orders: Vec<Decommission> = self.records(prefix::DECOMMISSIONS).await?;
        let live = live.into_iter().map(|record| (record.member.id, record)).collect();
        let cookies: BTreeMap<BookieId, Incarnation> =
            cookies.into_iter().map(|cookie| (cookie.bookie, cookie.incarnation)).collect();
        let leaving = orders.into_iter().map(|order| order.member).collect();
        Ok(Roster { live, cookies, lost: BTreeSet::new(), leaving })
    }

    async fn records<R: Record>(&self, prefix: &str) -> Result<Vec<R>, JobError> {
        let (mut records, mut after) = (Vec::new(), None);
        loop {
            let consistency = Consistency::Linearizable;
            let scan = Scan { prefix: prefix.into(), after, limit: PAGE, consistency };
            let page = in_time(self.metadata.scan(scan)).await?;
            let decoded = page.items.iter().map(|item| decode(&item.value)).collect::<Result<Vec<R>, ModelError>>();
            records.extend(decoded?);
            match page.items.last() {
                Some(last) if page.more => after = Some(last.key.clone()),
                _ => return Ok(records),
            }
        }
    }
}
