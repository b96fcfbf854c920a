//! Why a request has no room in a budget, in words.

use crate::core::bound::NoBound;
use crate::core::budget::{Budget, Refused};
use crate::core::tags::Label;
use crate::error::{Error, Shortfall, Target};
use rust_decimal::Decimal;

/// What a budget refuses.
pub(super) struct NotAllowed {
    pub(super) refused: Refused,
    /// It would fit if nothing were set aside for others that are on their way.
    pub(super) is_set_aside: bool,
}

impl NotAllowed {
    pub(super) fn error(self, target: Target, budgets: &[&Budget]) -> Error {
        match self.refused {
            Refused::NoBound(NoBound::Unpriced) => {
                Error::NoCostBound { target, what: "its price is not known".to_owned() }
            }
            Refused::NoBound(NoBound::Unbounded(what)) => Error::NoCostBound { target, what },
            Refused::Unreadable { index } => Error::Ledger {
                reason: format!("the limit of budget {} is no number", budgets[index].id),
            },
            Refused::Exceeded { index, unit, needed, left } => {
                let budget = budgets[index];
                let is_ones_own = budget.scope.is_ones_own();
                let shortfall = Box::new(Shortfall {
                    period: format!("{:?}", budget.period).to_lowercase(),
                    whose: match (budget.scope.label(), is_ones_own) {
                        (Some(Label::Key(_)), _) => " of this gateway key".to_owned(),
                        (Some(Label::Tag(tag)), true) => format!(" of this user with tag '{tag}'"),
                        (Some(Label::Tag(tag)), false) => format!(" of all users with tag '{tag}'"),
                        (None, true) => " of this user".to_owned(),
                        (None, false) => " of all users".to_owned(),
                    },
                    unit: unit.as_str().to_owned(),
                    needed: needed.normalize().to_string(),
                    // What others have spent is not told to each of them.
                    left: is_ones_own.then(|| left.max(Decimal::ZERO).normalize().to_string()),
                    is_set_aside: self.is_set_aside,
                });
                Error::BudgetExceeded { target, shortfall }
            }
        }
    }
}
