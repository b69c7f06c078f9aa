//! What the system says of this process: memory, CPU time, open files, under the names that Prometheus clients agreed on.
//! Owns reading `/proc/self` when asked; on systems without it there is nothing to say.

use std::fmt::Write;

/// Ticks of `/proc/self/stat` in a second: fixed for programs, whatever the kernel was built with.
const TICKS: f64 = 100.0;
/// Bytes of a page of `/proc/self/statm`.
const PAGE: u64 = 4096;

/// Figures of this process in exposition format, and who it is.
#[must_use]
pub fn render(node: i32, roles: &str, cluster: &str) -> String {
    let mut text = String::new();
    let version = env!("CARGO_PKG_VERSION");
    let _ = writeln!(text, "# HELP magnetar_node_info Which program this is.\n# TYPE magnetar_node_info gauge");
    let _ = writeln!(
        text,
        "magnetar_node_info{{version=\"{version}\",node=\"{node}\",roles=\"{roles}\",cluster=\"{cluster}\"}} 1"
    );
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let open = std::fs::read_dir("/proc/self/fd").map(Iterator::count).ok();
    for (name, kind, help, value) in [
        ("process_resident_memory_bytes", "gauge", "Memory in use.", resident(&read("statm")).map(|b| b.to_string())),
        ("process_cpu_seconds_total", "counter", "CPU time used.", cpu_seconds(&read("stat")).map(|s| s.to_string())),
        ("process_open_fds", "gauge", "Open files and connections.", open.map(|n| n.to_string())),
    ] {
        if let Some(value) = value {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
    }
    text
}

/// Resident bytes, from `/proc/self/statm`.
pub(crate) fn resident(statm: &str) -> Option<u64> {
    statm.split(' ').nth(1)?.parse::<u64>().ok()?.checked_mul(PAGE)
}

/// Seconds in user and system mode, from `/proc/self/stat`. The name of the program stands in parentheses and may hold
/// anything, so fields are counted from the last one.
pub(crate) fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let (user, system) = (fields.next()?.parse::<f64>().ok()?, fields.next()?.parse::<f64>().ok()?);
    Some((user + system) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_where_the_system_writes_them() {
        assert_eq!(resident("5000 250 100 1 0 60 0\n"), Some(250 * 4096));
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 4 0 100 1000 250";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!((resident(""), cpu_seconds("")), (None, None));
        let text = render(1, "bookie", "abc");
        assert!(text.contains("magnetar_node_info{version=\"") && text.contains("cluster=\"abc\"} 1"), "{text}");
        assert!(!cfg!(target_os = "linux") || text.contains("process_resident_memory_bytes "), "{text}");
    }
}
