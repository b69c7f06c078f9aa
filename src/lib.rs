//! The one binary: roles wired into a node, and the command line that starts it and talks to it.
//!
//! * [`node`] is the only place that knows every role. [`directory`] and [`bookies`] hand their handles to each other, [`instance`]
//!   guards the data directory, [`cluster`] founds the cluster, [`role`] names the roles, [`open_files`] raises a limit
//!   of the system, [`processor`] refuses one that is too old.
//! * [`admin`], [`telemetry`], [`readiness`] and [`process`] show what happens.
//! * [`config`] merges file, environment and flags.
//! * [`cli`] holds the commands, [`bench`] those that measure.

pub mod admin;
pub mod bench;
pub mod bookies;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod directory;
pub mod instance;
pub mod node;
pub mod open_files;
pub mod process;
pub mod processor;
pub mod readiness;
pub mod role;
pub mod telemetry;
