//! The cluster's own record: found, or founded by the first node that starts. Owns how a cluster id is made; never
//! changes one that exists.

use protocol::{
    model::{ClusterRecord, ModelError, decode, encode, key},
    runtime::Clock,
    service::metadata::{Condition, Consistency, MetadataError, MetadataService, Operation, Outcome, Transaction},
};
use uuid::Uuid;

/// Why the cluster's record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The metadata service did not do it.
    #[error("cannot read or write the cluster's record")]
    Metadata(#[from] MetadataError),
    /// The record cannot be understood.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// The record of this cluster; a new one if this is its first node. Of two first nodes one founds it.
///
/// # Errors
/// The metadata service does not answer, or the record cannot be read.
pub async fn find_or_found(metadata: &dyn MetadataService, clock: &dyn Clock) -> Result<ClusterRecord, ClusterError> {
    if let Some(found) = metadata.get(key::cluster(), Consistency::Linearizable).await? {
        return Ok(decode(&found.value)?);
    }
    let record = ClusterRecord { cluster_id: cluster_id(Uuid::new_v4()), created_at: clock.wall() };
    let founding = Transaction {
        conditions: vec![Condition::Absent(key::cluster())],
        operations: vec![Operation::Put { key: key::cluster(), value: encode(&record), session: None }],
        request: None,
    };
    match metadata.transact(founding).await? {
        Outcome::Committed { .. } => {
            tracing::info!(cluster = record.cluster_id, "a new cluster was founded");
            Ok(record)
        }
        Outcome::Conflict { current: Some(other), .. } => Ok(decode(&other.value)?),
        Outcome::Conflict { current: None, .. } => {
            let reason = "the cluster's record appeared and went away".into();
            Err(MetadataError::Unavailable { reason }.into())
        }
    }
}

/// 128 bits as Kafka writes them: 22 characters of URL-safe base64 without padding.
fn cluster_id(id: Uuid) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = id.as_u128();
    let digit = |at: u32| {
        // The last character holds the lowest 2 bits, shifted up by the 4 bits that are missing.
        let six = if at == 21 { bits << 4 } else { bits >> (122 - 6 * at) };
        char::from(ALPHABET[(six & 63) as usize])
    };
    (0..22).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{runtime::SystemClock, testing::metadata::FakeMetadata};

    #[test]
    fn ids_look_like_kafkas() {
        assert_eq!(cluster_id(Uuid::from_u128(0)), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(cluster_id(Uuid::from_u128(u128::MAX)), "_____________________w");
        let id: Uuid = "00010203-0405-0607-0809-0a0b0c0d0e0f".parse().expect("an id");
        assert_eq!(cluster_id(id), "AAECAwQFBgcICQoLDA0ODw");
    }

    #[tokio::test]
    async fn a_cluster_is_founded_once() {
        let (metadata, clock) = (FakeMetadata::default(), SystemClock::default());
        let first = find_or_found(&metadata, &clock).await.expect("founded");
        assert_eq!(first.cluster_id.len(), 22);
        assert_eq!(find_or_found(&metadata, &clock).await.expect("found"), first);
    }
}
