//! Heads of requests: paths, credentials, hosts, and what steers a call.

use super::{any, try_all};
use crate::core::front::path::{self, Route};
use crate::core::front::{cors, credential, gateway_key, openai, place, proxies};
use crate::core::options::Prepared;
use crate::core::{model, tags};
use std::net::{IpAddr, SocketAddr};

#[test]
fn a_path_leads_to_one_endpoint_however_it_is_written() {
    let parts = [
        "/",
        "/",
        "v1",
        "v1",
        "models",
        "jobs",
        "chat",
        "completions",
        "messages",
        "count_tokens",
        "responses",
        "embeddings",
        "health",
        "%2F",
        "%2f",
        "%",
        "%zz",
        "%00",
        "%e6%bc%a2",
        "%ff",
        "..",
        "openai",
        "gpt-4o",
        ":",
        "0190a6f4-5c2e-7bbb-8ccc-0123456789ab",
        "?",
        "beta=true",
        "#",
        "é",
        " ",
        "\u{0}",
        "metrics",
        "ready",
    ];
    try_all("paths", 50, |rng, path| {
        let method = any(rng, &["GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "get", ""]);
        for _ in 0..rng.usize(0..9) {
            path.push_str(any(rng, &parts));
            if rng.bool() {
                path.push('/');
            }
        }
        let found = path::route(method, path);
        if let Ok(Route::Model(name)) = &found {
            assert!(model::problem(name).is_none(), "{name}");
        }
        if method == "OPTIONS" {
            assert_eq!(found, Ok(Route::Preflight));
        } else if found.is_ok() && !path.trim_start_matches('/').starts_with("v1/") {
            for before in ["v1/", "/v1/", "//v1//v1/"] {
                assert_eq!(path::route(method, &format!("{before}{path}")), found);
            }
        }
        found.is_ok()
    });
}

#[test]
fn no_gateway_key_passes_that_was_not_made() {
    try_all("gateway keys", 10, |rng, key| {
        let mut random = [0; gateway_key::RANDOM_BYTES];
        rng.fill(&mut random);
        let made = gateway_key::make(&random);
        let mut bytes = made.text.as_bytes().to_vec();
        for _ in 0..rng.usize(0..4) {
            let at = rng.usize(0..bytes.len());
            match rng.u8(0..6) {
                0 => bytes[at] = rng.u8(..),
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, *b"0Az_".get(rng.usize(0..4)).unwrap()),
                3 => bytes.truncate(at.max(1)),
                4 => {
                    let other = rng.usize(0..bytes.len());
                    bytes.swap(at, other);
                }
                _ => bytes[at] = bytes[at].to_ascii_uppercase(),
            }
            if bytes.is_empty() {
                bytes.push(b'a');
            }
        }
        key.push_str(&String::from_utf8_lossy(&bytes));
        let is_made = bytes == made.text.as_bytes();
        let read = gateway_key::read(&bytes);
        assert_eq!(read.is_some(), is_made, "a checksum of 32 bits, and 10 million tries");
        let header = [b"Bearer ".as_slice(), &bytes].concat();
        let found = credential::find([("authorization", header.as_slice())]);
        // Spaces around it are none of it.
        let is_shown = bytes.trim_ascii() == made.text.as_bytes();
        assert_eq!(
            found.is_ok_and(|found| matches!(found, credential::Credential::Key(_))),
            is_shown
        );
        is_made
    });
}

#[test]
fn tags_of_a_header_are_those_that_it_names_or_it_is_refused() {
    const PARTS: &[&str] = &[
        "a",
        "b",
        "team",
        "é",
        "漢",
        ",",
        ",",
        ", ",
        " ",
        "\t",
        "\u{0}",
        "\u{200b}",
        "\u{7f}",
        "\"",
        "\\",
        "{",
        "}",
        "NULL",
        "=",
        "0123456789abcdef",
        "0123456789abcdef",
        "0123456789abcdef",
    ];
    try_all("headers of tags", 10, |rng, header| {
        for _ in 0..rng.usize(0..16) {
            header.push_str(any(rng, PARTS));
        }
        let mut expected: Vec<&str> = Vec::new();
        for tag in header.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
            if !expected.contains(&tag) {
                expected.push(tag);
            }
        }
        let is_short =
            expected.len() <= tags::MOST && expected.iter().all(|tag| tag.len() <= tags::LONGEST);
        let shows = !expected.iter().any(|tag| tag.contains(['\t', '\u{0}', '\u{200b}', '\u{7f}']));
        let read = tags::of_header(header);
        assert_eq!(read.is_some(), is_short && shows, "{read:?}");
        let Some(read) = read else { return false };
        assert_eq!(read, expected);
        // With those of the body they are no more, and each once.
        let body =
            r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"tags":["a","team a"]}"#;
        let mut prepared = Prepared::from_http(body).expect("a body");
        let joined = openai::add_tags(&mut prepared, [header.as_bytes()].into_iter());
        let all = prepared.tags.iter().enumerate();
        assert!(
            all.clone().all(|(i, tag)| !prepared.tags[..i].contains(tag)),
            "{:?}",
            prepared.tags
        );
        match joined {
            Ok(()) => assert!(read.iter().all(|tag| prepared.tags.contains(tag))),
            Err(_) => assert_eq!(prepared.tags, ["a", "team a"]),
        }
        assert!(prepared.tags.len() <= tags::MOST);
        // As PostgreSQL has them, an array of as many.
        let labels = tags::Labels::of(None, &read);
        let array = labels.and_then(|labels| labels.array());
        assert_eq!(array.is_some(), !read.is_empty());
        assert_eq!(array.map_or(0, |array| unquoted(&array).len()), read.len());
        !read.is_empty()
    });
}

