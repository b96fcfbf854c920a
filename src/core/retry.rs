//! When to try again, and after how long.

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

/// Codes that say the account is out of money, whatever the status.
pub fn is_out_of_credit(code: Option<&str>) -> bool {
    matches!(code, Some("insufficient_quota" | "enforced_spend_limit_reached"))
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
}
