//! What a server says when it is ready: where things are, and what to type next. Owns these lines.

use std::{
    ffi::OsStr,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// The first lines of a server's output.
#[derive(Debug, Clone)]
pub struct Banner {
    /// Where Kafka clients connect to.
    pub kafka: String,
    /// Where other processes find its metadata service; none if they cannot.
    pub metadata: Option<String>,
    /// Where metrics are.
    pub admin: SocketAddr,
    /// Where data is.
    pub data: PathBuf,
    /// How long the start took.
    pub took: Duration,
    /// What to type to run this program.
    pub program: String,
}

/// What to type to run this program: its name if the shell finds it, else its path.
#[must_use]
pub fn program(path: Option<&OsStr>, this: Option<&Path>) -> String {
    let found = path.is_some_and(|path| std::env::split_paths(path).any(|dir| dir.join("magnetar").is_file()));
    this.filter(|_| !found).map_or_else(|| "magnetar".into(), |this| this.display().to_string())
}

impl fmt::Display for Banner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = if self.kafka == "localhost:9092" { String::new() } else { format!(" -b {}", self.kafka) };
        let program = &self.program;
        let version = env!("CARGO_PKG_VERSION");
        writeln!(
            f,
            "Magnetar {version}: metadata, bookie, broker and gateway in one process, ready in {:.2} s",
            self.took.as_secs_f64()
        )?;
        writeln!(f)?;
        writeln!(f, "  Kafka     {}", self.kafka)?;
        writeln!(f, "  Metrics   http://{}/metrics     also /health, /ready, /config", self.admin)?;
        if let Some(metadata) = &self.metadata {
            writeln!(f, "  Metadata  {metadata}     where more bookies join: {program} bookie start --help")?;
        }
        writeln!(f, "  Data      {}     (kept; every acknowledged record is synced)", self.data.display())?;
        writeln!(f)?;
        writeln!(f, "  Try       echo hello | {program} produce demo{server}")?;
        writeln!(f, "            {program} consume demo --from-beginning -n 1{server}")?;
        writeln!(f, "            {program} topic list{server}")?;
        writeln!(f)?;
        writeln!(f, "  Ctrl-C stops the server.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banner(kafka: &str) -> String {
        Banner {
            kafka: kafka.into(),
            metadata: Some("localhost:9095".into()),
            admin: SocketAddr::from(([127, 0, 0, 1], 8080)),
            data: "/data".into(),
            took: Duration::from_millis(420),
            program: "magnetar".into(),
        }
        .to_string()
    }

    #[test]
    fn it_says_where_things_are_and_what_to_type() {
        let text = banner("localhost:9092");
        for part in [
            "ready in 0.42 s",
            "localhost:9092",
            "http://127.0.0.1:8080/metrics",
            "localhost:9095",
            "/data",
            "echo hello | magnetar produce demo\n",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn the_program_is_named_so_that_the_shell_finds_it() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let this = Path::new("/built/magnetar");
        assert_eq!(program(Some(dir.path().as_os_str()), Some(this)), "/built/magnetar");
        std::fs::write(dir.path().join("magnetar"), b"").expect("written");
        assert_eq!(program(Some(dir.path().as_os_str()), Some(this)), "magnetar");
        assert_eq!(program(None, None), "magnetar");
    }

    #[test]
    fn commands_name_a_server_that_is_not_where_they_look_first() {
        assert!(banner("localhost:19092").contains("magnetar topic list -b localhost:19092"));
    }
}
