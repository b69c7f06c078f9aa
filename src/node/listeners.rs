//! The sockets of a process: bound before anything else is touched, so that a taken port costs nothing. Owns which role
//! listens where, and what others are told; never accepts a connection.

use super::NodeError;
use crate::{
    config::{
        Config, Listening,
        address::{self, Address},
    },
    role::{Role, RoleSet},
};
use std::{fmt, io, net::SocketAddr};
use tokio::net::{TcpListener, TcpSocket};

/// How many connections the kernel keeps until they are accepted.
const LISTEN_QUEUE: u32 = 4096;
/// The setting of the admin address.
const ADMIN: &str = "--admin-address (admin.address)";
/// The setting of the Kafka address.
const KAFKA: &str = "--kafka-address (listeners)";
/// The settings of the addresses that other processes of a cluster use, in a standalone server and in a process per role.
const METADATA: (&str, &str) = ("--set metadata.address", "--address (metadata.address)");
const PEERS: (&str, &str) = ("--set metadata.peer_address", "--peer-address (metadata.peer_address)");
const BOOKIE: (&str, &str) = ("--set bookie.address", "--address (bookie.address)");

/// The sockets of a process, one for each of its roles that has one.
pub struct Listeners {
    /// The roles.
    pub roles: RoleSet,
    /// Where they are reached.
    pub addresses: Addresses,
    pub(super) admin: TcpListener,
    pub(super) metadata: Option<TcpListener>,
    pub(super) peers: Option<TcpListener>,
    pub(super) bookie: Option<TcpListener>,
    pub(super) kafka: Option<TcpListener>,
}

/// Where a process is reached, as others are told: ports are those that are listened on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Metrics and health.
    pub admin: SocketAddr,
    /// The metadata service.
    pub metadata: Option<Address>,
    /// The metadata service, for its other nodes.
    pub peers: Option<Address>,
    /// The bookie.
    pub bookie: Option<Address>,
    /// Kafka clients.
    pub kafka: Option<Address>,
}

impl fmt::Display for Addresses {
    /// One line for each, for people and for programs that let the system choose the ports.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "admin: http://{}", self.admin)?;
        let others = [
            ("metadata", &self.metadata),
            ("metadata peers", &self.peers),
            ("bookie", &self.bookie),
            ("kafka", &self.kafka),
        ];
        others.iter().try_for_each(|(name, address)| match address {
            Some(address) => writeln!(f, "{name}: {address}"),
            None => Ok(()),
        })
    }
}

impl Listeners {
    /// Binds what these roles listen on.
    ///
    /// # Errors
    /// A port is in use, or an address is not of this machine. A standalone server goes on without the ports that it
    /// only needs to be joined, unless somebody asked for them.
    pub async fn bind(config: &Config, roles: RoleSet) -> Result<Self, NodeError> {
        let kafka = match roles.contains(Role::Gateway) {
            true => Some(bind(&config.listener, "Kafka clients", KAFKA).await?),
            false => None,
        };
        let admin = bind(&config.admin, "metrics and health", ADMIN).await?;
        let metadata = bind_internal(roles, Role::Metadata, METADATA, &config.metadata.listener).await?;
        let peers = bind_internal(roles, Role::Metadata, PEERS, &config.metadata.peers).await?;
        let bookie = bind_internal(roles, Role::Bookie, BOOKIE, &config.bookie.listener).await?;
        let told = |listener: &Option<TcpListener>, configured: &Address, advertised: Option<&Address>| {
            let Some(listener) = listener else { return Ok(None) };
            let bound = local_address(listener)?.port();
            Ok::<_, NodeError>(Some(match advertised {
                Some(Address { host, port: 0 }) => Address { host: host.clone(), port: bound },
                Some(advertised) => advertised.clone(),
                None => address::reachable(configured, bound),
            }))
        };
        let addresses = Addresses {
            admin: local_address(&admin)?,
            metadata: told(&metadata, &config.metadata.listener.address, config.metadata.advertised.as_ref())?,
            peers: told(&peers, &config.metadata.peers.address, config.metadata.peer_advertised.as_ref())?,
            bookie: told(&bookie, &config.bookie.listener.address, config.bookie.advertised.as_ref())?,
            kafka: told(&kafka, &config.listener, Some(&config.advertised))?,
        };
        Ok(Self { roles, addresses, admin, metadata, peers, bookie, kafka })
    }
}

