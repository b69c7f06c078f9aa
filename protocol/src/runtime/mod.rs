//! What every role runs on: the clock, tasks with a policy, and shutdown. The only place that reads time or spawns.

pub mod clock;
pub mod task;

pub use clock::{Clock, SystemClock};
pub use task::{TaskKind, Tasks};
