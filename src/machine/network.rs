//! Determines the machine's address from its default route. The address is used for networks whose
//! settings contain no address.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;

use crate::config::Settings;
use crate::fs;

/// The network of the default route, and the machine's address in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DefaultNetwork {
    /// The machine's address.
    pub ip: Ipv4Addr,
    /// The mask of the network.
    pub netmask: Ipv4Addr,
    /// The router.
    pub gateway: Ipv4Addr,
}

/// A line of `/proc/net/route`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Route {
    interface: String,
    destination: u32,
    gateway: u32,
    mask: u32,
    metric: u32,
}

impl DefaultNetwork {
    /// Reads the default route. `None` if IPv4 has no default route with a gateway, or if the kernel has
    /// no source address for packets to the gateway.
    #[must_use]
    pub(crate) fn of_this_machine() -> Option<Self> {
        let routes = routes(&fs::read_lossy(Path::new("/proc/net/route")).ok()?);
        let route = default_route(&routes)?;
        let gateway = Ipv4Addr::from(route.gateway);
        // Connecting a UDP socket sends nothing. It makes the kernel choose the source address.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((gateway, 9)).ok()?;
        let std::net::IpAddr::V4(ip) = socket.local_addr().ok()?.ip() else {
            return None;
        };
        Some(Self {
            ip,
            netmask: netmask(&routes, &route.interface, ip),
            gateway,
        })
    }
}

/// The address at which other machines reach this one, by the Go agent's rule: that of the default
/// network in the settings, or else of any network. If this network has no address and uses DHCP, the
/// address of the default route.
#[must_use]
pub(crate) fn default_ip(settings: &Settings) -> Option<String> {
    let mut networks = settings.networks.values();
    let default = networks.clone().find(|network| !network.default.is_empty());
    let network = default.or_else(|| networks.next())?;
    if !network.ip.is_empty() {
        return Some(network.ip.clone());
    }
    let machine = network.is_dhcp().then(DefaultNetwork::of_this_machine);
    machine.flatten().map(|machine| machine.ip.to_string())
}

/// Parses the active routes. The table contains addresses in network byte order, printed as numbers
/// in the machine's byte order.
fn routes(text: &str) -> Vec<Route> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let number = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
            let address = |index: usize| Some(u32::from_be_bytes(number(index)?.to_ne_bytes()));
            let is_up = number(3)? & 1 != 0;
            let route = Route {
                interface: (*fields.first()?).to_owned(),
                destination: address(1)?,
                gateway: address(2)?,
                mask: address(7)?,
                metric: fields.get(6)?.parse().ok()?,
            };
            is_up.then_some(route)
        })
        .collect()
}

/// Among the default routes with a gateway, the one with the lowest metric.
fn default_route(routes: &[Route]) -> Option<&Route> {
    routes
        .iter()
        .filter(|route| route.destination == 0 && route.mask == 0 && route.gateway != 0)
        .min_by_key(|route| route.metric)
}

/// The mask of the network that contains `ip` on an interface. If no network contains `ip`, the mask
/// of a single address.
fn netmask(routes: &[Route], interface: &str, ip: Ipv4Addr) -> Ipv4Addr {
    let ip = u32::from(ip);
    let mask = routes
        .iter()
        .filter(|route| route.interface == interface && route.gateway == 0 && route.mask != 0)
        .filter(|route| ip & route.mask == route.destination)
        .map(|route| route.mask)
        .min();
    Ipv4Addr::from(mask.unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth1	00000000	0101A8C0	0003	0	0	200	00000000	0	0	0
eth0	00000000	010200C0	0003	0	0	100	00000000	0	0	0
docker0	000011AC	00000000	0001	0	0	0	0000FFFF	0	0	0
eth0	0AFEA9C0	00000000	0005	0	0	0	FFFFFFFF	0	0	0
eth0	000200C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
eth0	000300C0	00000000	0000	0	0	0	00FFFFFF	0	0	0
";

    #[cfg(target_endian = "little")]
    #[test]
    fn default_route_and_its_netmask_are_found() {
        let routes = routes(TABLE);
        assert_eq!(routes.len(), 5);
        let route = default_route(&routes).unwrap();
        assert_eq!(route.interface, "eth0");
        assert_eq!(Ipv4Addr::from(route.gateway), Ipv4Addr::new(192, 0, 2, 1));
        let mask = netmask(&routes, "eth0", Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(mask, Ipv4Addr::new(255, 255, 255, 0));
        let single = netmask(&routes, "eth1", Ipv4Addr::new(10, 0, 0, 7));
        assert_eq!(single, Ipv4Addr::BROADCAST);
    }

    #[test]
    fn default_network_has_the_address_of_the_machine() {
        let of = |networks: serde_json::Value| {
            let settings = serde_json::json!({"agent_id": "a", "networks": networks});
            default_ip(&Settings::from_json(settings).unwrap())
        };
        let two = serde_json::json!({
            "a": {"ip": "10.0.0.1"},
            "b": {"ip": "10.0.0.2", "default": ["gateway"]},
        });
        assert_eq!(of(two).as_deref(), Some("10.0.0.2"));
        let one = serde_json::json!({"a": {"ip": "10.0.0.1"}});
        assert_eq!(of(one).as_deref(), Some("10.0.0.1"));
        assert_eq!(of(serde_json::json!({})), None);
    }

    #[test]
    fn no_address_without_a_default_route() {
        let header = TABLE.lines().next().unwrap();
        assert!(default_route(&routes(header)).is_none());
        assert!(routes("a\nb\nc d e f g h i j\n").is_empty());
    }

    #[test]
    fn address_of_this_machine_is_consistent() {
        let table = fs::read_lossy(Path::new("/proc/net/route")).unwrap();
        match DefaultNetwork::of_this_machine() {
            Some(network) => {
                let mask = u32::from(network.netmask);
                assert_eq!(mask.leading_ones() + mask.trailing_zeros().min(32), 32);
                assert!(!network.ip.is_unspecified() && network.ip != network.gateway);
            }
            None => assert!(default_route(&routes(&table)).is_none()),
        }
    }
}
