//! What this build needs of the processor. Owns the check at the start: the C++ that is linked in was compiled for
//! instructions that every server processor since 2010 has (`.cargo/config.toml`). Where one is missing, the program
//! says so by name, instead of being ended by the system in the middle of its work.

/// The processor cannot run this build.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this build needs instructions that this processor does not have: {}. Run it on a newer one (in a virtual machine: pass the host's processor through), or compile it without the CXXFLAGS of .cargo/config.toml",
    .0.join(", ")
)]
pub struct Unfit(Vec<&'static str>);

/// Looks at the processor; the first thing that the program does.
///
/// # Errors
/// Which instructions are missing, as /proc/cpuinfo names them.
pub fn check() -> Result<(), Unfit> {
    judge(&found())
}

fn judge(found: &[(&'static str, bool)]) -> Result<(), Unfit> {
    let missing: Vec<_> = found.iter().filter(|(_, is_there)| !is_there).map(|(name, _)| *name).collect();
    if missing.is_empty() { Ok(()) } else { Err(Unfit(missing)) }
}

/// The instructions that the build uses; compilers take the second to come with the first.
#[cfg(target_arch = "x86_64")]
fn found() -> [(&'static str, bool); 3] {
    use std::arch::is_x86_feature_detected as has;
    [("sse4_2", has!("sse4.2")), ("popcnt", has!("popcnt")), ("pclmulqdq", has!("pclmulqdq"))]
}

/// Elsewhere nothing is used beyond the architecture itself.
#[cfg(not(target_arch = "x86_64"))]
const fn found() -> [(&'static str, bool); 0] {
    []
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_runs_this_test_runs_this_build() {
        assert_eq!(check(), Ok(()));
    }

    #[test]
    fn what_is_missing_is_named_and_so_is_the_way_out() {
        let found = [("sse4_2", false), ("popcnt", true), ("pclmulqdq", false)];
        let problem = judge(&found).expect_err("two are missing").to_string();
        assert!(problem.contains("does not have: sse4_2, pclmulqdq."), "{problem}");
        assert!(problem.contains("CXXFLAGS"), "{problem}");
    }
}
