//! For whom a proxy asks: the proxies of a list are believed what they say of it, and nobody else.

use ipnet::{IpNet, Ipv6Net};
use std::net::{IpAddr, SocketAddr};

/// The header in which proxies say it, each behind what the one before it said.
pub const HEADER: &str = "x-forwarded-for";
/// Of the proxies between us and whoever asks, as many as are looked at.
const MOST_HOPS: usize = 32;

/// Networks whose machines are believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// Reads addresses and networks, separated by commas. One that cannot be read makes all of it void: a list that
    /// says something else than was meant must believe nobody.
    pub fn read(list: &str) -> Result<Self, String> {
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let networks = entries.map(|entry| {
            let network = entry.parse().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from));
            let network = network.map(|network: IpNet| network.trunc());
            network.map_err(|_| format!("'{entry}' is neither an IP address nor a network"))
        });
        networks.collect::<Result<_, _>>().map(Self)
    }

    /// Whether what comes from this address is believed. `None`: from a Unix socket, which a program of this machine
    /// was given.
    pub fn trust(&self, address: Option<IpAddr>) -> bool {
        address.is_none_or(|address| {
            let address = address.to_canonical();
            self.0.iter().any(|network| network.contains(&address))
        })
    }

    /// Who asks, of a connection that comes from `peer`: the last address that no proxy of the list has. Whatever
    /// stands before it was written by a stranger. `None`: nobody knows.
    pub fn client<'a>(
        &self,
        peer: Option<IpAddr>,
        forwarded: impl DoubleEndedIterator<Item = &'a [u8]>,
    ) -> Option<IpAddr> {
        let peer = peer.map(|peer| peer.to_canonical());
        if !self.trust(peer) {
            return peer;
        }
        let hops = forwarded.rev().flat_map(|value| value.rsplit(|byte| *byte == b','));
        let mut last = peer;
        for hop in hops.take(MOST_HOPS) {
            last = read_hop(hop);
            if last.is_none_or(|address| !self.trust(Some(address))) {
                break;
            }
        }
        last
    }
}

/// What counts as one machine: who has an address of IPv6 has a whole network of them.
pub fn machine(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => Ipv6Net::new(address, 64)
            .map_or(IpAddr::V6(address), |network| IpAddr::V6(network.network())),
        address => address,
    }
}

/// An address as proxies write it: some with a port, IPv6 with brackets or without.
fn read_hop(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim();
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']')).unwrap_or(hop);
    let address = bare.parse::<IpAddr>().or_else(|_| hop.parse::<SocketAddr>().map(|at| at.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(list: &str, peer: &str, forwarded: &[&str]) -> Option<String> {
        let peer = (!peer.is_empty()).then(|| peer.parse().unwrap());
        let forwarded = forwarded.iter().map(|value| value.as_bytes());
        let client = Proxies::read(list).unwrap().client(peer, forwarded);
        client.map(|address| address.to_string())
    }

    #[test]
    fn only_proxies_of_the_list_are_believed() {
        let list = "127.0.0.1, 10.0.0.0/8, fd00::/8";
        for (peer, forwarded, client) in [
            // Of a stranger it says nothing.
            ("192.0.2.1", &["203.0.113.9"][..], "192.0.2.1"),
            ("192.0.2.1", &[], "192.0.2.1"),
            ("127.0.0.2", &["203.0.113.9"], "127.0.0.2"),
            ("127.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("127.0.0.1", &[], "127.0.0.1"),
            // What the client wrote itself comes before what the proxy saw.
            ("127.0.0.1", &["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
            ("127.0.0.1", &["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
            ("127.0.0.1", &["203.0.113.9,10.1.2.3"], "203.0.113.9"),
            ("127.0.0.1", &["10.1.2.3", "10.1.2.4"], "10.1.2.3"),
            ("10.9.9.9", &[" [2001:db8::1]:443 "], "2001:db8::1"),
            ("fd00::1", &["[2001:db8::1]"], "2001:db8::1"),
            ("fd00::1", &["2001:db8::1"], "2001:db8::1"),
            ("::ffff:10.0.0.1", &["203.0.113.9:1234"], "203.0.113.9"),
            ("10.0.0.1", &["::ffff:203.0.113.9"], "203.0.113.9"),
            // A Unix socket.
            ("", &["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        ] {
            assert_eq!(of(list, peer, forwarded).as_deref(), Some(client), "{peer} {forwarded:?}");
        }
        // An address that cannot be read is nobody's, and what a stranger wrote before it is not taken instead.
        for bad in ["unknown", "_hidden", "1.1.1.1,", "1.1.1.1, 300.0.0.1", "a, [::1", ""] {
            assert_eq!(of(list, "127.0.0.1", &[bad]), None, "{bad}");
        }
        assert_eq!(of(list, "", &[]), None);
        assert_eq!(of("", "127.0.0.1", &["203.0.113.9"]).as_deref(), Some("127.0.0.1"));
        // However long a chain somebody makes up, it ends.
        let long = vec!["10.0.0.1"; 10_000].join(",");
        assert_eq!(of(list, "127.0.0.1", &[&long]).as_deref(), Some("10.0.0.1"));
    }

    #[test]
    fn a_list_that_cannot_be_read_is_none() {
        for bad in ["proxy.example", "10.0.0.0/33", "10.0.0", "127.0.0.1, x", "127.0.0.1:80", "*"] {
            assert!(Proxies::read(bad).is_err(), "{bad}");
        }
        assert_eq!(Proxies::read(" , ").unwrap(), Proxies::default());
        // A network may be written by any of its addresses.
        assert!(Proxies::read("10.1.2.3/8").unwrap().trust("10.200.0.1".parse().ok()));
    }

    #[test]
    fn a_network_of_ipv6_is_one_machine() {
        let machine = |text: &str| machine(text.parse().unwrap()).to_string();
        assert_eq!(machine("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(machine("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(machine("192.0.2.1"), "192.0.2.1");
    }

    proptest::proptest! {
        #[test]
        fn nothing_from_outside_panics(
            hops in proptest::collection::vec("[0-9a-f.:,\\[\\] ]{0,24}|\\PC{0,12}", 0..4),
            list in "[0-9a-f.:/, ]{0,24}",
        ) {
            let hops = hops.iter().map(|hop| hop.as_bytes());
            let trusted = Proxies::read("127.0.0.1").unwrap();
            let _ = (trusted.client("127.0.0.1".parse().ok(), hops), Proxies::read(&list));
        }
    }
}
