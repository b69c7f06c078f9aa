//! What a server says when it is ready: where things are, and what to type next. Owns these lines.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

/// The first lines of a server's output.
#[derive(Debug, Clone)]
pub struct Banner {
    /// Where Kafka clients connect to.
    pub kafka: String,
    /// Where metrics are.
    pub admin: SocketAddr,
    /// Where data is.
    pub data: PathBuf,
    /// How long the start took.
    pub took: Duration,
}

impl fmt::Display for Banner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = if self.kafka == "localhost:9092" { String::new() } else { format!(" -b {}", self.kafka) };
        let version = env!("CARGO_PKG_VERSION");
        writeln!(
            f,
            "Magnetar {version}: metadata, bookie, broker and gateway in one process, ready in {:.2} s",
            self.took.as_secs_f64()
        )?;
        writeln!(f)?;
        writeln!(f, "  Kafka     {}", self.kafka)?;
        writeln!(f, "  Metrics   http://{}/metrics     also /health, /ready, /config", self.admin)?;
        writeln!(f, "  Data      {}     (kept; every acknowledged record is synced)", self.data.display())?;
        writeln!(f)?;
        writeln!(f, "  Try       echo hello | magnetar produce demo{server}")?;
        writeln!(f, "            magnetar consume demo --from-beginning -n 1{server}")?;
        writeln!(f, "            magnetar topic list{server}")?;
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
            admin: SocketAddr::from(([127, 0, 0, 1], 8080)),
            data: "/data".into(),
            took: Duration::from_millis(420),
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
            "/data",
            "echo hello | magnetar produce demo\n",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn commands_name_a_server_that_is_not_where_they_look_first() {
        assert!(banner("localhost:19092").contains("magnetar topic list -b localhost:19092"));
    }
}
