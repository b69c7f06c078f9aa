//! Reading the topics out of a consumer's subscription (`ConsumerProtocolSubscription`, all versions share the start).
//! Owns only that look; the metadata of other protocol types is opaque and never read.

use bytes::{Buf, Bytes};
use std::collections::BTreeSet;

/// The protocol type whose metadata is a subscription.
pub(super) const CONSUMER: &str = "consumer";

/// The topics of a subscription; none if the bytes are something else.
pub(super) fn topics(mut metadata: Bytes) -> Option<BTreeSet<String>> {
    if metadata.remaining() < 6 {
        return None;
    }
    let version = metadata.get_i16();
    let count = usize::try_from(metadata.get_i32()).ok()?;
    // Each name takes two bytes of length at least: a larger count is a lie.
    if version < 0 || count > metadata.remaining() / 2 {
        return None;
    }
    let mut topics = BTreeSet::new();
    for _ in 0..count {
        if metadata.remaining() < 2 {
            return None;
        }
        let length = usize::try_from(metadata.get_i16()).ok()?;
        if metadata.remaining() < length {
            return None;
        }
        topics.insert(String::from_utf8(metadata.split_to(length).to_vec()).ok()?);
    }
    Some(topics)
}

#[cfg(test)]
pub(super) fn encode(topics: &[&str]) -> Bytes {
    use bytes::{BufMut, BytesMut};
    let mut out = BytesMut::new();
    out.put_i16(0);
    out.put_i32(topics.len() as i32);
    for topic in topics {
        out.put_i16(topic.len() as i16);
        out.put_slice(topic.as_bytes());
    }
    out.put_i32(-1);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_read_and_nonsense_is_not() {
        let good = encode(&["a", "b", "a"]);
        assert_eq!(topics(good.clone()), Some(BTreeSet::from(["a".into(), "b".into()])));
        // The user data at the end is not needed; anything shorter than the topics is refused.
        for cut in 0..good.len() - 4 {
            assert_eq!(topics(good.slice(..cut)), None, "cut at {cut}");
        }
        assert_eq!(topics(Bytes::from_static(&[0, 0, 0x7f, 0xff, 0xff, 0xff])), None);
        assert_eq!(topics(Bytes::from_static(&[0, 0, 0xff, 0xff, 0xff, 0xff])), None);
    }
}
