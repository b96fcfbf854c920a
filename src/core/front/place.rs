//! Where a database is to be reached over HTTP, and under which names.

use std::fmt::{Display, Formatter};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Most bytes of a Unix socket's path: what fits into its address.
const LONGEST_PATH: usize = 107;

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Place {
    /// Whether only this machine reaches it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// As clients know it.
    pub fn url(&self, is_encrypted: bool) -> String {
        match self {
            Self::Tcp(address) if is_encrypted => format!("https://{address}"),
            Self::Tcp(address) => format!("http://{address}"),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    /// Where a browser on this machine finds it, or by the first of its names where it has no address of its own.
    /// `None`: on a socket no browser does.
    pub fn page(&self, is_encrypted: bool, names: &[String]) -> Option<String> {
        let Self::Tcp(address) = self else { return None };
        if !address.ip().is_unspecified() {
            return Some(self.url(is_encrypted));
        }
        let scheme = if is_encrypted { "https" } else { "http" };
        let name = names.first().map_or("localhost", String::as_str);
        let has_port = name.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        Some(match has_port && !name.ends_with(']') {
            true => format!("{scheme}://{name}"),
            false => format!("{scheme}://{name}:{}", address.port()),
        })
    }

    fn read(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') || path.ends_with('/') {
                return Err(format!("'{text}' is not the whole path of a socket"));
            }
            if path.len() > LONGEST_PATH {
                return Err(format!("the path of a socket has at most {LONGEST_PATH} bytes"));
            }
            return Ok(Self::Unix(path.into()));
        }
        let numeric = match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => text.to_owned(),
        };
        match numeric.parse::<SocketAddr>() {
            // Any port would do to the system, and nobody would find it.
            Ok(address) if address.port() == 0 => Err(format!("'{text}' needs a port")),
            Ok(address) => Ok(Self::Tcp(address)),
            Err(_) => Err(format!("'{text}' is neither an IP address with a port nor unix:/path")),
        }
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url(false))
    }
}

/// The names of the databases of a list like `app=127.0.0.1:8787, other=unix:/run/other.sock`.
pub fn databases(list: &str) -> impl Iterator<Item = &str> {
    entries(list).filter_map(|(name, _)| (!name.is_empty()).then_some(name))
}

/// Where the list has a database listen. `None`: nowhere. An address belongs to whoever is named first with it.
pub fn of(list: &str, database: &str) -> Option<Result<Place, String>> {
    let mut own = None;
    let mut taken: Vec<(Place, &str)> = Vec::new();
    for (name, text) in entries(list) {
        let place = Place::read(text);
        if name != database {
            if own.is_none() {
                taken.extend(place.ok().map(|place| (place, name)));
            }
        } else if own.is_some() {
            return Some(Err("the database is named twice".to_owned()));
        } else {
            own = Some(place);
        }
    }
    Some(own?.and_then(|place| match taken.iter().find(|(other, _)| *other == place) {
        Some((_, name)) => Err(format!("{place} is the address of database '{name}' already")),
        None => Ok(place),
    }))
}

/// Names and addresses, as written.
fn entries(list: &str) -> impl Iterator<Item = (&str, &str)> {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(|entry| {
        let (name, text) = entry.split_once('=').unwrap_or((entry, ""));
        (name.trim(), text.trim())
    })
}

/// Whether a request that says this `Host` is meant for us. A page of a stranger that has its own name lead to this
/// machine (DNS rebinding) has the browser send that name; an address cannot be turned that way, so the address at
/// which the connection arrived is always right. `reached`: `None` for a Unix socket, where whoever connects has the
/// rights of a program of this machine, and a proxy has checked the name or has not.
pub fn is_own_host(
    host: &str,
    reached: Option<SocketAddr>,
    is_encrypted: bool,
    names: &[String],
) -> bool {
    let bare = without_port(host);
    let is_named = names.iter().any(|name| {
        name.eq_ignore_ascii_case(host) || bare.is_some_and(|bare| name.eq_ignore_ascii_case(bare))
    });
    let Some(reached) = reached else { return names.is_empty() || is_named };
    if is_named {
        return true;
    }
    let (Some(bare), port) = (bare, host.rsplit_once(':').map(|(_, port)| port)) else {
        return false;
    };
    // Without one it is that of http or https.
    let port = match port {
        Some(port) if host.len() > bare.len() => port.parse().ok(),
        _ if is_encrypted => Some(443),
        _ => Some(80),
    };
    if port != Some(reached.port()) {
        return false;
    }
    let is_here = reached.ip().is_loopback();
    match address(bare) {
        Some(address) => reached.ip() == address || (is_here && address.is_loopback()),
        None => is_here && bare.eq_ignore_ascii_case("localhost"),
    }
}

/// An address as it stands in a `Host`: that of IPv6, and no other, in brackets.
fn address(bare: &str) -> Option<IpAddr> {
    match bare.strip_prefix('[').and_then(|bare| bare.strip_suffix(']')) {
        Some(bare) => bare.parse().map(IpAddr::V6).ok(),
        None => bare.parse().map(IpAddr::V4).ok(),
    }
}

