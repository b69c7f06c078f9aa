//! What must be true of the metadata service beside linearizability, judged from what its clients saw: numbers that were
//! issued, events of watches, lives of sessions. Pure functions over records; they call nothing.

pub mod sequences;
pub mod sessions;
pub mod watches;
