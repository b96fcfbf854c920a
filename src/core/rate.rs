//! Rate limits by the generic cell rate algorithm: one number, the moment at which all that was
//! taken will have been paid back. A minute's quota may be taken at once.

/// Microseconds of a minute.
pub const MINUTE: i64 = 60_000_000;

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
