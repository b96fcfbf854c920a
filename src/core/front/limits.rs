//! How the limits of a caller stand, in the headers that each dialect has for it.

use crate::core::calendar::rfc3339;
use crate::core::rate::{Standing, Standings};
use std::time::Duration;

/// A name and a value.
pub type Header = (&'static str, String);

/// OpenAI's headers.
pub fn openai(standings: &Standings) -> Vec<Header> {
    let names = [
        [
            "x-ratelimit-limit-requests",
            "x-ratelimit-remaining-requests",
            "x-ratelimit-reset-requests",
        ],
        ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
    ];
    headers(standings, names, |standing| duration(standing.full_in))
}

/// Anthropic's headers. `now`: microseconds since 1970.
pub fn anthropic(standings: &Standings, now: i64) -> Vec<Header> {
    let names = [
        [
            "anthropic-ratelimit-requests-limit",
            "anthropic-ratelimit-requests-remaining",
            "anthropic-ratelimit-requests-reset",
        ],
        [
            "anthropic-ratelimit-tokens-limit",
            "anthropic-ratelimit-tokens-remaining",
            "anthropic-ratelimit-tokens-reset",
        ],
    ];
    headers(standings, names, |standing| {
        // Up to the whole second at which it is full.
        let in_micros = standing.full_in.as_micros().div_ceil(1_000_000) as i64 * 1_000_000;
        rfc3339(now.saturating_add(in_micros))
    })
}

fn headers(
    standings: &Standings,
    names: [[&'static str; 3]; 2],
    reset: impl Fn(&Standing) -> String,
) -> Vec<Header> {
    let mut headers = Vec::new();
    for ([limit, remaining, resets], standing) in
        names.into_iter().zip([&standings.requests, &standings.tokens])
    {
        let Some(standing) = standing else { continue };
        headers.push((limit, standing.limit.to_string()));
        headers.push((remaining, standing.left.to_string()));
        headers.push((resets, reset(standing)));
    }
    headers
}

/// As OpenAI writes it: "0s", "120ms", "6.5s", "2m0s".
fn duration(duration: Duration) -> String {
    let ms = duration.as_micros().div_ceil(1000);
    let seconds = |ms: u128| match (ms / 1000, ms % 1000) {
        (whole, 0) => whole.to_string(),
        (whole, part) => format!("{whole}.{part:03}").trim_end_matches('0').to_owned(),
    };
    match (ms / 60_000, ms % 60_000) {
        (0, ms @ 1..1000) => format!("{ms}ms"),
        (0, ms) => format!("{}s", seconds(ms)),
        (minutes, ms) => format!("{minutes}m{}s", seconds(ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_openai_does() {
        for (ms, text) in [
            (0, "0s"),
            (1, "1ms"),
            (999, "999ms"),
            (1000, "1s"),
            (6500, "6.5s"),
            (59_999, "59.999s"),
            (60_000, "1m0s"),
            (125_040, "2m5.04s"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
        assert_eq!(duration(Duration::from_micros(1)), "1ms");
    }

    #[test]
    fn each_dialect_has_its_names_and_says_nothing_of_what_is_not_limited() {
        let full_in = Duration::from_micros(1_500_000);
        let requests = Some(Standing { limit: 60, left: 58, full_in });
        let only = Standings { requests, tokens: None };
        let text = |headers: Vec<Header>| {
            headers.into_iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
        };
        assert_eq!(
            text(openai(&only)),
            [
                "x-ratelimit-limit-requests: 60",
                "x-ratelimit-remaining-requests: 58",
                "x-ratelimit-reset-requests: 1.5s",
            ]
        );
        let both = Standings { tokens: requests, ..only };
        assert_eq!(
            text(anthropic(&both, 0)),
            [
                "anthropic-ratelimit-requests-limit: 60",
                "anthropic-ratelimit-requests-remaining: 58",
                "anthropic-ratelimit-requests-reset: 1970-01-01T00:00:02Z",
                "anthropic-ratelimit-tokens-limit: 60",
                "anthropic-ratelimit-tokens-remaining: 58",
                "anthropic-ratelimit-tokens-reset: 1970-01-01T00:00:02Z",
            ]
        );
        assert_eq!(openai(&both).len(), 6);
        assert!(openai(&Standings::default()).is_empty());
    }
}
