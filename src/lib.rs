//! Wiring of the magnetar node.
