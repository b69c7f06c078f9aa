//! Frames: golden bytes, every cut, and lengths that must not be believed.

use super::*;
use crate::wire::envelope::RequestHeader;
use proptest::prelude::*;

fn header(message: &'static [u8]) -> RequestHeader {
    RequestHeader { call: 7, method: 0x101, message: Bytes::from_static(message) }
}

fn framed(header: &RequestHeader, body: &[&'static [u8]]) -> Vec<u8> {
    let mut outbox = Outbox::default();
    outbox.push(header, body.iter().map(|part| Bytes::from_static(part)).collect());
    outbox.copy_to_bytes(outbox.remaining()).into()
}

async fn read(bytes: &[u8]) -> Result<Option<Frame>, WireError> {
    FrameReader::new(bytes).next().await
}

#[tokio::test]
async fn frames_come_out_as_they_went_in() {
    let sent = header(b"message");
    let bytes = [framed(&sent, &[b"one ", b"", b"two"]), framed(&sent, &[])].concat();
    let mut reader = FrameReader::new(&bytes[..]);
    let first = reader.next().await.expect("reads").expect("whole");
    assert_eq!(RequestHeader::decode(first.header), Ok(sent.clone()));
    assert_eq!(&first.body[..], b"one two");
    let second = reader.next().await.expect("reads").expect("whole");
    assert_eq!((RequestHeader::decode(second.header), second.body.len()), (Ok(sent), 0));
    assert_eq!(reader.next().await, Ok(None), "the end between frames is no error");
}

#[tokio::test]
async fn the_layout_never_changes() {
    let hex: String = framed(&header(b"m"), &[b"body"]).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, "000000100000000808071081021a016d626f6479");
    let mut sent = Vec::new();
    let mut theirs = &b"MGNTR\x01\0\0"[..];
    assert_eq!(exchange_prefaces(&mut theirs, &mut sent).await, Ok(()));
    assert_eq!(sent, b"MGNTR\x01\0\0");
}

#[tokio::test]
async fn a_newer_version_is_refused_by_name() {
    for (theirs, problem) in [
        (&b"MGNTR\x02\0\0"[..], WireError::Version { found: 2 }),
        (b"GET / HT", WireError::NotMagnetar),
        (b"MGN", WireError::CutShort),
    ] {
        let mut read = theirs;
        assert_eq!(exchange_prefaces(&mut read, &mut Vec::new()).await, Err(problem));
    }
}

#[tokio::test]
async fn a_frame_cut_short_is_an_error_at_every_length() {
    let whole = framed(&header(b"message"), &[b"body"]);
    for length in 1..whole.len() {
        assert_eq!(read(&whole[..length]).await, Err(WireError::CutShort), "{length}");
    }
}

#[tokio::test]
async fn lengths_are_checked_before_anything_is_read() {
    let frame = |total: u32, header: u32| [total.to_be_bytes(), header.to_be_bytes()].concat();
    let too_long = read(&frame(u32::MAX, 4)).await;
    assert_eq!(too_long, Err(WireError::TooLong { what: "frame", size: u32::MAX as usize, limit: MAX_FRAME }));
    let header = read(&frame(MAX_FRAME as u32, MAX_HEADER as u32 + 1)).await;
    assert!(matches!(header, Err(WireError::TooLong { what: "header", .. })), "{header:?}");
    for (total, header) in [(0, 0), (3, 0), (10, 7)] {
        let inside = read(&frame(total, header)).await;
        assert!(matches!(inside, Err(WireError::Malformed(_))), "{total} {header}: {inside:?}");
    }
}

#[tokio::test]
async fn an_announced_length_does_not_allocate() {
    let bytes = [(MAX_FRAME as u32).to_be_bytes(), 4_u32.to_be_bytes()].concat();
    let mut reader = FrameReader::new(&bytes[..]);
    assert_eq!(reader.next().await, Err(WireError::CutShort));
    assert!(reader.buffer.capacity() <= 2 * STEP, "{}", reader.buffer.capacity());
}

#[tokio::test]
async fn bodies_go_out_vectored() {
    let mut outbox = Outbox::default();
    outbox.push(&header(b"m"), vec![Bytes::from_static(b"abc"), Bytes::from_static(b"def")]);
    let mut slices = [IoSlice::new(&[]); 8];
    assert_eq!(outbox.chunks_vectored(&mut slices), 3, "the header and two parts that were not copied");
    let total = outbox.remaining();
    outbox.advance(total - 4);
    assert_eq!((outbox.remaining(), outbox.chunk()), (4, &b"c"[..]));
    outbox.advance(2);
    assert_eq!(outbox.chunk(), b"ef");
}

proptest! {
    #[test]
    fn any_split_of_the_stream_gives_the_same_frames(cuts in proptest::collection::vec(1..40_usize, 1..40)) {
        let sent = header(b"some message");
        let bytes = [framed(&sent, &[b"x"]), framed(&sent, &[]), framed(&sent, &[b"long body long body"])].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("builds");
        let frames = runtime.block_on(async {
            let (mut write, read) = tokio::io::duplex(7);
            let writing = async move {
                let mut rest = &bytes[..];
                for cut in cuts.into_iter().cycle() {
                    let (now, later) = rest.split_at(cut.min(rest.len()));
                    write.write_all(now).await.expect("writes");
                    rest = later;
                    if rest.is_empty() {
                        return;
                    }
                }
            };
            let reading = async {
                let (mut reader, mut frames) = (FrameReader::new(read), Vec::new());
                while let Some(frame) = reader.next().await.expect("whole frames") {
                    frames.push(frame.body.len());
                }
                frames
            };
            tokio::join!(writing, reading).1
        });
        prop_assert_eq!(frames, [1, 0, 19]);
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("builds");
        runtime.block_on(async {
            let mut reader = FrameReader::new(&bytes[..]);
            while let Ok(Some(_)) = reader.next().await {}
        });
    }
}
