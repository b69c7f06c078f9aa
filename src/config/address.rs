//! Addresses to listen on and to advertise: `host:port` and Kafka's `PLAINTEXT://host:port`. Owns their reading and how
//! `localhost` and "every interface" are understood; never resolves a name.

use super::{
    ConfigError, Listening,
    layers::{Layers, Source},
};
use protocol::settings::StaticSettings;
use std::fmt;

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// A name or an IP address, an IPv6 address without brackets.
    pub host: String,
    /// The port; 0 lets the system choose one.
    pub port: u16,
}

/// Why an address was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenerError {
    /// It has no port, or none that is a number up to 65535.
    #[error("\"{0}\" is not an address; write host:port, for example localhost:9092")]
    NotAnAddress(String),
    /// Another protocol than PLAINTEXT.
    #[error("\"{0}\" asks for a security protocol that is not there yet; only PLAINTEXT://host:port works")]
    Protocol(String),
    /// Several listeners.
    #[error("\"{0}\" names several listeners; one is possible so far")]
    Several(String),
}

impl Address {
    /// Reads `host:port`; an empty host is every interface.
    ///
    /// # Errors
    /// [`ListenerError::NotAnAddress`].
    pub fn parse(text: &str) -> Result<Self, ListenerError> {
        let wrong = || ListenerError::NotAnAddress(text.into());
        let (host, port) = text.trim().rsplit_once(':').ok_or_else(wrong)?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let bare_v6 = host.contains(':') && host.parse::<std::net::Ipv6Addr>().is_err();
        if bare_v6 || host.contains(['/', ' ', ',']) {
            return Err(wrong());
        }
        Ok(Self { host: host.into(), port: port.parse().map_err(|_| wrong())? })
    }

    /// Reads one of Kafka's listeners, `PLAINTEXT://host:port`; the protocol may be left out.
    ///
    /// # Errors
    /// Not an address, another protocol, or several listeners.
    pub fn parse_listener(text: &str) -> Result<Self, ListenerError> {
        let text = text.trim();
        if text.contains(',') {
            return Err(ListenerError::Several(text.into()));
        }
        match text.split_once("://") {
            None => Self::parse(text),
            Some((protocol, rest)) if protocol.eq_ignore_ascii_case("PLAINTEXT") => Self::parse(rest),
            Some(_) => Err(ListenerError::Protocol(text.into())),
        }
    }

    /// Whether it stands for every interface of the machine.
    #[must_use]
    pub fn is_every_interface(&self) -> bool {
        matches!(&*self.host, "" | "0.0.0.0" | "::")
    }

