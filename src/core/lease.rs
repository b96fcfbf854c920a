//! Several gateways keep the same budgets. One of them, the hub, has the count; the others lease of it what they
//! spend.
//!
//! A lease is a total: so much may a gateway have spent of a budget in a period, in all. To ask twice, or to lose an
//! answer, changes nothing. What is leased counts at the hub in full until it is given back, whatever has become of
//! the gateway.

use crate::core::budget::{Amount, Budget, Unreadable};
use crate::core::usage::decimal;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Most bytes of a gateway's name.
const LONGEST_NAME: usize = 63;
/// Most leases that one message is about, and most bytes of a message.
pub const MOST_ASKS: usize = 200;
pub const LARGEST_MESSAGE: usize = 512 * 1024;

/// Why a text is no name of a gateway; `None`: it is one.
pub fn name_problem(name: &str) -> Option<&'static str> {
    let is_plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-'
    };
    match name.len() {
        0 => Some("is empty"),
        length if length > LONGEST_NAME => Some("is longer than 63 bytes"),
        _ if name.bytes().all(is_plain) => None,
        _ => Some("may have small letters, digits, '_' and '-' alone"),
    }
}

/// What a gateway asks of its hub.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    pub from: String,
    /// Larger than that of every earlier message: one that comes late says nothing any more.
    pub number: i64,
    pub asks: Vec<Ask>,
}

/// What the hub answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Of the message.
    pub number: i64,
    /// For each ask its lease. `None`: the hub has no such budget, or has forgotten the user.
    pub leases: Vec<Option<Lease>>,
}

/// What a gateway has of a budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    pub granted: Total,
    /// What all others have spent, as far as the hub knows: the rest may come back.
    pub spent_by_others: Total,
}

/// A lease of one budget that is asked for, or given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    pub budget: Uuid,
    /// Whose count it is; `None`: that of all.
    pub user: Option<String>,
    /// When the period began: microseconds since 1970.
    pub since: i64,
    /// Since when the gateway counts it: before a user was forgotten, it is not that of who comes later under the id.
    pub counted_since: i64,
    /// What the gateway has spent, and set aside for calls that are on their way.
    pub used: Total,
    /// What it wants to have in all.
    pub wanted: Total,
    /// It has no more than it wants from now on.
    pub gives_back: bool,
}

/// An amount as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Total {
    /// USD, decimal.
    pub usd: String,
    pub tokens: i64,
    pub requests: i64,
}

impl From<Amount> for Total {
    fn from(amount: Amount) -> Self {
        let Amount { usd, tokens, requests } = amount;
        Self { usd: usd.normalize().to_string(), tokens, requests }
    }
}

impl Total {
    /// `None`: it is none that anybody can have spent.
    pub fn amount(&self) -> Option<Amount> {
        let usd = decimal(&self.usd).filter(|usd| *usd >= Decimal::ZERO)?;
        let (tokens, requests) = (self.tokens, self.requests);
        (tokens >= 0 && requests >= 0).then_some(Amount { usd, tokens, requests })
    }
}

/// A lease that is asked for, as numbers.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    pub used: Amount,
    pub wanted: Amount,
    pub gives_back: bool,
}

/// What a gateway may have spent from now on. `others`: what the hub itself and all other gateways have spent, set
/// aside or leased; `held`: its lease so far, of which it may have spent all while it was asking; `gateways`: how many
/// there are.
///
/// Beyond what it wants it gets a slice of what is left, so that it need not ask for every call; the smaller, the
/// less is left.
pub fn granted(
    budget: &Budget,
    others: Amount,
    held: Amount,
    wish: Wish,
    gateways: i64,
) -> Result<Amount, Unreadable> {
    let whole = |limit: Option<i64>| limit.map(Decimal::from);
    let limits = match budget.blocks {
        true => [budget.usd()?, whole(budget.limit_tokens), whole(budget.limit_requests)],
        // It only warns: whatever is spent is counted.
        false => [None; 3],
    };
    let parts = Decimal::from(gateways.max(1).saturating_mul(2));
    let unit = |index: usize, of: fn(Amount) -> Decimal| {
        let (used, wanted, held) = (of(wish.used), of(wish.wanted), of(held));
        if wish.gives_back {
            return used.max(wanted.min(held));
        }
        let Some(limit) = limits[index] else { return held.max(used).max(wanted) };
        let left = limit.saturating_sub(of(others));
        let slice = left.saturating_sub(wanted).max(Decimal::ZERO) / parts;
        held.max(used).max(wanted.saturating_add(slice).min(left))
    };
    // Whole tokens and requests.
    let count = |amount: Decimal| amount.floor().to_i64().ok_or(Unreadable);
    Ok(Amount {
        usd: unit(0, |amount| amount.usd),
        tokens: count(unit(1, |amount| Decimal::from(amount.tokens)))?,
        requests: count(unit(2, |amount| Decimal::from(amount.requests)))?,
    })
}

/// A budget whose limits are those of a lease.
pub fn leased(budget: &Budget, lease: Amount) -> Budget {
    Budget {
        limit_usd: budget.limit_usd.as_ref().map(|_| lease.usd.to_string()),
        limit_tokens: budget.limit_tokens.map(|_| lease.tokens),
        limit_requests: budget.limit_requests.map(|_| lease.requests),
        ..budget.clone()
    }
}

