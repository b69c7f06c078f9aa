//! What the two streams of a client have in common: requests come in, messages go out to one server at a time, and what
//! a lost server means is decided by a machine that knows no runtime.

use std::time::Duration;

/// Why the server in use has to be left, although the connection stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Leave(pub String);

/// A machine for one stream. Times are since the client began.
pub(super) trait Machine {
    /// What callers ask.
    type Request;
    /// What is sent to the server.
    type Call;
    /// What the server sends.
    type Answer;

    /// Takes what a caller asks.
    fn request(&mut self, request: Self::Request);
    /// Whether there is something to send now.
    fn has_next(&self) -> bool;
    /// What is to be sent next; it counts as sent.
    fn next(&mut self) -> Option<Self::Call>;
    /// Takes what the server sent.
    fn answer(&mut self, answer: Self::Answer) -> Result<(), Leave>;
    /// The server was left, was lost, or could not be reached.
    fn lost(&mut self, reason: &str);
    /// When [`Machine::expire`] has to be called at the latest.
    fn due(&self) -> Option<Duration>;
    /// Gives up whose time is over.
    fn expire(&mut self, now: Duration);
    /// Whether nobody needs a server.
    fn is_idle(&self) -> bool;
    /// Gives everybody up.
    fn stop(&mut self, reason: &str);
}
