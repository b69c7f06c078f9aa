//! How commands reach a server: address, librdkafka settings, and errors in words that say what to do. Owns the
//! connection options all client commands share; never interprets records.

use anyhow::{Context, anyhow, bail};
use clap::Args;
use protocol::runtime::Clock;
use rdkafka::{
    ClientConfig, ClientContext,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    config::FromClientConfig,
    consumer::BaseConsumer,
    error::{KafkaError, RDKafkaErrorCode},
};
use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

/// How long a command waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long a command waits for a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// Which server a command talks to.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// The server, as host:port; several with commas between them
    #[arg(
        short,
        long,
        global = true,
        env = "MAGNETAR_BOOTSTRAP",
        default_value = "localhost:9092",
        value_name = "HOST:PORT"
    )]
    pub bootstrap: String,
    /// A setting of the client, under librdkafka's name; may be repeated
    #[arg(short = 'X', long = "client", global = true, value_name = "NAME=VALUE")]
    pub client: Vec<String>,
}

impl Connection {
    /// The settings of a client, after a look whether anything listens.
    ///
    /// # Errors
    /// Nothing listens at the address, or an option makes no sense.
    pub fn settings(&self) -> anyhow::Result<ClientConfig> {
        self.knock()?;
        let mut settings = ClientConfig::new();
        settings.set("bootstrap.servers", &self.bootstrap).set("client.id", "magnetar");
        if self.addresses().any(|a| a.starts_with("localhost:")) {
            // The server listens on 127.0.0.1; asking ::1 first would only cost a failed attempt.
            settings.set("broker.address.family", "v4");
        }
        for option in &self.client {
            let (name, value) = name_and_value(option)?;
            settings.set(name, value);
        }
        Ok(settings)
    }

    /// Makes a client of these settings and `more`.
    ///
    /// # Errors
    /// As [`Connection::settings`], or librdkafka refuses a setting.
    pub fn client<C: FromClientConfig>(&self, more: &[(&str, &str)]) -> anyhow::Result<C> {
        let mut settings = self.settings()?;
        for (name, value) in more {
            if settings.get(name).is_none() {
                settings.set(*name, *value);
            }
        }
        settings.create().map_err(|e| explain(&e))
    }

    /// A client for administration.
    ///
    /// # Errors
    /// As [`Connection::client`].
    pub fn admin(&self) -> anyhow::Result<AdminClient<DefaultClientContext>> {
        self.client(&[])
    }

    /// A client that only looks, and creates no topic by looking.
    ///
    /// # Errors
    /// As [`Connection::client`].
    pub fn observer(&self) -> anyhow::Result<BaseConsumer> {
        self.client(&[
            ("group.id", "magnetar-observer"),
            ("enable.auto.commit", "false"),
            ("allow.auto.create.topics", "false"),
        ])
    }

    fn addresses(&self) -> impl Iterator<Item = &str> {
        self.bootstrap.split(',').map(str::trim).filter(|a| !a.is_empty())
    }

    /// Connects once, because librdkafka would try for long and say little.
    fn knock(&self) -> anyhow::Result<()> {
        let mut failures = Vec::new();
        for address in self.addresses() {
            if !address.contains(':') {
                bail!("\"{address}\" is not an address; write host:port, for example localhost:9092");
            }
            match address.to_socket_addrs() {
                Ok(found) => match connect(found) {
                    Ok(()) => return Ok(()),
                    Err(reason) => failures.push(format!("{address}: {reason}")),
                },
                Err(e) => failures.push(format!("{address}: {e}")),
            }
        }
        bail!(
            "no server answers at {}\n  start one with: magnetar standalone\n  or name another address with --bootstrap HOST:PORT",
            failures.join("; ")
        )
    }
}

fn connect(addresses: impl Iterator<Item = SocketAddr>) -> Result<(), String> {
    let mut reason = "the name has no address".to_string();
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => reason = "connection refused".into(),
            Err(e) => reason = e.to_string(),
        }
    }
    Err(reason)
}