/// Binds a port that only other processes of the cluster use, if the role is ours.
async fn bind_internal(
    roles: RoleSet,
    role: Role,
    (alone, in_cluster): (&'static str, &'static str),
    wanted: &Listening,
) -> Result<Option<TcpListener>, NodeError> {
    if !roles.contains(role) {
        return Ok(None);
    }
    let setting = if roles.is_standalone() { alone } else { in_cluster };
    match bind(&wanted.address, "other processes of the cluster", setting).await {
        Ok(listener) => Ok(Some(listener)),
        Err(problem) if roles.is_standalone() && !wanted.is_explicit => {
            tracing::warn!("no other process can join this server's {role}: {problem}");
            Ok(None)
        }
        Err(problem) => Err(problem),
    }
}

async fn bind(address: &Address, purpose: &'static str, setting: &'static str) -> Result<TcpListener, NodeError> {
    let (host, port) = address.bind();
    let failed = |reason| NodeError::Bind { address: address.to_string(), purpose, setting, reason };
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the host name has no address");
    for candidate in tokio::net::lookup_host((host.as_str(), port)).await.map_err(failed)? {
        match listen(candidate) {
            Ok(listener) => return Ok(listener),
            Err(problem) => last = problem,
        }
    }
    Err(failed(last))
}

/// Listens with a long queue: with the usual 128, a crowd of clients that connect at once waits seconds for a retry.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_QUEUE)
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, NodeError> {
    let failed = |reason| NodeError::Bind { address: "its socket".into(), purpose: "clients", setting: ADMIN, reason };
    listener.local_addr().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::{Layers, Source};

    fn config(set: &[(&str, &str)]) -> Config {
        let mut layers = Layers::default();
        let usual = [("node.data_dir", "/data"), ("admin.address", "127.0.0.1:0"), ("kafka.listeners", "localhost:0")];
        for (path, value) in usual.iter().chain(set) {
            layers.set(path, (*value).into(), Source::Flag("--set".into())).expect("legal");
        }
        Config::read(&layers).expect("consistent")
    }

    #[tokio::test]
    async fn each_role_listens_where_it_was_told_and_says_so() {
        let any = [
            ("bookie.address", "localhost:0"),
            ("metadata.address", "127.0.0.1:0"),
            ("metadata.peer_address", "127.0.0.1:0"),
        ];
        let config = config(&any);
        let bookie = Listeners::bind(&config, RoleSet::BOOKIE).await.expect("free ports").addresses;
        let port = bookie.bookie.clone().expect("listens").port;
        assert!(port != 0 && bookie.metadata.is_none() && bookie.kafka.is_none());
        let said = bookie.to_string();
        assert!(said.starts_with("admin: http://127.0.0.1:"), "{said}");
        assert!(said.ends_with(&format!("\nbookie: localhost:{port}\n")), "{said}");
        let all = Listeners::bind(&config, RoleSet::STANDALONE).await.expect("free ports").addresses.to_string();
        assert_eq!(all.lines().count(), 5, "{all}");
    }

    #[tokio::test]
    async fn others_are_told_what_is_advertised_with_the_port_that_was_chosen() {
        let set = [("bookie.address", "127.0.0.1:0"), ("bookie.advertised", "storage.example:0")];
        let addresses = Listeners::bind(&config(&set), RoleSet::BOOKIE).await.expect("free ports").addresses;
        let told = addresses.bookie.expect("listens");
        assert!(told.host == "storage.example" && told.port != 0, "{told}");
    }

    #[tokio::test]
    async fn a_taken_port_stops_whoever_asked_for_it() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = taken.local_addr().expect("bound").to_string();
        let asked = config(&[("bookie.address", &address), ("metadata.address", "localhost:0")]);
        for roles in [RoleSet::BOOKIE, RoleSet::STANDALONE] {
            let Err(refused) = Listeners::bind(&asked, roles).await else { panic!("the port is taken") };
            let refused = refused.to_string();
            assert!(
                refused.contains("another program uses this port") && refused.contains("bookie.address"),
                "{refused}"
            );
        }
        let mut usual = asked;
        usual.bookie.listener.is_explicit = false;
        let without = Listeners::bind(&usual, RoleSet::STANDALONE).await.expect("goes on").addresses;
        assert!(without.bookie.is_none() && without.metadata.is_some(), "only the bookie cannot be reached");
        assert!(Listeners::bind(&usual, RoleSet::BOOKIE).await.is_err(), "a bookie that nobody reaches is no use");
    }
}
