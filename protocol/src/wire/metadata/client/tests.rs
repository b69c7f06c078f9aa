//! The machines of the client: scenarios that are read like stories, and schedules drawn at random.

mod schedules;
mod script;