/// Splits `name=value`.
///
/// # Errors
/// There is no `=`, or no name before it.
pub fn name_and_value(option: &str) -> anyhow::Result<(&str, &str)> {
    let split = option.split_once('=').map(|(name, value)| (name.trim(), value)).filter(|(name, _)| !name.is_empty());
    split.ok_or_else(|| anyhow!("\"{option}\" is not a setting; write name=value"))
}

/// An error of librdkafka in words.
#[must_use]
pub fn explain(error: &KafkaError) -> anyhow::Error {
    error.rdkafka_error_code().map_or_else(|| anyhow!("{error}"), |code| anyhow!("{}", explain_code(code)))
}

/// A code of Kafka or librdkafka in words, with what to do where that is known.
#[must_use]
pub fn explain_code(code: RDKafkaErrorCode) -> String {
    use RDKafkaErrorCode as Code;
    match code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
            "there is no such topic or partition; \"magnetar topic list\" shows what exists".into()
        }
        Code::TopicAlreadyExists => "a topic of this name exists already".into(),
        Code::InvalidTopic => "this is not a legal topic name: 1 to 249 of the letters a-z A-Z 0-9 . _ -".into(),
        Code::InvalidPartitions => "this is not a possible number of partitions".into(),
        Code::InvalidReplicationFactor => "this is not a possible replication factor".into(),
        Code::InvalidConfig => "a setting is unknown or has an impossible value; docs/config.md lists them".into(),
        Code::PolicyViolation => "the server does not allow this".into(),
        Code::MessageSizeTooLarge => "a record is larger than the topic's max.message.bytes".into(),
        Code::InvalidRecord => "the server refused a record: a compacted topic needs a key in every record".into(),
        Code::AllBrokersDown | Code::BrokerTransportFailure => {
            "the connection to the server was lost; is it still running, and is its advertised address reachable?"
                .into()
        }
        Code::OperationTimedOut | Code::RequestTimedOut | Code::MessageTimedOut => {
            "the server did not answer in time; is its advertised address reachable from here?".into()
        }
        Code::GroupIdNotFound => "there is no such group; \"magnetar group list\" shows what exists".into(),
        other => other.to_string(),
    }
}

/// What a request for administration is given.
#[must_use]
pub fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE))
}

/// The context of clients that say nothing by themselves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: rdkafka::config::RDKafkaLogLevel, _: &str, _: &str) {}
    fn error(&self, _: KafkaError, _: &str) {}
}

/// Sets `asked` when Ctrl-C is pressed; the second time ends the process at once. Must be called once per process.
///
/// # Errors
/// The signal cannot be caught.
pub fn on_interrupt(asked: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    let wait = move || {
        runtime.block_on(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                asked();
                let _ = tokio::signal::ctrl_c().await;
                std::process::exit(130);
            }
        });
    };
    std::thread::Builder::new().name("interrupt".into()).spawn(wait).context("cannot start a thread")?;
    Ok(())
}

/// The clock of commands.
#[must_use]
pub fn clock() -> impl Clock + Copy {
    protocol::runtime::SystemClock::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(bootstrap: &str) -> Connection {
        Connection { bootstrap: bootstrap.into(), client: Vec::new() }
    }

    #[test]
    fn a_server_that_is_not_there_is_named_with_what_to_do() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let problem = connection(&address).settings().expect_err("refused").to_string();
        assert!(problem.contains(&format!("{address}: connection refused")), "{problem}");
        assert!(problem.contains("magnetar standalone") && problem.contains("--bootstrap"), "{problem}");
    }

    #[test]
    fn an_address_without_port_is_not_tried() {
        let problem = connection("localhost").settings().expect_err("no port").to_string();
        assert_eq!(problem, "\"localhost\" is not an address; write host:port, for example localhost:9092");
    }

    #[test]
    fn settings_are_names_with_values() {
        assert_eq!(name_and_value("a=b=c").expect("legal"), ("a", "b=c"));
        assert_eq!(name_and_value("a=").expect("legal"), ("a", ""));
        assert!(name_and_value("a").is_err() && name_and_value("=b").is_err());
    }
}
