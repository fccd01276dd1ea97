//! Where a request comes from, as far as that can be known behind a reverse proxy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::http::{Extensions, HeaderMap};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The other end of a connection: an extension of each request, put there by whoever accepted the
/// connection. Without it nothing is known, and no limit for single addresses applies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Peer {
    /// Over TCP.
    Ip(IpAddr),
    /// On this machine, over a Unix socket: a proxy that is trusted.
    Local,
}

/// A client, as limits tell them apart.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ClientAddress(IpAddr);

impl From<IpAddr> for ClientAddress {
    /// Who has one address of IPv6 has the 2⁶⁴ beside it, too.
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => Self(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into()),
            v4 @ IpAddr::V4(_) => Self(v4),
        }
    }
}

/// The proxies whose word for a client's address is taken; a Unix socket always counts as one.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct TrustedProxies(Vec<IpNet>);

/// Neither an address nor a network.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is neither an address nor a network, such as 10.0.0.7 or 10.0.0.0/8")]
pub struct BadNetwork(String);

impl TrustedProxies {
    /// Whether the peer is one of them.
    pub fn contains(&self, peer: Peer) -> bool {
        match peer {
            Peer::Ip(address) => {
                let address = address.to_canonical();
                self.0.iter().any(|network| network.contains(&address))
            }
            Peer::Local => true,
        }
    }

    /// The client: the peer itself, or the one whom a trusted peer names.
    ///
    /// A proxy adds to the end of the header with whom it has spoken. Where that is a trusted proxy
    /// again, the entry before is its; anything further to the front can be anybody's invention.
    pub(crate) fn client(
        &self,
        extensions: &Extensions,
        headers: &HeaderMap,
    ) -> Option<ClientAddress> {
        let peer = *extensions.get::<Peer>()?;
        if let (Peer::Ip(address), false) = (peer, self.contains(peer)) {
            return Some(address.into());
        }
        for line in headers.get_all(X_FORWARDED_FOR).iter().rev() {
            for entry in line.to_str().ok()?.rsplit(',') {
                let address = parse_entry(entry.trim())?;
                if !self.contains(Peer::Ip(address)) {
                    return Some(address.into());
                }
            }
        }
        None
    }
}

impl Default for TrustedProxies {
    /// This machine.
    fn default() -> Self {
        let v4 = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
        let v6 = Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128);
        Self(vec![v4.into(), v6.into()])
    }
}

impl TryFrom<Vec<String>> for TrustedProxies {
    type Error = BadNetwork;

    fn try_from(texts: Vec<String>) -> Result<Self, BadNetwork> {
        let network = |text: String| {
            let address = || text.parse().map(|address: IpAddr| address.to_canonical().into());
            text.parse::<IpNet>().or_else(|_| address()).map_err(|_| BadNetwork(text))
        };
        texts.into_iter().map(network).collect::<Result<_, _>>().map(Self)
    }
}

impl From<TrustedProxies> for Vec<String> {
    fn from(TrustedProxies(networks): TrustedProxies) -> Self {
        networks.iter().map(ToString::to_string).collect()
    }
}

/// An address; some proxies add the port, and some brackets.
fn parse_entry(entry: &str) -> Option<IpAddr> {
    let with_port = || entry.parse().map(|address: SocketAddr| address.ip()).ok();
    let in_brackets = || entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    entry.parse().ok().or_else(with_port).or_else(in_brackets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> ClientAddress {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn client(trusted: &[&str], peer: Option<Peer>, lines: &[&str]) -> Option<ClientAddress> {
        let trusted: Vec<_> = trusted.iter().map(ToString::to_string).collect();
        let (mut extensions, mut headers) = (Extensions::new(), HeaderMap::new());
        if let Some(peer) = peer {
            extensions.insert(peer);
        }
        for line in lines {
            headers.append(X_FORWARDED_FOR, line.parse().unwrap());
        }
        TrustedProxies::try_from(trusted).unwrap().client(&extensions, &headers)
    }

    #[test]
    fn a_peer_that_is_no_trusted_proxy_is_the_client_whatever_it_says() {
        for (peer, expected) in [
            ("9.9.9.9", "9.9.9.9"),
            ("::ffff:9.9.9.9", "9.9.9.9"),
            ("2001:db8:0:7:1:2:3:4", "2001:db8:0:7::"),
        ] {
            let peer = Some(Peer::Ip(peer.parse().unwrap()));
            for lines in [&[][..], &["1.2.3.4"], &["127.0.0.1", "::1"], &["unknown"]] {
                let client = client(&["127.0.0.1", "::1"], peer, lines);
                assert_eq!(client, Some(address(expected)), "{peer:?} {lines:?}");
            }
        }
    }

    #[test]
    fn a_trusted_proxy_names_the_client_at_the_end() {
        for (lines, expected) in [
            (&["1.2.3.4"][..], Some("1.2.3.4")),
            (&["6.6.6.6, 1.2.3.4"], Some("1.2.3.4")),
            (&["6.6.6.6", " 7.7.7.7 ,1.2.3.4 "], Some("1.2.3.4")),
            (&["1.2.3.4:443"], Some("1.2.3.4")),
            (&["[2001:db8::1]:443"], Some("2001:db8::")),
            (&["[2001:db8::1]"], Some("2001:db8::")),
            (&["2001:db8::1"], Some("2001:db8::")),
            // From a trusted proxy to the next.
            (&["6.6.6.6, 1.2.3.4, 10.1.1.1"], Some("1.2.3.4")),
            (&["1.2.3.4", "10.1.1.1", "127.0.0.1"], Some("1.2.3.4")),
            (&["10.1.1.1"], None),
            // What can't be read says nothing, and neither does what stands before it.
            (&["1.2.3.4, unknown"], None),
            (&["1.2.3.4,"], None),
            (&["1.2.3.4", "\u{e9}"], None),
            (&[""], None),
            (&[], None),
        ] {
            for peer in ["127.0.0.1", "::ffff:127.0.0.1", "10.200.0.1"] {
                let peer = Some(Peer::Ip(peer.parse().unwrap()));
                let client = client(&["127.0.0.1", "10.0.0.0/8"], peer, lines);
                assert_eq!(client, expected.map(address), "{peer:?} {lines:?}");
            }
        }
        let over_a_socket = client(&[], Some(Peer::Local), &["127.0.0.1"]);
        assert_eq!(over_a_socket, Some(address("127.0.0.1")));
    }

    #[test]
    fn without_a_peer_nothing_is_known() {
        assert_eq!(client(&["0.0.0.0/0"], None, &["1.2.3.4"]), None);
    }

    #[test]
    fn by_default_this_machine_is_trusted() {
        let default = TrustedProxies::default();
        for (peer, is_trusted) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.1", false),
            ("::2", false),
        ] {
            assert_eq!(default.contains(Peer::Ip(peer.parse().unwrap())), is_trusted, "{peer}");
        }
        let texts: Vec<String> = default.clone().into();
        assert_eq!(TrustedProxies::try_from(texts).unwrap(), default);
        for bad in ["", "localhost", "1.2.3", "1.2.3.4/33", "1.2.3.4:80"] {
            assert!(TrustedProxies::try_from(vec![bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
