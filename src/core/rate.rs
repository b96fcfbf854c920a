//! Rate limits by the generic cell rate algorithm: one number, the moment at which all that was
//! taken will have been paid back. A minute's quota may be taken at once.

use std::time::Duration;

/// Microseconds of a minute.
pub const MINUTE: i64 = 60_000_000;

/// How a quota per minute stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub limit: i64,
    pub left: i64,
    /// Until all of it is there again.
    pub full_in: Duration,
}

/// How the quotas of a caller stand: of each kind the one of which least is left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standings {
    pub requests: Option<Standing>,
    pub tokens: Option<Standing>,
}

impl Standings {
    /// Takes another quota into account.
    pub fn add(&mut self, other: Self) {
        let least = |one: Option<Standing>, other: Option<Standing>| {
            one.into_iter().chain(other).min_by_key(|standing| standing.left)
        };
        self.requests = least(self.requests, other.requests);
        self.tokens = least(self.tokens, other.tokens);
    }
}

/// What is taken of a quota per minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Microseconds since 1970.
    paid_back_at: i64,
}

impl Taken {
    /// Takes `amount` at `now`, or says how many microseconds too early that is. What is more than
    /// a whole minute's quota passes when nothing else is taken, or it never could.
    pub fn take(&mut self, amount: i64, per_minute: i64, now: i64) -> Result<(), i64> {
        let cost = time_of(amount, per_minute);
        let from = self.paid_back_at.max(now);
        let too_early = from.saturating_add(cost.min(MINUTE)).saturating_sub(now) - MINUTE;
        if too_early > 0 {
            return Err(too_early);
        }
        self.paid_back_at = from.saturating_add(cost);
        Ok(())
    }

    /// How much of the quota is left at `now`.
    pub fn left(&self, per_minute: i64, now: i64) -> i64 {
        let free = (MINUTE - self.paid_back_at.saturating_sub(now).max(0)).max(0);
        let left = i128::from(free) * i128::from(per_minute.max(0)) / i128::from(MINUTE);
        // No more than the quota, which is an i64.
        i64::try_from(left).unwrap_or(per_minute)
    }

    /// What is told of it to whoever is limited by it.
    pub fn standing(&self, per_minute: i64, now: i64) -> Standing {
        let full_in = self.paid_back_at.saturating_sub(now).max(0);
        Standing {
            limit: per_minute,
            left: self.left(per_minute, now),
            full_in: Duration::from_micros(full_in.unsigned_abs()),
        }
    }

    /// Takes what is known to have been used, whatever the limit says.
    pub fn note(&mut self, amount: i64, per_minute: i64, at: i64) {
        let from = self.paid_back_at.max(at);
        self.paid_back_at = from.saturating_add(time_of(amount, per_minute));
    }

    /// Puts an estimate right.
    pub fn correct(&mut self, by: i64, per_minute: i64) {
        self.paid_back_at = self.paid_back_at.saturating_add(time_of(by, per_minute));
    }

    /// Whether nothing is taken any more.
    pub fn is_free(&self, now: i64) -> bool {
        self.paid_back_at <= now
    }
}

/// The time in which an amount is paid back.
fn time_of(amount: i64, per_minute: i64) -> i64 {
    let time = i128::from(amount) * i128::from(MINUTE) / i128::from(per_minute.max(1));
    time.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn a_minutes_quota_at_once_then_evenly() {
        let mut taken = Taken::default();
        let now = 1000 * SECOND;
        for _ in 0..6 {
            taken.take(1, 6, now).unwrap();
        }
        assert_eq!(taken.take(1, 6, now), Err(10 * SECOND));
        assert_eq!(taken.take(1, 6, now + 9 * SECOND), Err(SECOND));
        taken.take(1, 6, now + 10 * SECOND).unwrap();
        assert_eq!(taken.take(1, 6, now + 10 * SECOND), Err(10 * SECOND));
        assert!(!taken.is_free(now + 60 * SECOND) && taken.is_free(now + 70 * SECOND));
    }

    #[test]
    fn more_than_a_minutes_quota_passes_alone() {
        let mut taken = Taken::default();
        taken.take(100, 10, 0).unwrap();
        assert_eq!(taken.take(1, 10, 0), Err(9 * MINUTE + 6 * SECOND));
        let mut taken = Taken::default();
        taken.take(1, 10, 0).unwrap();
        assert_eq!(taken.take(100, 10, 0), Err(6 * SECOND));
    }

    #[test]
    fn what_is_left_comes_back_evenly() {
        let mut taken = Taken::default();
        assert_eq!(taken.left(60, 7 * SECOND), 60);
        taken.take(50, 60, 7 * SECOND).unwrap();
        assert_eq!(taken.left(60, 7 * SECOND), 10);
        assert_eq!(taken.left(60, 27 * SECOND), 30);
        taken.note(1000, 60, 27 * SECOND);
        assert_eq!(taken.left(60, 27 * SECOND), 0);
        assert_eq!(Taken::default().left(i64::MAX, i64::MAX), i64::MAX);
    }

    #[test]
    fn of_several_quotas_the_one_is_told_of_which_least_is_left() {
        let mut taken = Taken::default();
        taken.take(50, 60, 7 * SECOND).unwrap();
        let standing = taken.standing(60, 17 * SECOND);
        assert_eq!((standing.limit, standing.left, standing.full_in.as_secs()), (60, 20, 40));
        assert_eq!(taken.standing(60, 107 * SECOND).full_in, Duration::ZERO);
        let other = Standing { left: 19, ..standing };
        let mut standings = Standings::default();
        for (requests, tokens) in
            [(None, None), (Some(standing), None), (Some(other), Some(standing))]
        {
            standings.add(Standings { requests, tokens });
        }
        standings.add(Standings { requests: Some(standing), tokens: None });
        assert_eq!(standings, Standings { requests: Some(other), tokens: Some(standing) });
    }

    #[test]
    fn estimates_are_put_right() {
        let mut taken = Taken::default();
        taken.take(50, 60, 0).unwrap();
        taken.correct(-40, 60);
        taken.take(50, 60, 0).unwrap();
        assert_eq!(taken.take(1, 60, 0), Err(SECOND));
    }

    proptest::proptest! {
        #[test]
        fn no_minute_has_more_than_two_quotas(
            steps in proptest::collection::vec(0i64..10 * SECOND, 1..200),
        ) {
            // The quota at once at the end of one minute, and as it comes back in the next.
            let (mut taken, mut now, mut passed) = (Taken::default(), 0, Vec::new());
            for step in steps {
                now += step;
                if taken.take(1, 5, now).is_ok() {
                    passed.push(now);
                }
            }
            for at in &passed {
                let in_minute = passed.iter().filter(|t| (*at..*at + MINUTE).contains(*t)).count();
                proptest::prop_assert!(in_minute <= 10, "{in_minute}");
            }
        }
    }
}
