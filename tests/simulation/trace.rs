//! The story of a run: one line per event. Kept only when asked for, because telling costs more than happening; a run is
//! told again from its seed.

use std::{cell::RefCell, fmt::Write, time::Duration};

/// The lines of a run.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    lines: Option<RefCell<String>>,
}

impl Trace {
    pub(crate) fn new(is_kept: bool) -> Self {
        Self { lines: is_kept.then(RefCell::default) }
    }

    pub(crate) const fn is_kept(&self) -> bool {
        self.lines.is_some()
    }

    pub(crate) fn tell(&self, now: Duration, event: std::fmt::Arguments<'_>) {
        if let Some(lines) = &self.lines {
            let mut lines = lines.borrow_mut();
            writeln!(lines, "{:>14.6} {event}", now.as_secs_f64()).expect("memory takes everything");
        }
    }

    pub(crate) fn take(&self) -> String {
        self.lines.as_ref().map(RefCell::take).unwrap_or_default()
    }
}

/// Tells one event of a world.
macro_rules! tell {
    ($world:expr, $($event:tt)*) => {
        if $world.trace.is_kept() {
            $world.trace.tell($world.engine.now(), format_args!($($event)*));
        }
    };
}
pub(crate) use tell;
