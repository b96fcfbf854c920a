//! Origins whose pages may open the console, or have it in a frame, and sign somebody in there.

/// Of each, in bytes.
const LONGEST: usize = 255;
const MOST: usize = 16;

/// The origins of a list, as browsers write them, and what is wrong with the rest of it, which is passed over.
pub fn read(list: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut origins, mut problems) = (Vec::new(), Vec::new());
    for listed in list {
        let origin = listed.strip_suffix('/').unwrap_or(listed).to_ascii_lowercase();
        let origin = without_default_port(&origin).to_owned();
        match problem(&origin) {
            _ if origins.contains(&origin) => {}
            None if origins.len() < MOST => origins.push(origin),
            None => problems.push(format!("it has more than {MOST} origins")),
            Some(problem) => problems.push(format!("'{listed}' {problem}")),
        }
    }
    problems.dedup();
    (origins, problems)
}

/// Browsers leave the port out that goes without saying.
fn without_default_port(origin: &str) -> &str {
    let port = if origin.starts_with("https:") { ":443" } else { ":80" };
    origin.strip_suffix(port).unwrap_or(origin)
}

/// Each is written into a header and into a page: it has nothing that means something there.
fn problem(origin: &str) -> Option<&'static str> {
    let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let Some(rest) = rest.filter(|_| origin.len() <= LONGEST) else {
        return Some("is no origin: https://, a host and perhaps a port");
    };
    // In brackets: an address of IPv6.
    let (host, port, is_host): (_, _, fn(u8) -> bool) = match rest.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) => (host, port, |byte| byte.is_ascii_hexdigit() || byte == b':'),
            None => return Some("has a bracket that does not end"),
        },
        None => {
            let end = rest.find(':').unwrap_or(rest.len());
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
            (&rest[..end], &rest[end..], is_name)
        }
    };
    let is_port = port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| {
            (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit())
        });
    let is_one = !host.is_empty() && host.bytes().all(is_host) && is_port;
    (!is_one).then_some("is no origin: it has more than a scheme, a host and a port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_origin_is_passed_over_and_said() {
        let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let good = list(&[
            "https://app.example.org",
            "http://localhost:3000",
            "http://[::1]:8080",
            "https://192.0.2.1",
        ]);
        assert_eq!(read(&good), (good.clone(), vec![]));
        // As people write them.
        let (origins, problems) = read(&list(&["HTTPS://App.Example/", "https://app.example"]));
        assert_eq!((origins, problems.len()), (list(&["https://app.example"]), 0));
        let (origins, _) =
            read(&list(&["https://a:443", "http://b:80/", "http://[::80]", "https://c:80"]));
        assert_eq!(origins, list(&["https://a", "http://b", "http://[::80]", "https://c:80"]));
        for bad in [
            "",
            "*",
            "null",
            "app.example.org",
            "//app.example.org",
            "ftp://a",
            "https://",
            "https://a/b",
            "https://a//",
            "https://*.example.org",
            "https://a;script-src *",
            "https://a b",
            "https://a\nb",
            "https://a\"><script>",
            "https://u@a",
            "https://a?b",
            "https://a#b",
            "https://a:",
            "https://a:1:2",
            "https://a:123456",
            "https://a:x",
            "https://[::1",
            "https://[a.b]",
            "https://[]",
            "https://é.example",
            "https://'self'",
        ] {
            let (origins, problems) = read(&list(&[bad]));
            assert_eq!((origins.len(), problems.len()), (0, 1), "{bad}");
        }
        assert_eq!(read(&list(&[&format!("https://{}", "a".repeat(255))])).0.len(), 0);
        let many: Vec<String> = (0..20).map(|n| format!("https://a{n}.example")).collect();
        let (origins, problems) = read(&many);
        assert_eq!((origins.len(), problems.len()), (MOST, 1));
    }
}
