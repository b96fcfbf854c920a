//! When to try again, where, and after how long.

use crate::core::refusal::{About, Refusal, is_out_of_credit};
use std::time::Duration;

const FIRST_PAUSE_MS: u64 = 500;
const LONGEST_PAUSE_MS: u64 = 30_000;

/// Whether an upstream's refusal may pass if the same request is sent again.
///
/// 408, 429 and 5xx may; 400, 401, 402, 403 and 404 never do, nor a 429 that means "no credit
/// left" (OpenAI's `insufficient_quota`, Anthropic's `enforced_spend_limit_reached`), nor 501.
pub fn is_retryable(status: u16, code: Option<&str>) -> bool {
    match status {
        429 => !is_out_of_credit(code),
        408 => true,
        501 => false,
        500..=599 => true,
        _ => false,
    }
}

/// What may follow a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Nothing: it would fail the same way, or the caller has part of an answer.
    Never,
    /// Another candidate, but not this one.
    Elsewhere,
    /// A candidate whose model takes a longer context.
    Longer,
    /// Any candidate, this one too, after what the upstream asked for.
    Anywhere(Option<Duration>),
}

/// What had left this machine when a call failed: what it may cost to send it again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sent {
    Nothing,
    /// Attempts that were refused, and cost nothing.
    Unpaid,
    /// An attempt that may have been paid for.
    #[default]
    PerhapsPaid,
}

/// What may follow an upstream's refusal.
pub fn after(refusal: &Refusal) -> Again {
    let may_pass = is_retryable(refusal.status, refusal.code.as_deref());
    match (refusal.about, refusal.status) {
        (About::TooLong, _) => Again::Longer,
        (About::Credit, 429) => Again::Elsewhere,
        _ if may_pass => Again::Anywhere(refusal.retry_after_s.map(Duration::from_secs)),
        // 413: larger than this account may send in a minute (Groq), so it is of no use to wait.
        (_, 413 | 429 | 501) => Again::Elsewhere,
        _ => Again::Never,
    }
}

/// How long to wait before the attempt after number `attempt` (the first is 1): what the
/// upstream asked for, else exponential with full jitter. `random` is in 0..1.
pub fn pause(attempt: u16, retry_after: Option<Duration>, random: f64) -> Duration {
    if let Some(asked) = retry_after {
        return asked;
    }
    let doublings = u32::from(attempt.saturating_sub(1)).min(16);
    let ceiling = FIRST_PAUSE_MS.saturating_mul(1 << doublings).min(LONGEST_PAUSE_MS);
    // Half fixed, half random: spread out, and never at once.
    Duration::from_millis(ceiling / 2 + (ceiling as f64 / 2.0 * random) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_sent_again() {
        for status in [408, 429, 500, 502, 503, 504, 524, 529] {
            assert!(is_retryable(status, None), "{status}");
        }
        for status in [200, 400, 401, 402, 403, 404, 413, 422, 501] {
            assert!(!is_retryable(status, None), "{status}");
        }
        assert!(!is_retryable(429, Some("insufficient_quota")));
        assert!(is_retryable(429, Some("rate_limit_exceeded")));
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_obey_the_upstream() {
        assert_eq!(pause(1, None, 0.0), Duration::from_millis(250));
        assert_eq!(pause(1, None, 1.0), Duration::from_millis(500));
        assert_eq!(pause(3, None, 1.0), Duration::from_millis(2000));
        assert_eq!(pause(u16::MAX, None, 1.0), Duration::from_millis(LONGEST_PAUSE_MS));
        assert_eq!(pause(1, Some(Duration::from_secs(7)), 0.5), Duration::from_secs(7));
    }

    #[test]
    fn what_may_follow_a_refusal() {
        let refusal = |status, code: Option<&str>, message: &str| Refusal {
            retry_after_s: Some(3),
            ..Refusal::new(status, code.map(str::to_owned), Some(message.to_owned()))
        };
        let soon = Again::Anywhere(Some(Duration::from_secs(3)));
        for status in [408, 429, 500, 503, 529] {
            assert_eq!(after(&refusal(status, None, "")), soon, "{status}");
        }
        for status in [400, 401, 402, 403, 404, 422] {
            assert_eq!(after(&refusal(status, None, "no")), Again::Never, "{status}");
        }
        assert_eq!(after(&refusal(429, Some("insufficient_quota"), "")), Again::Elsewhere);
        assert_eq!(after(&refusal(400, Some("context_length_exceeded"), "")), Again::Longer);
        let words = "prompt is too long: 210000 tokens > 200000 maximum";
        assert_eq!(after(&refusal(400, Some("invalid_request_error"), words)), Again::Longer);
        assert_eq!(after(&refusal(500, None, words)), soon);
    }
}
