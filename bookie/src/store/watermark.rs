//! The watermark: a small file beside the store that says how far the store has certainly been synced.
//!
//! RocksDB cannot see that its journal was cut at a record boundary, or that its tail was turned to zeroes. The
//! watermark can: it is another file, synced on its own, and if the store comes back with a lower commit number, then
//! acknowledged entries are gone. It is advanced about once a second and on close, never on the way of an
//! acknowledgement; so it is at most as high as the truth, never higher.
//!
//! Two slots of 512 bytes are written in turn, so that a torn write spares the other one:
//! `MGWM` (4), version 1 (4), number (8), CRC-32C of the 16 bytes before (4), zeroes. Big-endian.

use bytes::{Buf, BufMut};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

const SLOT: usize = 512;
const MAGIC: u32 = u32::from_be_bytes(*b"MGWM");
const VERSION: u32 = 1;

/// The side file, open.
#[derive(Debug)]
pub struct Watermark {
    file: File,
    number: Option<u64>,
    next_slot: u64,
}

impl Watermark {
    /// Opens the file, or makes an empty one.
    ///
    /// # Errors
    /// What the file system says; a newer version as [`io::ErrorKind::Unsupported`].
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut slots = [None; 2];
        for (at, slot) in slots.iter_mut().enumerate() {
            let mut bytes = [0; SLOT];
            // A file that ends early holds fewer slots.
            if file.read_exact_at(&mut bytes, (at * SLOT) as u64).is_ok() {
                *slot = decode(&bytes)?;
            }
        }
        let next_slot = u64::from(slots[0] > slots[1]);
        Ok(Self { file, number: slots[0].max(slots[1]), next_slot })
    }

    /// The highest commit number that is known to have been synced; none if the file says nothing.
    #[must_use]
    pub const fn number(&self) -> Option<u64> {
        self.number
    }

    /// Raises the watermark, durably. A lower number changes nothing.
    ///
    /// # Errors
    /// What the file system says; the mark then stands where it stood.
    pub fn advance(&mut self, number: u64) -> io::Result<()> {
        if self.number.is_some_and(|there| there >= number) {
            return Ok(());
        }
        self.write(number)
    }

    /// Sets the watermark even if it falls: the operator has accepted the loss.
    ///
    /// # Errors
    /// What the file system says.
    pub fn reset(&mut self, number: u64) -> io::Result<()> {
        self.write(number)?;
        self.write(number)
    }

    fn write(&mut self, number: u64) -> io::Result<()> {
        self.file.write_all_at(&encode(number), self.next_slot * SLOT as u64)?;
        self.file.sync_data()?;
        self.number = Some(number);
        self.next_slot = 1 - self.next_slot;
        Ok(())
    }
}

fn encode(number: u64) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    let mut out = &mut slot[..16];
    out.put_u32(MAGIC);
    out.put_u32(VERSION);
    out.put_u64(number);
    let crc = crc32c::crc32c(&slot[..16]);
    slot[16..20].copy_from_slice(&crc.to_be_bytes());
    slot
}

/// The number in a slot; none if it was never written in full.
fn decode(slot: &[u8; SLOT]) -> io::Result<Option<u64>> {
    let mut fields = &slot[..20];
    let (magic, version, number, crc) = (fields.get_u32(), fields.get_u32(), fields.get_u64(), fields.get_u32());
    if magic != MAGIC || crc != crc32c::crc32c(&slot[..16]) {
        return Ok(None);
    }
    if version != VERSION {
        let problem = format!("the watermark has format version {version}, this bookie knows {VERSION}");
        return Err(io::Error::new(io::ErrorKind::Unsupported, problem));
    }
    Ok(Some(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopened(path: &Path) -> Option<u64> {
        Watermark::open(path).expect("opens").number()
    }

    #[test]
    fn it_rises_and_survives() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("watermark");
        let mut mark = Watermark::open(&path).expect("opens");
        assert_eq!(mark.number(), None);
        for number in [0, 1, 5, 900] {
            mark.advance(number).expect("written");
            assert_eq!(reopened(&path), Some(number));
        }
        mark.advance(3).expect("nothing to do");
        assert_eq!(reopened(&path), Some(900), "it never falls by itself");
        mark.reset(3).expect("written");
        assert_eq!(reopened(&path), Some(3));
    }

    #[test]
    fn a_torn_write_spares_the_mark_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("watermark");
        let mut mark = Watermark::open(&path).expect("opens");
        mark.advance(41).expect("written");
        mark.advance(42).expect("written");
        // The slot that holds 42 is torn; 41 stands in the other one.
        let torn = (0..2).find(|at| slot_number(&path, *at) == Some(42)).expect("42 is in one of them");
        mark.file.write_all_at(&[0xee; 13], torn * SLOT as u64).expect("written");
        assert_eq!(reopened(&path), Some(41));
    }

    fn slot_number(path: &Path, at: u64) -> Option<u64> {
        let mut bytes = [0; SLOT];
        File::open(path).expect("there").read_exact_at(&mut bytes, at * SLOT as u64).expect("whole");
        decode(&bytes).expect("known")
    }

    #[test]
    fn a_newer_version_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("watermark");
        let mut slot = encode(7);
        slot[7] = 9;
        let crc = crc32c::crc32c(&slot[..16]);
        slot[16..20].copy_from_slice(&crc.to_be_bytes());
        std::fs::write(&path, slot).expect("written");
        assert_eq!(Watermark::open(&path).map(|_| ()).expect_err("refused").kind(), io::ErrorKind::Unsupported);
    }
}
