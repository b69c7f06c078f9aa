//! The tools of the fault tests, tested themselves: the fault shim, the proxy and the checker of histories. Owns no
//! server; what is found here is a fault of the tools.

#[path = "../support/mod.rs"]
mod support;

mod checker;
mod proxy;
mod shim;
