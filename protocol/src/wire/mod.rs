//! The services over a stream: `bookie`, `broker`, `coordinator` and `peer` as frames, `metadata` over tonic.
//!
//! A remote client implements the same trait as what it stands for, and keeps the same promises (see
//! [`crate::service`]): requests are sent in call order on one stream and started in arrival order on the other side;
//! a dropped answer stops nothing; a call whose connection is lost is of unknown outcome if it was sent, unavailable if
//! not; every call has a deadline; what is in flight is bounded by bytes on both sides, with a reserve for small calls.
//! Only the client of the metadata service, which has several servers to choose from, makes such calls again by itself.
//!
//! * [`frame`]: how messages lie on a stream, and the limits of every length.
//! * `envelope`, `problem`: headers and errors. `budget`: admission.
//! * `pulse`: whether a peer still lives. `metrics`: what is counted.
//! * `connection`: the calling side. `server`: the answering side.
//! * [`bookie`], [`broker`], [`coordinator`], [`peer`]: one service each: its messages, its client, its dispatch.
//! * [`metadata`]: the metadata service, over tonic.

pub mod bookie;
pub mod broker;
mod budget;
mod connection;
pub mod coordinator;
mod envelope;
pub mod frame;
pub mod metadata;
mod metrics;
pub mod peer;
mod problem;
mod pulse;
mod server;

pub use connection::RemoteSettings;
pub use server::{ServeSettings, Services, listen, serve};

#[cfg(test)]
mod tests;
