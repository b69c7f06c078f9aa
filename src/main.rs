//! The magnetar binary.
fn main() {}
