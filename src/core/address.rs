//! Which addresses and URLs a provider may have.

use ipnet::{Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;
use url::{Host, Url};

/// What an address is, for the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Public,
    /// Loopback, private, link-local, carrier, metadata: only with allow_private_networks.
    Private,
    /// Unspecified, multicast, documentation, reserved: never.
    Unusable,
}

static V4_PRIVATE: LazyLock<Vec<Ipv4Net>> = LazyLock::new(|| {
    nets(&[
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        // Metadata and DNS services of clouds that sit in public space.
        "168.63.129.16/32",
        "100.100.100.200/32",
    ])
});
static V4_UNUSABLE: LazyLock<Vec<Ipv4Net>> = LazyLock::new(|| {
    nets(&[
        "0.0.0.0/8",
        "192.0.2.0/24",
        // Anycast that serves no host: AS112, AMT, relays of 6to4.
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.175.48.0/24",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    ])
});
/// `64:ff9b:1::/48` (RFC 8215) is a network's own translation: what it carries, and where in it, only
/// that network knows.
static V6_PRIVATE: LazyLock<Vec<Ipv6Net>> =
    LazyLock::new(|| nets(&["::1/128", "64:ff9b:1::/48", "fc00::/7", "fe80::/10", "fec0::/10"]));
/// Everything outside 2000::/3 that is not private, and what inside it is not the internet.
static V6_UNUSABLE: LazyLock<Vec<Ipv6Net>> = LazyLock::new(|| {
    nets(&["2001::/23", "2001:db8::/32", "2620:4f:8000::/48", "3ffe::/16", "3fff::/20"])
});
static V6_GLOBAL: LazyLock<Ipv6Net> = LazyLock::new(|| "2000::/3".parse().expect("a constant"));

fn nets<T: std::str::FromStr<Err: std::fmt::Debug>>(texts: &[&str]) -> Vec<T> {
    texts.iter().map(|text| text.parse().expect("a constant")).collect()
}

/// Classifies an address. IPv6 forms that carry an IPv4 address are judged by it.
pub fn kind(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(v4) => kind_v4(v4),
        IpAddr::V6(v6) => match embedded_v4(v6) {
            // Neither the one nor the other makes it more public.
            Some(v4) => match (kind_v4(v4), kind_v6(v6)) {
                (Kind::Public, Kind::Private) => Kind::Private,
                (kind, _) => kind,
            },
            None => kind_v6(v6),
        },
    }
}

fn kind_v4(v4: Ipv4Addr) -> Kind {
    if V4_UNUSABLE.iter().any(|net| net.contains(&v4)) {
        Kind::Unusable
    } else if V4_PRIVATE.iter().any(|net| net.contains(&v4)) {
        Kind::Private
    } else {
        Kind::Public
    }
}

fn kind_v6(v6: Ipv6Addr) -> Kind {
    if V6_PRIVATE.iter().any(|net| net.contains(&v6)) {
        Kind::Private
    } else if !V6_GLOBAL.contains(&v6) || V6_UNUSABLE.iter().any(|net| net.contains(&v6)) {
        Kind::Unusable
    } else {
        Kind::Public
    }
}

/// The IPv4 address inside: mapped `::ffff:a.b.c.d`, compatible `::a.b.c.d`, NAT64
/// `64:ff9b::a.b.c.d` (RFC 6052), 6to4 `2002:aabb:ccdd::`, ISATAP `…:0:5efe:a.b.c.d`.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = v6.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] => Some(v4(high, low)),
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0, 0, 0, 0, 0xffff, 0, high, low] => Some(v4(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        [.., 0 | 0x200, 0x5efe, high, low] => Some(v4(high, low)),
        _ => None,
    }
}

