//! The files of the console, which are in the library. A browser keeps them, and asks each time whether they are still
//! those.

use crate::front::reply::{self, Body};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt::Write;
use std::sync::LazyLock;

/// A file, with its type.
struct File {
    name: &'static str,
    bytes: &'static [u8],
}

macro_rules! files {
    ($($name:literal)*) => {
        &[$(File { name: $name, bytes: include_bytes!(concat!("../../../console/", $name)) }),*]
    };
}

/// All that is in `console/`. The page itself is the first.
const FILES: &[File] = files![
    "index.html" "api.js" "app.css" "app.js" "chart.js" "dom.js" "format.js" "icon.svg" "jobs.js" "keydialog.js"
    "keys.js" "limits.js" "models.js" "picker.js" "playground.js" "providers.js" "requests.js" "signin.js"
    "snippets.js" "ui.js" "usage.js" "welcome.js"
];

/// What each is known by, in the order of the table.
static TAGS: LazyLock<Vec<String>> =
    LazyLock::new(|| FILES.iter().map(|file| tag(file.bytes)).collect());

fn tag(bytes: &[u8]) -> String {
    let mut tag = String::from("\"");
    for byte in &Sha256::digest(bytes)[..16] {
        // Writing to a String does not fail.
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    tag
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, ending)| ending) {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        "json" => "application/json",
        _ => "text/plain; charset=utf-8",
    }
}

/// From `/console` to where names without a folder are those of the console.
pub fn redirect() -> Response<Body> {
    let mut response = reply::empty(StatusCode::PERMANENT_REDIRECT);
    // As seen from the path itself, so that a proxy may have it elsewhere.
    set(&mut response, LOCATION, "console/");
    set(&mut response, CACHE_CONTROL, "no-cache");
    response
}

/// Where the page says who may sign somebody in by posting to it.
const ORIGINS: &str = r#"<meta name="origins" content="">"#;

/// The file of this name; without one, the page. `None`: there is no such file.
pub fn answer(name: &str, headers: &HeaderMap, origins: &[String]) -> Option<Response<Body>> {
    let place = match name {
        "" => 0,
        name => FILES.iter().position(|file| file.name == name)?,
    };
    let (file, tag) = (FILES.get(place)?, TAGS.get(place)?);
    let (bytes, tag) = match place == 0 && !origins.is_empty() {
        true => {
            let page = with_origins(file.bytes, origins);
            let tag = self::tag(page.as_bytes());
            (Bytes::from(page), Cow::Owned(tag))
        }
        false => (Bytes::from_static(file.bytes), Cow::Borrowed(tag)),
    };
    let tag: &str = &tag;
    let mut response = match is_known(headers, tag) {
        true => reply::empty(StatusCode::NOT_MODIFIED),
        false => {
            let mut response = Response::new(Body::Whole(bytes));
            set(&mut response, CONTENT_TYPE, content_type(file.name));
            response
        }
    };
    set(&mut response, ETAG, tag);
    set(&mut response, CACHE_CONTROL, "no-cache");
    Some(response)
}

fn with_origins(page: &[u8], origins: &[String]) -> String {
    // What an origin is made of means nothing in HTML.
    let listed = ORIGINS.replace("\"\"", &format!("\"{}\"", origins.join(" ")));
    String::from_utf8_lossy(page).replace(ORIGINS, &listed)
}

/// Whether whoever asks has it already. A proxy that compresses marks what it passes on as weak.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    known
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn the_table_has_every_file_of_the_folder() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("console");
        let there: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        let ours: BTreeSet<String> = FILES.iter().map(|file| file.name.to_owned()).collect();
        assert_eq!(ours, there);
        assert_eq!((FILES[0].name, FILES.len()), ("index.html", ours.len()));
        for file in FILES {
            // What the path of a file may be made of.
            let is_name = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'-' | b'.');
            assert!(file.name.bytes().all(is_name), "{}", file.name);
            assert!(!content_type(file.name).starts_with("text/plain"), "{}", file.name);
        }
    }

    #[test]
    fn the_page_says_whose_pages_may_sign_in() {
        let page = |origins: &[String]| {
            let response = answer("", &HeaderMap::new(), origins).unwrap();
            let tag = response.headers()[ETAG].to_str().unwrap().to_owned();
            let Body::Whole(bytes) = response.into_body() else { panic!("no page") };
            (String::from_utf8(bytes.to_vec()).unwrap(), tag)
        };
        let origins = ["https://a.example".to_owned(), "http://localhost:3000".to_owned()];
        let ((without, of_nobody), (with, of_two)) = (page(&[]), page(&origins));
        assert!(without.contains(ORIGINS));
        assert!(with.contains(r#"content="https://a.example http://localhost:3000""#), "{with}");
        assert_ne!(of_nobody, of_two);
    }

    #[test]
    fn what_is_known_is_not_sent_again() {
        let tag = TAGS[0].clone();
        let status = |known: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in known {
                headers.append(IF_NONE_MATCH, HeaderValue::from_str(value).unwrap());
            }
            answer("", &headers, &[]).unwrap().status().as_u16()
        };
        let weak = format!("W/{tag}");
        let listed = format!("\"x\", {weak}, \"y\"");
        for known in [&[tag.as_str()][..], &[&weak], &[&listed], &["*"], &["\"x\"", &tag]] {
            assert_eq!(status(known), 304, "{known:?}");
        }
        let bare = tag.trim_matches('"');
        for known in [&[][..], &[""], &["\"x\""], &[bare], &[&TAGS[1]]] {
            assert_eq!(status(known), 200, "{known:?}");
        }
        assert!(answer("nothing.js", &HeaderMap::new(), &[]).is_none());
    }
}
