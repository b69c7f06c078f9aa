//! The managed ledger: an endless log made of ledgers that end.
//!
//! [`ledger_list`] holds the list in metadata and changes it by compare-and-swap; [`roll`] decides when a ledger ends,
//! [`relocation`] when it does so for the sake of better bookies, [`retention`] which ones may go; [`offset_index`] finds entries by offset and time, [`index_cache`] keeps the indexes
//! of closed ledgers, [`replay`] finds out what a ledger holds by reading little; [`cache`] keeps entries in memory.
//! Nothing here knows clients, waiters or ownership.

pub mod cache;
pub mod index_cache;
pub mod ledger_list;
pub mod offset_index;
pub mod relocation;
pub mod replay;
pub mod retention;
pub mod roll;

pub use cache::{LogEntry, ReadAhead, Tail, TailCache};
pub use index_cache::IndexCache;
pub use ledger_list::{HeadStore, LedgerList, ListError, ListState, ListView};
pub use offset_index::LedgerIndex;