/// Whether a lease holds so much of all that a budget limits.
pub fn suffices(budget: &Budget, lease: Amount, amount: Amount) -> bool {
    (budget.limit_usd.is_none() || amount.usd <= lease.usd)
        && (budget.limit_tokens.is_none() || amount.tokens <= lease.tokens)
        && (budget.limit_requests.is_none() || amount.requests <= lease.requests)
}

/// The part of a rate limit that one of several gateways has. The hub has what is left over: of a limit of one there
/// is nothing for the others.
pub fn share(per_minute: i64, gateways: i64, is_hub: bool) -> i64 {
    let gateways = gateways.max(1);
    let each = per_minute / gateways;
    if is_hub { per_minute - each * (gateways - 1) } else { each }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::budget::{Keys, Period, Scope};
    use proptest::prelude::*;

    fn budget(usd: Option<&str>, requests: Option<i64>) -> Budget {
        Budget {
            id: Uuid::from_u128(1),
            scope: Scope::default(),
            keys: Keys::All,
            period: Period::Day,
            limit_usd: usd.map(str::to_owned),
            limit_tokens: None,
            limit_requests: requests,
            blocks: true,
        }
    }

    fn requests(requests: i64) -> Amount {
        Amount { requests, ..Amount::default() }
    }

    fn wish(used: i64, wanted: i64) -> Wish {
        Wish { used: requests(used), wanted: requests(wanted), gives_back: false }
    }

    #[test]
    fn names_are_plain() {
        assert_eq!(name_problem("eu-west_1"), None);
        assert_eq!(name_problem(&"a".repeat(63)), None);
        for name in ["", "A", "a b", "ä", "a.b", "a'b", &"a".repeat(64)] {
            assert!(name_problem(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_lease_is_what_is_wanted_and_a_slice_of_what_is_left() {
        let budget = budget(None, Some(100));
        let of = |others, held, wish| {
            granted(&budget, requests(others), requests(held), wish, 3).unwrap().requests
        };
        // A sixth of the 90 that are left beyond what is wanted.
        assert_eq!(of(0, 0, wish(0, 10)), 25);
        // Nothing is taken back of what was granted, and nothing is granted of what others have.
        assert_eq!(of(75, 25, wish(20, 26)), 25);
        assert_eq!(of(70, 25, wish(24, 26)), 26);
        assert_eq!(of(100, 0, wish(0, 1)), 0);
        // What was spent beyond a lease is not passed over.
        assert_eq!(of(100, 0, wish(7, 8)), 7);
        // Given back is what is not used.
        let back = Wish { used: requests(20), wanted: requests(20), gives_back: true };
        assert_eq!(of(75, 25, back), 20);
        assert_eq!(of(75, 10, back), 20);
    }

    #[test]
    fn a_limit_that_is_no_number_grants_nothing() {
        let budget = budget(Some("many"), None);
        let none = Amount::default();
        assert_eq!(granted(&budget, none, none, wish(0, 1), 1), Err(Unreadable));
    }

    #[test]
    fn a_budget_that_only_warns_counts_whatever_is_used() {
        let budget = Budget { blocks: false, ..budget(None, Some(1)) };
        assert_eq!(granted(&budget, requests(9), requests(0), wish(7, 8), 2), Ok(requests(8)));
    }

    #[test]
    fn amounts_are_sent_exactly_and_none_below_zero_is_taken() {
        let amount = Amount { usd: decimal("0.0000000000001").unwrap(), tokens: 7, requests: 1 };
        assert_eq!(Total::from(amount).amount(), Some(amount));
        for usd in ["-1", "", "NaN", "1e999", "x"] {
            let total = Total { usd: usd.to_owned(), tokens: 0, requests: 0 };
            assert_eq!(total.amount(), None, "{usd}");
        }
        assert_eq!(Total { usd: "0".to_owned(), tokens: -1, requests: 0 }.amount(), None);
    }

    #[test]
    fn shares_of_a_rate_limit_are_never_more_than_the_limit() {
        for (limit, gateways, hub, other) in
            [(10, 3, 4, 3), (2, 3, 2, 0), (1, 1, 1, 1), (7, 0, 7, 7)]
        {
            assert_eq!(share(limit, gateways, true), hub);
            assert_eq!(share(limit, gateways, false), other);
        }
    }

    proptest! {
        /// Gateways that ask in any order, and spend and give back as they may: together never more than the limit.
        #[test]
        fn all_leases_together_never_pass_the_limit(
            limit in 0i64..200,
            steps in proptest::collection::vec((0usize..3, 0i64..40, any::<bool>()), 1..200),
        ) {
            let budget = budget(None, Some(limit));
            let (mut held, mut spent) = ([0i64; 3], [0i64; 3]);
            for (who, more, gives_back) in steps {
                let others: i64 = held.iter().sum::<i64>() - held[who];
                let wanted = if gives_back { spent[who] } else { spent[who] + more };
                let wish = Wish {
                    used: requests(spent[who]),
                    wanted: requests(wanted),
                    gives_back,
                };
                held[who] = granted(&budget, requests(others), requests(held[who]), wish, 3)
                    .unwrap()
                    .requests;
                if !gives_back && spent[who] + more <= held[who] {
                    spent[who] += more;
                }
                prop_assert!(held.iter().sum::<i64>() <= limit);
                prop_assert!(spent.iter().zip(held).all(|(spent, held)| *spent <= held));
            }
        }
    }
}
