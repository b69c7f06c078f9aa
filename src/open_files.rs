//! The limit on open files: every connection is one, and so is every file of the store. Owns raising it to what the
//! system allows; a process starts with a limit that suits shells, not servers.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Below this many open files a server may have to turn clients away.
const COMFORT: u64 = 10_000;

/// Raises the limit of this process as far as it may; says so if that is not far.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(problem) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::debug!(%problem, "the limit on open files was not raised");
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current.filter(|limit| *limit < COMFORT) {
        tracing::warn!(limit, "few open files are allowed, so few clients can connect; raise it with ulimit -n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_what_the_system_allows() {
        raise_limit();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
    }
}