/// Whether the guard lets a connection to `address` pass. `plain` is http without TLS, which may
/// only go to private addresses.
pub fn verdict(address: IpAddr, plain: bool, allow_private: bool) -> Result<(), &'static str> {
    match (kind(address), plain) {
        (Kind::Unusable, _) => Err("the address is not a host's"),
        (Kind::Private, _) if !allow_private => Err("the address is private or local"),
        (Kind::Private, _) => Ok(()),
        (Kind::Public, true) => Err("plain http may only go to private addresses"),
        (Kind::Public, false) => Ok(()),
    }
}

/// Checks the form of a provider's URL. HTTP clients skip the resolver for IP literals, so these
/// are judged here; names are judged when they are resolved.
pub fn check_url(url: &str, allow_private: bool) -> Result<Url, String> {
    let url = checked_form(url)?;
    let plain = url.scheme() == "http";
    if plain && !allow_private {
        return Err("plain http is refused".to_owned());
    }
    let literal = match url.host() {
        Some(Host::Ipv4(v4)) => Some(IpAddr::V4(v4)),
        Some(Host::Ipv6(v6)) => Some(IpAddr::V6(v6)),
        _ => None,
    };
    if let Some(address) = literal {
        verdict(address, plain, allow_private)?;
    }
    Ok(url)
}

/// What is true of every URL of a provider, whatever the settings.
pub fn checked_form(url: &str) -> Result<Url, String> {
    let url = Url::parse(url).map_err(|error| format!("not a URL: {error}"))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(format!("scheme '{}' instead of https", url.scheme()));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("no host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a user name or password in the URL".to_owned());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(text: &str) -> Kind {
        kind(text.parse().unwrap())
    }

    #[test]
    fn private_in_every_disguise() {
        for text in [
            "127.0.0.1",
            "127.9.9.9",
            "10.1.2.3",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.1",
            "169.254.169.254",
            "::1",
            "fe80::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::7f00:1",
            "2002:7f00:1::",
            "168.63.129.16",
            // RFC 8215, with an address in each place that RFC 6052 knows, and with none.
            "64:ff9b:1::7f00:1",
            "64:ff9b:1::808:808",
            "64:ff9b:1:808:8:800::",
            "64:ff9b:1:0:8:808:800:0",
            "64:ff9b:1:7f00:0:100::",
            "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
            "2606:4700::5efe:10.0.0.1",
            "2606:4700::200:5efe:127.0.0.1",
            "fe80::5efe:8.8.8.8",
        ] {
            assert_eq!(kind_of(text), Kind::Private, "{text}");
        }
    }

    #[test]
    fn unusable_addresses() {
        for text in [
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::",
            "ff02::1",
            "203.0.113.9",
            "2001:db8::1",
            "::ffff:0.0.0.0",
            "2001::1",
            "100::1",
            "100:0:0:1::1",
            "5f00::1",
            "2620:4f:8000::1",
            "3ffe::1",
            "3fff::1",
            "64:ff9b:2::808:808",
            "192.175.48.6",
            "::1:0:0",
        ] {
            assert_eq!(kind_of(text), Kind::Unusable, "{text}");
        }
    }

    #[test]
    fn public_addresses() {
        for text in ["1.1.1.1", "8.8.8.8", "172.32.0.1", "2606:4700::1", "64:ff9b::101:101"] {
            assert_eq!(kind_of(text), Kind::Public, "{text}");
        }
    }

    #[test]
    fn literals_in_urls_are_judged_however_they_are_written() {
        for url in [
            "https://127.0.0.1/v1",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://169.254.169.254/latest",
            "http://127.0.0.1/",
        ] {
            assert!(check_url(url, false).is_err(), "{url}");
            assert!(check_url(url, true).is_ok(), "{url}");
        }
        for url in [
            "http://1.1.1.1/",
            "ftp://a/",
            "https://u:p@a.example/",
            "not a url",
            "https://0.0.0.0/",
        ] {
            assert!(check_url(url, true).is_err(), "{url}");
        }
        assert!(check_url("https://openrouter.ai/api/v1", false).is_ok());
    }
}