    /// What to bind: `localhost` is 127.0.0.1, which every client tries, and an empty host every interface.
    #[must_use]
    pub fn bind(&self) -> (String, u16) {
        let host = match &*self.host {
            "" => "0.0.0.0",
            "localhost" => "127.0.0.1",
            host => host,
        };
        (host.into(), self.port)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// What to tell others when this process listens on `configured` and the system chose `port`: the name of this machine
/// if every interface is listened on.
#[must_use]
pub fn reachable(configured: &Address, port: u16) -> Address {
    let host = if configured.is_every_interface() { host_name() } else { configured.host.clone() };
    Address { host, port }
}

/// The address of one of Magnetar's own keys.
///
/// # Errors
/// It is not an address.
pub fn own(layers: &Layers, name: &'static str) -> Result<Address, ConfigError> {
    Address::parse(layers.value(name)).map_err(|problem| ConfigError::Listener { name, problem })
}

/// The address of a key whose default is "not set".
///
/// # Errors
/// It is not an address.
pub fn optional(layers: &Layers, name: &'static str) -> Result<Option<Address>, ConfigError> {
    layers.given(name).map(|_| own(layers, name)).transpose()
}

/// The address of a key, and whether somebody set it.
///
/// # Errors
/// It is not an address.
pub fn listening(layers: &Layers, name: &'static str) -> Result<Listening, ConfigError> {
    Ok(Listening { address: own(layers, name)?, is_explicit: layers.source(name) != Source::Default })
}

/// The addresses of a key, in order; at least one.
///
/// # Errors
/// One of them is not an address, or there is none.
pub fn list(layers: &Layers, name: &'static str) -> Result<Vec<Address>, ConfigError> {
    let parts = layers.value(name).split(',').map(str::trim);
    let read = |part| Address::parse(part).map_err(|problem| ConfigError::Listener { name, problem });
    parts.map(read).collect()
}

/// The Kafka listener, and what clients are told.
///
/// # Errors
/// `listeners` or `advertised.listeners` cannot be used.
pub fn kafka(settings: &StaticSettings) -> Result<(Address, Address), ConfigError> {
    let read = |name: &'static str, text: &str| {
        Address::parse_listener(text).map_err(|problem| ConfigError::Listener { name, problem })
    };
    let listener = read("listeners", settings.get_or_default("listeners").unwrap_or_default())?;
    let advertised = match settings.get("advertised.listeners") {
        Some(text) => read("advertised.listeners", text)?,
        None if listener.is_every_interface() => Address { host: host_name(), port: listener.port },
        None => listener.clone(),
    };
    if advertised.is_every_interface() {
        let problem = ListenerError::NotAnAddress(advertised.to_string());
        return Err(ConfigError::Listener { name: "advertised.listeners", problem });
    }
    Ok((listener, advertised))
}

/// What this machine calls itself: the best guess at what others call it.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Some(name.trim()).filter(|n| !n.is_empty()).unwrap_or("localhost").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> StaticSettings {
        StaticSettings::parse(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()))).expect("legal")
    }

    #[test]
    fn addresses_are_hosts_with_ports() {
        let parsed = |text: &str| Address::parse_listener(text).map(|a| (a.host, a.port));
        assert_eq!(parsed("localhost:9092"), Ok(("localhost".into(), 9092)));
        assert_eq!(parsed("PLAINTEXT://:9092"), Ok((String::new(), 9092)));
        assert_eq!(parsed("PLAINTEXT://[::1]:1"), Ok(("::1".into(), 1)));
        for wrong in ["localhost", "localhost:kafka", "localhost:99999", "a/b:1", ""] {
            assert!(matches!(parsed(wrong), Err(ListenerError::NotAnAddress(_))), "{wrong}");
        }
        assert!(matches!(parsed("SASL_SSL://x:1"), Err(ListenerError::Protocol(_))));
        assert!(matches!(parsed("PLAINTEXT://a:1,PLAINTEXT://b:2"), Err(ListenerError::Several(_))));
        assert_eq!(Address { host: "::1".into(), port: 5 }.to_string(), "[::1]:5");
    }

    #[test]
    fn clients_are_told_the_listener_unless_something_else_is_advertised() {
        let both = |pairs: &[(&str, &str)]| kafka(&settings(pairs)).map(|(l, a)| (l.to_string(), a.to_string()));
        assert_eq!(both(&[]).expect("legal"), ("localhost:9092".into(), "localhost:9092".into()));
        let set = [("listeners", "PLAINTEXT://0.0.0.0:1"), ("advertised.listeners", "PLAINTEXT://kafka.example:2")];
        assert_eq!(both(&set).expect("legal"), ("0.0.0.0:1".into(), "kafka.example:2".into()));
        let (_, guessed) = both(&[("listeners", "PLAINTEXT://:7")]).expect("legal");
        assert!(!guessed.starts_with(':') && guessed.ends_with(":7"), "{guessed}");
        assert!(both(&[("advertised.listeners", "0.0.0.0:1")]).is_err(), "nobody can connect to 0.0.0.0");
    }

    #[test]
    fn localhost_is_the_address_every_client_tries() {
        assert_eq!(Address::parse("localhost:1").expect("legal").bind(), ("127.0.0.1".into(), 1));
        assert_eq!(Address::parse(":1").expect("legal").bind(), ("0.0.0.0".into(), 1));
    }
}
