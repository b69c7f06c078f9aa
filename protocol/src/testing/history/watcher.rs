//! One watcher beside the clients of a run: lists, watches, resumes where a watch was lost, lists again where the past is
//! gone, and writes down everything that it was told. Owns when to do which; never judges.

use crate::{
    id::Revision,
    service::metadata::{Consistency, MAX_SCAN, MetadataError, MetadataService, Scan},
    testing::oracles::watches::Told,
};
use futures::StreamExt;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// How long it waits after a failure before it tries again, on the next handle.
const PAUSE: Duration = Duration::from_millis(10);

/// Follows a prefix of at most [`MAX_SCAN`] keys until `target` holds a revision that it has reached; something under the
/// prefix must change there. Returns what it was told, and how often it resumed.
///
/// # Panics
/// If there are too many keys.
pub async fn follow(
    handles: &[Arc<dyn MetadataService>],
    prefix: &str,
    mut target: watch::Receiver<Option<Revision>>,
) -> (Vec<Told>, usize) {
    let (mut told, mut at, mut resumed) = (Vec::new(), None, 0);
    let reached = |at: Option<Revision>, target: Option<Revision>| target.is_some_and(|target| at >= Some(target));
    for handle in handles.iter().cycle() {
        let attempt = async {
            let from = match at {
                Some(at) => at,
                None => list(handle, prefix, &mut told).await?,
            };
            at = Some(from);
            // A list may show all there will ever be: no event would follow.
            if reached(at, *target.borrow()) {
                return Ok(());
            }
            let mut events = handle.watch(prefix.into(), from).await?;
            while let Some(event) = events.next().await {
                let event = event?;
                at = Some(event.revision);
                told.push(Told::Event(event));
                if reached(at, *target.borrow()) {
                    break;
                }
            }
            Ok::<_, MetadataError>(())
        };
        // A target may be set that was reached long ago, so waiting ends when it changes, too.
        let mut changed = target.clone();
        let outcome = tokio::select! {
            outcome = attempt => outcome,
            _ = changed.changed() => Ok(()),
        };
        if matches!(outcome, Err(MetadataError::Compacted { .. })) {
            at = None;
        }
        if reached(at, *target.borrow_and_update()) {
            break;
        }
        resumed += 1;
        let _ = tokio::time::timeout(PAUSE, target.changed()).await;
    }
    (told, resumed)
}

async fn list(
    handle: &Arc<dyn MetadataService>,
    prefix: &str,
    told: &mut Vec<Told>,
) -> Result<Revision, MetadataError> {
    let (after, consistency) = (None, Consistency::Linearizable);
    let page = handle.scan(Scan { prefix: prefix.into(), after, limit: MAX_SCAN, consistency }).await?;
    assert!(!page.more, "a watcher lists at most {MAX_SCAN} keys");
    told.push(Told::Listed { items: page.items, revision: page.revision });
    Ok(page.revision)
}
