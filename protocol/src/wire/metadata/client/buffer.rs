//! What a watch has been told and its reader has not yet read: bounded, and free while it is empty.
//!
//! Owns the hand-over between the task that reads the connection and the one that reads the watch. The writing end never
//! waits: a reader that falls behind loses its watch, and nobody else anything.

use super::unavailable;
use crate::{
    id::Revision,
    service::metadata::{Change, MetadataError, WatchEvent},
};
use futures::Stream;
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

/// The most events that wait for the reader.
const MAX_EVENTS: usize = 1_024;
/// The most bytes of keys and values in them.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// Room for events that is kept while there are none.
const KEPT: usize = 4;

/// Told when the reader of a watch is dropped; it says which watch.
pub(super) type Dropped = Arc<dyn Fn(u64) + Send + Sync>;

#[derive(Default)]
struct Buffer {
    events: VecDeque<WatchEvent>,
    bytes: usize,
    /// Follows after the events.
    end: Option<MetadataError>,
    /// Nothing follows after the end.
    ended: bool,
    waker: Option<Waker>,
}

/// The writing end. Dropped, it says that the client is gone, so that no reader waits for a task that died.
pub(super) struct Feed(Arc<Mutex<Buffer>>);

/// The reading end: events, and at last an error.
pub(super) struct Reader {
    watch: u64,
    buffer: Arc<Mutex<Buffer>>,
    dropped: Dropped,
}

/// "The reader fell behind."
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// The two ends of an empty buffer for this watch.
pub(super) fn buffer(watch: u64, dropped: Dropped) -> (Feed, Reader) {
    let buffer = Arc::default();
    (Feed(Arc::clone(&buffer)), Reader { watch, buffer, dropped })
}

impl Feed {
    /// Adds an event, if there is room for it.
    pub(super) fn push(&self, event: WatchEvent) -> Result<(), Full> {
        let mut buffer = self.0.lock();
        let bytes = size(&event);
        if buffer.events.len() >= MAX_EVENTS || buffer.bytes + bytes > MAX_BYTES {
            return Err(Full);
        }
        buffer.bytes += bytes;
        buffer.events.push_back(event);
        wake(&mut buffer);
        Ok(())
    }

    /// Nothing follows but this.
    pub(super) fn end(self, error: MetadataError) {
        self.0.lock().end = Some(error);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut buffer = self.0.lock();
        buffer.end.get_or_insert_with(|| unavailable("the client is gone"));
        wake(&mut buffer);
    }
}

fn wake(buffer: &mut Buffer) {
    if let Some(waker) = buffer.waker.take() {
        waker.wake();
    }
}

impl Stream for Reader {
    type Item = Result<WatchEvent, MetadataError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut buffer = self.buffer.lock();
        if let Some(event) = buffer.events.pop_front() {
            buffer.bytes -= size(&event);
            // A burst of one watch in many thousands shall not hold memory for ever.
            if buffer.events.is_empty() && buffer.events.capacity() > KEPT {
                buffer.events = VecDeque::new();
            }
            return Poll::Ready(Some(Ok(event)));
        }
        if let Some(error) = buffer.end.take() {
            buffer.ended = true;
            return Poll::Ready(Some(Err(error)));
        }
        if buffer.ended {
            return Poll::Ready(None);
        }
        buffer.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        (self.dropped)(self.watch);
    }
}

fn size(event: &WatchEvent) -> usize {
    let of = |change: &Change| match change {
        Change::Put(item) => item.key.len() + item.value.len(),
        Change::Deleted(key) => key.len(),
    };
    size_of::<Revision>() + event.changes.iter().map(of).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, StreamExt};

    fn event(revision: u64, bytes: usize) -> WatchEvent {
        WatchEvent { revision: Revision(revision), changes: vec![Change::Deleted("k".repeat(bytes))] }
    }

    fn ends() -> (Feed, Reader) {
        buffer(1, Arc::new(|_| {}))
    }

    fn read(reader: &mut Reader) -> Option<Option<Result<u64, MetadataError>>> {
        reader.next().now_or_never().map(|next| next.map(|event| event.map(|event| event.revision.0)))
    }

    #[test]
    fn events_come_in_order_and_the_end_comes_last() {
        let (feed, mut reader) = ends();
        assert_eq!(read(&mut reader), None);
        feed.push(event(1, 1)).expect("room");
        feed.push(event(2, 1)).expect("room");
        feed.end(MetadataError::Invalid("end".into()));
        assert_eq!((read(&mut reader), read(&mut reader)), (Some(Some(Ok(1))), Some(Some(Ok(2)))));
        assert_eq!(read(&mut reader), Some(Some(Err(MetadataError::Invalid("end".into())))));
        assert_eq!(read(&mut reader), Some(None));
    }

    #[test]
    fn a_writer_that_died_is_an_end_too() {
        let (feed, mut reader) = ends();
        feed.push(event(1, 1)).expect("room");
        drop(feed);
        assert_eq!(read(&mut reader), Some(Some(Ok(1))));
        assert!(matches!(read(&mut reader), Some(Some(Err(MetadataError::Unavailable { .. })))));
        assert_eq!(read(&mut reader), Some(None));
    }

    #[test]
    fn it_is_bounded_by_count_and_by_bytes_and_gives_room_back() {
        let (feed, mut reader) = ends();
        for n in 0..MAX_EVENTS as u64 {
            feed.push(event(n, 1)).expect("room");
        }
        assert_eq!(feed.push(event(9, 1)), Err(Full));
        read(&mut reader);
        assert_eq!(feed.push(event(9, 1)), Ok(()));
        let (feed, mut reader) = ends();
        feed.push(event(1, MAX_BYTES / 2)).expect("room");
        assert_eq!(feed.push(event(2, MAX_BYTES / 2)), Err(Full), "revisions count too");
        assert_eq!(feed.push(event(3, 100)), Ok(()));
        read(&mut reader);
        read(&mut reader);
        let buffer = reader.buffer.lock();
        assert_eq!((buffer.bytes, buffer.events.len()), (0, 0));
    }

    #[test]
    fn an_empty_buffer_holds_no_memory_after_a_burst() {
        let (feed, mut reader) = ends();
        for n in 0..100 {
            feed.push(event(n, 1)).expect("room");
        }
        while read(&mut reader).is_some() {}
        assert!(reader.buffer.lock().events.capacity() <= KEPT);
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken_by_events_and_by_the_end() {
        let (feed, mut reader) = ends();
        let reading = tokio::spawn(async move {
            let first = reader.next().await;
            (first, reader.next().await)
        });
        tokio::task::yield_now().await;
        feed.push(event(1, 1)).expect("room");
        tokio::task::yield_now().await;
        feed.end(MetadataError::Invalid("end".into()));
        let (first, last) = reading.await.expect("ends");
        assert!(matches!((first, last), (Some(Ok(_)), Some(Err(_)))));
    }

    #[test]
    fn a_dropped_reader_says_which_watch_it_read() {
        let gone = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&gone);
        drop(buffer(7, Arc::new(move |watch| told.lock().push(watch))));
        assert_eq!(*gone.lock(), [7]);
    }
}