/// The elements of an array whose elements all stand in quotes.
fn unquoted(array: &str) -> Vec<String> {
    let mut chars =
        array.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).expect("an array").chars();
    let mut elements = Vec::new();
    while let Some(c) = chars.next() {
        match c {
            ',' => continue,
            '"' => elements.push(String::new()),
            other => panic!("{other} in {array}"),
        }
        let element = elements.last_mut().expect("one was begun");
        loop {
            match chars.next().expect("it ends") {
                '"' => break,
                '\\' => element.extend(chars.next()),
                other => element.push(other),
            }
        }
    }
    elements
}

#[test]
fn a_host_is_ours_only_by_a_name_or_an_address_of_ours() {
    const PARTS: &[&str] = &[
        "127.0.0.1",
        "127.0.0.2",
        "localhost",
        "LOCALHOST",
        "[::1]",
        "::1",
        "llm.example",
        "evil.example",
        "192.0.2.7",
        "0.0.0.0",
        ":",
        ":8787",
        ":80",
        ":443",
        ":",
        ".",
        "[",
        "]",
        "@",
        "/",
        "%31",
        " ",
        "é",
        "0x7f000001",
        "2130706433",
    ];
    let names = ["llm.example".to_owned()];
    try_all("hosts", 100, |rng, host| {
        for _ in 0..rng.usize(0..4) {
            host.push_str(any(rng, PARTS));
        }
        let reached = any(rng, &["127.0.0.1:8787", "[::1]:8787", "192.0.2.7:80"]);
        let reached: SocketAddr = reached.parse().expect("an address");
        let is_own = place::is_own_host(host, Some(reached), false, &names);
        let lower = host.to_ascii_lowercase();
        let (bare, port) = match lower.rsplit_once(':') {
            Some((bare, port)) if !port.contains(']') => (bare, port),
            _ => (lower.as_str(), "80"),
        };
        let is_named = bare == "llm.example" || lower == "llm.example";
        let loopback = ["localhost", "127.0.0.1", "127.0.0.2", "[::1]"];
        let is_here = match reached.ip().is_loopback() {
            true => loopback.contains(&bare),
            false => bare == "192.0.2.7",
        };
        let fits = port.parse() == Ok(reached.port());
        assert!(!is_own || is_named || is_here && fits, "{host} at {reached}");
        is_own
    });
}

