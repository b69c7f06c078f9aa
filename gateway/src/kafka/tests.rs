//! A gateway over real sockets, with a fake cluster behind it and frames written by hand in front.

mod client;
mod connections;
mod data;
mod every_api;
mod groups;
mod topics;