/// A `Host` without its port. `None`: it cannot be one.
fn without_port(host: &str) -> Option<&str> {
    if host.starts_with('[') {
        let (bare, rest) = host.split_at_checked(host.find(']')? + 1)?;
        return (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port)).then_some(bare);
    }
    match host.split_once(':') {
        Some((name, port)) => is_port(port).then_some(name),
        None => Some(host),
    }
    .filter(|name| !name.is_empty())
}

/// Whether this can stand where a port does: digits, or nothing (RFC 3986, 3.2.3).
fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str) -> Place {
        Place::Tcp(address.parse().unwrap())
    }

    #[test]
    fn each_database_has_its_own_address() {
        let list = "app=127.0.0.1:8787, other = unix:/run/o=1.sock,, six=[::1]:80,l=localhost:9";
        assert_eq!(of(list, "app"), Some(Ok(tcp("127.0.0.1:8787"))));
        assert_eq!(of(list, "other"), Some(Ok(Place::Unix("/run/o=1.sock".into()))));
        assert_eq!(of(list, "six"), Some(Ok(tcp("[::1]:80"))));
        assert_eq!(of(list, "l"), Some(Ok(tcp("127.0.0.1:9"))));
        assert_eq!(of(list, "App"), None);
        assert_eq!(of("", ""), None);
        assert_eq!(databases(list).collect::<Vec<_>>(), ["app", "other", "six", "l"]);
    }

    #[test]
    fn an_address_that_is_none_or_is_taken_is_refused() {
        for text in [
            "",
            "8787",
            "127.0.0.1",
            "127.0.0.1:0",
            "127.0.0.1:70000",
            "example.com:80",
            "unix:x.sock",
            "unix:/run/",
            "unix:",
            &format!("unix:/{}", "x".repeat(107)),
            "http://127.0.0.1:80",
        ] {
            let found = of(&format!("b=127.0.0.1:1,a={text}"), "a");
            assert!(matches!(found, Some(Err(_))), "{text}: {found:?}");
        }
        assert!(matches!(of("a", "a"), Some(Err(_))));
        let both = "a=127.0.0.1:1, b=127.0.0.1:1, c=unix:/x, d=unix:/x";
        assert!(matches!((of(both, "a"), of(both, "c")), (Some(Ok(_)), Some(Ok(_)))));
        for late in ["b", "d"] {
            let Some(Err(reason)) = of(both, late) else { panic!("{late} has it") };
            assert!(reason.contains("already"), "{reason}");
        }
        assert!(matches!(of("a=127.0.0.1:1,a=127.0.0.1:2", "a"), Some(Err(_))));
    }

    #[test]
    fn strangers_names_are_not_ours() {
        let v4 = Some("127.0.0.1:8787".parse().unwrap());
        let v6 = Some("[::1]:8787".parse().unwrap());
        let remote = Some("192.0.2.7:80".parse().unwrap());
        let names = ["llm.example".to_owned(), "with.port:444".to_owned()];
        for (host, reached) in [
            ("127.0.0.1:8787", v4),
            ("localhost:8787", v4),
            ("LOCALHOST:8787", v4),
            ("127.0.0.2:8787", v4),
            ("[::1]:8787", v6),
            ("localhost:8787", v6),
            ("192.0.2.7", remote),
            ("192.0.2.7:80", remote),
            ("llm.example", v4),
            ("LLM.example:443", v4),
            ("with.port:444", remote),
            ("llm.example", None),
        ] {
            assert!(is_own_host(host, reached, false, &names), "{host} {reached:?}");
        }
        for (host, reached) in [
            ("evil.example:8787", v4),
            ("evil.example", v4),
            ("127.0.0.1", v4),
            ("127.0.0.1:8788", v4),
            ("localhost", v4),
            ("localhost.evil.example:8787", v4),
            ("127.0.0.1.evil.example:8787", v4),
            ("192.0.2.8:80", remote),
            ("localhost:80", remote),
            ("with.port:445", remote),
            ("with.port", remote),
            ("sub.llm.example", v4),
            ("", v4),
            (":8787", v4),
            ("a:b:8787", v4),
            ("[::1", v6),
            ("[::1]:8787]", v6),
            ("[::1].evil.example:8787", v6),
            ("[127.0.0.1]:8787", v4),
            ("192.0.2.7]", remote),
            ("user@localhost:8787", v4),
            ("127.0.0.1:+8787", v4),
            ("llm.example:8787]", v4),
            ("llm.example:x", remote),
            ("llm.example:x", None),
            ("[::1]:x", None),
            ("evil.example", None),
        ] {
            assert!(!is_own_host(host, reached, false, &names), "{host} {reached:?}");
        }
        assert!(is_own_host("anything", None, false, &[]));
        for (host, port, is_own) in [("192.0.2.7", 443, true), ("192.0.2.7", 80, false)] {
            let reached = Some(SocketAddr::from(([192, 0, 2, 7], port)));
            assert_eq!(is_own_host(host, reached, true, &names), is_own, "{host} {port}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_from_outside_panics(host in "\\PC{0,20}|[\\[\\]:0-9a-f.]{0,12}", list in "[a-z=,:/\\[\\]0-9. é]{0,40}") {
            let reached = Some("[::1]:8787".parse().unwrap());
            let _ = (is_own_host(&host, reached, true, &[]), of(&list, "a"), databases(&list).count());
        }
    }
}