#[test]
fn headers_of_the_callers_choice_say_nothing_that_is_not_in_them() {
    const NAMES: &[&str] =
        &["authorization", "Authorization", "x-api-key", "api-key", "apikey", "cookie"];
    const VALUES: &[&str] = &[
        "Bearer ",
        "bearer\t",
        "Basic ",
        "eyJhbGciOiJIUzI1NiJ9.",
        "e30.",
        "AAAA",
        "agk_",
        "sk-",
        "sb_secret_",
        "",
        " ",
        "\u{0}",
        "é",
        "x",
    ];
    try_all("credentials", 50, |rng, input| {
        let mut headers: Vec<(&str, String)> = Vec::new();
        for _ in 0..rng.usize(0..4) {
            let name = any(rng, NAMES);
            let mut value = String::new();
            for _ in 0..rng.usize(0..5) {
                value.push_str(any(rng, VALUES));
            }
            if rng.u8(0..50) == 0 {
                value = value.repeat(2000);
            }
            input.push_str(&format!("{name}: {value}\n"));
            headers.push((name, value));
        }
        let found = credential::find(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
        let Ok(found) = found else { return false };
        // No checksum is right by chance.
        let credential::Credential::Token(token) = found else { panic!("a key") };
        assert!(headers.iter().any(|(name, value)| value.contains(token) && *name != "cookie"));
        assert!(
            token.bytes().all(|byte| byte.is_ascii_graphic()) && token.len() <= credential::LONGEST
        );
        // Whoever shows two shows neither.
        let others = headers.iter().filter(|(name, _)| !matches!(*name, "cookie" | "apikey"));
        let others: Vec<&str> =
            others.map(|(_, value)| value.trim()).filter(|value| !value.is_empty()).collect();
        assert!(
            others
                .iter()
                .all(|value| value.ends_with(token) || value.eq_ignore_ascii_case("bearer")),
            "{others:?}"
        );
        true
    });
}

#[test]
fn what_a_client_says_of_its_patience_only_lowers_it() {
    const PARTS: &[&str] = &[
        "0", "1", "9", "60", "600", ".", "-", "+", "e", "E9", "e400", "inf", "NaN", " ", "_", "x",
        "\u{0}", "٣", "0x1",
    ];
    try_all("patience", 50, |rng, seconds| {
        if rng.bool() {
            seconds.push_str(any(rng, &["1", "2", "4.5", ".25"]));
        }
        for _ in 0..rng.usize(0..4) {
            seconds.push_str(any(rng, PARTS));
        }
        let stream = rng.bool();
        let said = r#""messages":[{"role":"user","content":"hi"}]"#;
        let body = format!(r#"{{"model":"m",{said},"stream":{stream},"timeout_ms":5000}}"#);
        let mut prepared = Prepared::from_http(&body).expect("a body");
        openai::lower_timeout(&mut prepared, seconds);
        assert!(
            (1..=5000).contains(&prepared.timeout_ms) && (!stream || prepared.timeout_ms == 5000)
        );
        prepared.timeout_ms < 5000
    });
}

#[test]
fn a_preflight_is_answered_with_names_and_nothing_else() {
    const PARTS: &[&str] = &[
        "x-stainless-os",
        "authorization",
        "a",
        ",",
        ",",
        " ",
        "\r\n",
        "\n",
        ":",
        "\u{0}",
        "é",
        "\"",
        "set-cookie: x",
        "!#$%&'*+-.^_`|~",
    ];
    try_all("asked names", 4, |rng, asked| {
        for _ in 0..rng.usize(0..200) {
            asked.push_str(any(rng, PARTS));
        }
        let names = cors::names(asked);
        assert!(
            names.len() <= 2048 && !names.contains(['\r', '\n', ':', '\u{0}', '"']),
            "{names:?}"
        );
        assert!(
            names.is_empty()
                || names.split(", ").all(|name| !name.is_empty() && asked.contains(name))
        );
        !names.is_empty()
    });
}

#[test]
fn nothing_that_a_stranger_forwards_makes_them_somebody_else() {
    const PARTS: &[&str] = &[
        "1.1.1.1",
        "10.0.0.1",
        "127.0.0.1",
        "::1",
        "[fd00::1]",
        "fd00::1",
        ",",
        ",",
        " ",
        ":",
        ":80",
        "unknown",
        "_x",
        "[",
        "]",
        "\t",
        "é",
        "for=",
        "\"",
    ];
    let list = proxies::Proxies::read("127.0.0.1, 10.0.0.0/8, fd00::/8").expect("a list");
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    try_all("forwarded addresses", 2, |rng, input| {
        let mut headers: Vec<Vec<u8>> = Vec::new();
        // What the stranger wrote.
        for _ in 0..rng.usize(0..3) {
            let mut value = String::new();
            for _ in 0..rng.usize(0..6) {
                value.push_str(any(rng, PARTS));
            }
            let mut value = value.into_bytes();
            if rng.u8(0..10) == 0 {
                value.push(rng.u8(..));
            }
            headers.push(value);
        }
        let own = any(rng, &["203.0.113.9", "2001:db8::7"]);
        // What our proxies saw, each behind what was there, or in a header of its own.
        let mut seen = vec![own];
        for _ in 0..rng.usize(0..3) {
            seen.push(any(rng, &["10.1.2.3", "fd00::5", "127.0.0.1"]));
        }
        for hop in seen {
            let hop = match (hop.contains(':'), rng.u8(0..4)) {
                (true, 0) => format!("[{hop}]"),
                (true, 1) => format!("[{hop}]:443"),
                (false, 1) => format!("{hop}:443"),
                (false, 2) => format!("::ffff:{hop}"),
                _ => hop.to_owned(),
            };
            match headers.last_mut() {
                Some(last) if rng.bool() => last.extend(format!(", {hop}").bytes()),
                _ => headers.push(hop.into_bytes()),
            }
        }
        input.push_str(&format!(
            "{:?}",
            headers.iter().map(|value| String::from_utf8_lossy(value)).collect::<Vec<_>>()
        ));
        let forwarded = || headers.iter().map(Vec::as_slice);
        for peer in [None, Some(address("127.0.0.1")), Some(address("::ffff:10.9.9.9"))] {
            assert_eq!(list.client(peer, forwarded()), Some(address(own)), "{peer:?}");
        }
        let stranger = Some(address("192.0.2.1"));
        assert_eq!(list.client(stranger, forwarded()), stranger);
        true
    });
}
