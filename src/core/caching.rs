//! What a call asks of the response cache, as an option of its request and as an HTTP header.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The longest that an answer is kept, in seconds: 30 days.
pub const LONGEST_TTL_S: u32 = 30 * 24 * 60 * 60;

/// What `options.cache` must be.
pub const EXPECTED: &str =
    "false, or an object of ttl (seconds from 1 to 2592000), no_store and refresh";

/// What a call asks of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caching {
    /// Seconds for which an answer is good. `None`: as `aggregator.cache_ttl` says.
    #[serde(default)]
    pub ttl: Option<u32>,
    /// A kept answer will do, but this one is not kept.
    #[serde(default)]
    pub no_store: bool,
    /// No kept answer will do; this one takes its place.
    #[serde(default)]
    pub refresh: bool,
}

/// The option as it is written: `false`, or what is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Wanted {
    /// Only `false`.
    Off(bool),
    On(Caching),
}

impl Wanted {
    /// Reads `options.cache`. `None`: it is no such thing.
    pub fn read(option: &RawValue) -> Option<Self> {
        if option.get() == "false" {
            return Some(Self::Off(false));
        }
        // A list would be taken for an object without names.
        let caching = Some(option.get()).filter(|text| text.starts_with('{'))?;
        Self::checked(serde_json::from_str(caching).ok()?)
    }

    /// Reads the header `x-aggregator-cache`: `off`, or words with commas between them, as in
    /// `ttl=60, no-store`.
    pub fn of_header(header: &str) -> Option<Self> {
        let words: Vec<&str> = header.split(',').map(str::trim).collect();
        if words == ["off"] {
            return Some(Self::Off(false));
        }
        let mut caching = Caching::default();
        for word in words {
            match word.split_once('=') {
                Some(("ttl", seconds)) if caching.ttl.is_none() => {
                    // What `parse` takes beside digits is a sign.
                    let is_number = seconds.bytes().all(|byte| byte.is_ascii_digit());
                    caching.ttl = Some(seconds.parse().ok().filter(|_| is_number)?);
                }
                None if word == "no-store" && !caching.no_store => caching.no_store = true,
                None if word == "refresh" && !caching.refresh => caching.refresh = true,
                _ => return None,
            }
        }
        Self::checked(caching)
    }

    fn checked(caching: Caching) -> Option<Self> {
        let fits = caching.ttl.is_none_or(|ttl| (1..=LONGEST_TTL_S).contains(&ttl));
        fits.then_some(Self::On(caching))
    }
}

/// What a call asks of the cache in all. Who names a time means it; without one the server's holds, for requests
/// alone that ask for the same answer each time (`is_deterministic`).
pub fn of(wanted: Option<Wanted>, is_deterministic: bool) -> Option<Caching> {
    let caching = match wanted {
        Some(Wanted::Off(_)) => return None,
        Some(Wanted::On(caching)) => caching,
        None => Caching::default(),
    };
    (caching.ttl.is_some() || is_deterministic).then_some(caching)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Wanted> {
        Wanted::read(&RawValue::from_string(text.to_owned()).unwrap())
    }

    #[test]
    fn an_option_is_false_or_an_object() {
        let on = |ttl, no_store, refresh| Some(Wanted::On(Caching { ttl, no_store, refresh }));
        assert_eq!(read("false"), Some(Wanted::Off(false)));
        assert_eq!(read(r#"{"ttl": 60}"#), on(Some(60), false, false));
        assert_eq!(read(r#"{"no_store":true,"refresh":true}"#), on(None, true, true));
        assert_eq!(read("{}"), on(None, false, false));
        for wrong in [
            "true",
            "60",
            "[60,true,true]",
            "\"on\"",
            r#"{"ttl":0}"#,
            r#"{"ttl":2592001}"#,
            r#"{"ttl":-1}"#,
            r#"{"ttl":1.5}"#,
            r#"{"ttl":"60"}"#,
            r#"{"ttl":60,"ttl":61}"#,
            r#"{"tll":60}"#,
            r#"{"no_store":1}"#,
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_header_says_the_same() {
        for (header, option) in [
            ("off", "false"),
            ("ttl=60", r#"{"ttl":60}"#),
            (" ttl=60 ,refresh, no-store", r#"{"ttl":60,"refresh":true,"no_store":true}"#),
            ("refresh", r#"{"refresh":true}"#),
        ] {
            assert_eq!(Wanted::of_header(header), read(option), "{header}");
        }
        for wrong in [
            "",
            "on",
            "ttl",
            "ttl=",
            "ttl=+6",
            "ttl=0",
            "ttl=6,ttl=6",
            "off, ttl=6",
            "refresh,",
            "ttl=99999999999",
        ] {
            assert_eq!(Wanted::of_header(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for text in ["false", r#"{"ttl":60}"#, r#"{"refresh":true}"#] {
            let wanted = read(text);
            assert_eq!(read(&serde_json::to_string(&wanted.unwrap()).unwrap()), wanted);
        }
    }

    #[test]
    fn without_a_time_only_what_is_asked_the_same_way_each_time_is_kept() {
        let refresh = Some(Wanted::On(Caching { refresh: true, ..Caching::default() }));
        let timed = Some(Wanted::On(Caching { ttl: Some(5), ..Caching::default() }));
        assert_eq!(of(None, false), None);
        assert_eq!(of(None, true), Some(Caching::default()));
        assert_eq!(of(refresh, false), None);
        assert!(of(refresh, true).is_some_and(|caching| caching.refresh));
        assert!(of(timed, false).is_some() && of(timed, true).is_some());
        assert_eq!(of(Some(Wanted::Off(false)), true), None);
    }
}
