//! A bare fetcher for `bench consume --bare`: asks for record batches over one connection and counts them by their
//! headers, so that what is measured is the server and not a client library. Speaks Fetch version 4 and nothing else;
//! never decodes a record.

use anyhow::{Context, bail, ensure};
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// The largest answer that is believed.
const MAX_ANSWER: usize = 256 << 20;
/// Bytes asked for in one answer, and of one partition.
const WANTED: (i32, i32) = (16 << 20, 4 << 20);

/// One connection and where it stands in each partition.
pub(super) struct Fetcher {
    stream: TcpStream,
    topic: String,
    next: BTreeMap<i32, i64>,
    answer: Vec<u8>,
}

/// What one answer held.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Got {
    /// Records, by the counts in the batch headers.
    pub(super) records: u64,
    /// Bytes of record batches.
    pub(super) bytes: u64,
}

impl Fetcher {
    pub(super) fn connect(address: &str, topic: &str, partitions: &[i32]) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let next = partitions.iter().map(|p| (*p, 0)).collect();
        Ok(Self { stream, topic: topic.into(), next, answer: Vec::new() })
    }

    /// Begins again at the start of every partition.
    pub(super) fn rewind(&mut self) {
        self.next.values_mut().for_each(|offset| *offset = 0);
    }

    /// Asks once for what follows; nothing if there is no more.
    pub(super) fn fetch(&mut self) -> anyhow::Result<Got> {
        self.stream.write_all(&self.request())?;
        let mut size = [0; 4];
        self.stream.read_exact(&mut size)?;
        let size = usize::try_from(i32::from_be_bytes(size)).context("a negative size")?;
        ensure!(size <= MAX_ANSWER, "an answer of {size} bytes");
        self.answer.resize(size, 0);
        self.stream.read_exact(&mut self.answer)?;
        let mut answer = Fields(&self.answer);
        answer.take(8)?; // correlation id, throttle time
        let mut got = Got::default();
        for _ in 0..answer.i32()? {
            let name = usize::from(answer.i16()?.cast_unsigned());
            answer.take(name)?;
            for _ in 0..answer.i32()? {
                let (partition, code) = (answer.i32()?, answer.i16()?);
                ensure!(code == 0, "partition {partition} answered with error {code}");
                answer.take(16)?; // high watermark, last stable offset
                let aborted = usize::try_from(answer.i32()?).unwrap_or(0);
                answer.take(aborted * 16)?;
                let records = usize::try_from(answer.i32()?).unwrap_or(0);
                let next = self.next.get_mut(&partition).context("an answer for another partition")?;
                count(Fields(answer.take(records)?), next, &mut got)?;
            }
        }
        Ok(got)
    }

    /// Fetch, version 4, behind a request header of version 1.
    fn request(&self) -> Vec<u8> {
        let mut frame = vec![0; 4];
        for number in [1i16, 4, 0, 0, -1] {
            frame.extend(number.to_be_bytes()); // API, version, correlation id in two halves, no client id
        }
        for number in [-1, 0, 1, WANTED.0] {
            frame.extend(number.to_be_bytes()); // a client, do not wait, least bytes, most bytes
        }
        frame.push(0);
        frame.extend(1i32.to_be_bytes());
        frame.extend(u16::try_from(self.topic.len()).unwrap_or(0).to_be_bytes());
        frame.extend(self.topic.as_bytes());
        frame.extend(i32::try_from(self.next.len()).unwrap_or(0).to_be_bytes());
        for (partition, offset) in &self.next {
            frame.extend(partition.to_be_bytes());
            frame.extend(offset.to_be_bytes());
            frame.extend(WANTED.1.to_be_bytes());
        }
        let size = i32::try_from(frame.len() - 4).unwrap_or(0);
        frame[..4].copy_from_slice(&size.to_be_bytes());
        frame
    }
}

/// Walks over whole batches and moves `next` behind them; a batch that is cut off at the end comes again.
fn count(mut records: Fields<'_>, next: &mut i64, got: &mut Got) -> anyhow::Result<()> {
    while records.0.len() >= 61 {
        let header = records.0;
        let mut fields = Fields(header);
        let (base, length) = (fields.i64()?, usize::try_from(fields.i32()?).context("a negative batch")?);
        if header.len() < length + 12 {
            break;
        }
        fields.take(11)?; // epoch, magic, checksum, attributes
        let span = i64::from(fields.i32()?) + 1;
        if base + span <= *next {
            bail!("offset {base} came again after {next}");
        }
        *next = base + span;
        got.records += span.unsigned_abs();
        got.bytes += length as u64 + 12;
        records.take(length + 12)?;
    }
    Ok(())
}

/// Reads numbers off a slice.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> anyhow::Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count).context("an answer that is cut short")?;
        self.0 = rest;
        Ok(head)
    }
    fn i16(&mut self) -> anyhow::Result<i16> {
        Ok(i16::from_be_bytes(self.take(2)?.try_into()?))
    }
    fn i32(&mut self) -> anyhow::Result<i32> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into()?))
    }
    fn i64(&mut self) -> anyhow::Result<i64> {
        Ok(i64::from_be_bytes(self.take(8)?.try_into()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(base: i64, records: i32, body: usize) -> Vec<u8> {
        let mut batch = vec![0; 61 + body];
        batch[..8].copy_from_slice(&base.to_be_bytes());
        batch[8..12].copy_from_slice(&(49 + body as i32).to_be_bytes());
        batch[23..27].copy_from_slice(&(records - 1).to_be_bytes());
        batch
    }

    #[test]
    fn whole_batches_count_and_a_cut_one_waits() {
        let mut bytes = [batch(10, 5, 7), batch(15, 2, 0)].concat();
        bytes.extend(&batch(17, 9, 30)[..70]);
        let (mut next, mut got) = (12, Got::default());
        count(Fields(&bytes), &mut next, &mut got).expect("well formed");
        assert_eq!((next, got.records, got.bytes), (17, 7, 129));
        assert!(count(Fields(&batch(10, 5, 0)), &mut next, &mut got).is_err(), "offsets never go back");
    }
}
