//! The guard against what the message crate encodes, cuts of it, and hostile bytes.

pub(in crate::kafka) mod samples;

use super::*;
use crate::kafka::{message, router::APIS};
use bytes::{BufMut, BytesMut};
use kafka_protocol::messages::{ApiKey, ProduceRequest};
use proptest::prelude::*;

/// Every API in every version that is served.
fn served() -> impl Iterator<Item = (ApiKey, i16)> {
    APIS.iter().flat_map(|api| api.versions().map(move |version| (api.key, version)))
}

#[test]
fn everything_that_is_served_has_a_shape() {
    for (key, version) in served() {
        let shape = schema::find(key as i16).expect("in the table");
        assert!(shape.versions.contains(&version), "{key:?} {version}");
        let flexible = key.request_header_version(version) >= 2;
        assert_eq!(version >= shape.flexible_since, flexible, "{key:?} {version}");
    }
    assert_eq!(check(4, 0, &[]), Err(ShapeError::Unknown(4, 0)));
    assert_eq!(check(0, 2, &[]), Err(ShapeError::Unknown(0, 2)));
}

#[test]
fn everything_the_crate_encodes_is_accepted() {
    for (key, version) in served() {
        for body in [samples::empty(key, version), samples::filled(key, version)] {
            assert_eq!(check(key as i16, version, &body), Ok(()), "{key:?} {version} {body:02x?}");
            assert_eq!(samples::decode(key, version, &body), Ok(()), "{key:?} {version}");
        }
    }
}

#[test]
fn every_cut_is_refused_and_a_surplus_is_ignored() {
    for (key, version) in served() {
        let body = samples::filled(key, version);
        for length in 0..body.len() {
            assert!(check(key as i16, version, &body[..length]).is_err(), "{key:?} {version} cut to {length}");
        }
        let longer = [&body[..], &[0]].concat();
        assert_eq!(check(key as i16, version, &longer), Ok(()), "{key:?} {version}");
    }
}

#[test]
fn a_huge_array_in_a_tiny_body_is_refused() {
    // acks and timeout, then a claim of 2^31 - 1 topics: the decoder alone would reserve 206 GB and abort.
    let mut body = BytesMut::new();
    body.put_slice(&[0xff, 0xff, 0, 1, 0, 0, 0, 9]);
    body.put_i32(i32::MAX);
    let refused = message::decode::<ProduceRequest>(0, 3, body.freeze()).expect_err("guarded");
    assert_eq!(refused, message::MessageError::Shape(ShapeError::Array { claimed: 0x7fff_ffff, have: 0 }));
}

#[test]
fn no_claim_anywhere_reaches_the_decoders_unbounded() {
    for (key, version) in served() {
        let body = samples::filled(key, version);
        for at in 0..body.len() {
            for claim in [&[0x7f, 0xff, 0xff, 0xff][..], &[0xff, 0xff, 0xff, 0xff, 0x07], &[0xff; 6], &[0x80, 0, 0, 0]]
            {
                let hostile = [&body[..at], claim, &body[body.len().min(at + claim.len())..]].concat();
                // Whatever the guard lets pass must be safe to decode; an abort would end the test process.
                if check(key as i16, version, &hostile).is_ok() {
                    drop(samples::decode(key, version, &hostile));
                }
            }
        }
    }
}

#[test]
fn a_known_tagged_field_must_be_as_long_as_it_says() {
    let known = samples::filled(ApiKey::Fetch, 12);
    assert_eq!(known.last(), Some(&b'c'), "the body ends in its tagged cluster id");
    let grown = [&known[..known.len() - 5], &[5, 4, b'a', b'b', b'c', 0][..]].concat();
    assert_eq!(check(1, 12, &grown), Err(ShapeError::TagSize(0)));
}

#[test]
fn elements_are_bounded_in_number() {
    let count = u32::try_from(MAX_ELEMENTS).expect("small") + 1;
    let mut body = BytesMut::new();
    body.put_u32(count);
    body.put_bytes(0, 2 * count as usize);
    assert_eq!(check(ApiKey::DeleteGroups as i16, 0, &body), Err(ShapeError::TooMany));
}

#[test]
fn negative_lengths_other_than_null_are_refused() {
    assert_eq!(check(ApiKey::DeleteGroups as i16, 0, &(-2i32).to_be_bytes()), Err(ShapeError::Negative(-2)));
    assert_eq!(check(ApiKey::FindCoordinator as i16, 0, &(-3i16).to_be_bytes()), Err(ShapeError::Negative(-3)));
    let too_long = check(ApiKey::DeleteGroups as i16, 2, &[0xff, 0xff, 0xff, 0xff, 0x7f]);
    assert_eq!(too_long, Err(ShapeError::Varint));
}

proptest! {
    #[test]
    fn random_bodies_never_panic(place in 0..APIS.len(), version in 0i16..19, body in prop::collection::vec(any::<u8>(), 0..200)) {
        let key = APIS[place].key;
        if check(key as i16, version, &body).is_ok() {
            drop(samples::decode(key, version, &body));
        }
    }

    #[test]
    fn damaged_requests_never_panic(place in 0..APIS.len(), version in 0i16..19, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let api = &APIS[place];
        prop_assume!(api.serves(version));
        let mut body = samples::filled(api.key, version).to_vec();
        prop_assume!(!body.is_empty());
        let at = at.index(body.len());
        body[at] = byte;
        if check(api.key as i16, version, &body).is_ok() {
            drop(samples::decode(api.key, version, &body));
        }
    }
}
