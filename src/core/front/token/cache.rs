//! Tokens that were verified already: a signature of RSA or ECDSA takes longer than all else that is done to
//! know the caller.

use super::keys::Keys;
use super::{Claims, LONGEST, Rules, TokenError, verify};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;

/// Most tokens that are kept: as many as PostgREST keeps.
pub const MOST_KEPT: usize = 1000;

/// Keys, rules, and what they vouched for. Whoever configures other keys or rules makes another verifier, and
/// so nothing that the old ones vouched for is kept.
#[derive(Debug)]
pub struct Verifier {
    keys: Keys,
    rules: Rules,
    kept: Kept,
}

impl Verifier {
    pub fn new(keys: Keys, rules: Rules) -> Self {
        Self { keys, rules, kept: Kept::default() }
    }

    /// As [`verify`]. A refusal is not kept.
    pub fn verify(&mut self, token: &str, now: i64) -> Result<Arc<Claims>, TokenError> {
        // Not even hashed.
        if token.len() > LONGEST {
            return Err(TokenError::TooLong);
        }
        let print: Print = Sha256::digest(token).into();
        if let Some(claims) = self.kept.get(&print) {
            claims.check_time(now)?;
            return Ok(claims);
        }
        let claims = Arc::new(verify(&self.keys, &self.rules, token, now)?);
        self.kept.put(print, Arc::clone(&claims));
        Ok(claims)
    }

    /// How many tokens are kept.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.kept.slots.len()
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.kept.slots.is_empty()
    }
}

/// The SHA-256 of a token: the token itself is not kept.
type Print = [u8; 32];

#[derive(Debug)]
struct Slot {
    print: Print,
    claims: Arc<Claims>,
    was_used: bool,
}

/// Of the tokens that are kept, one that was not used since it was looked at last makes room for a new one
/// (the clock algorithm).
#[derive(Debug, Default)]
struct Kept {
    places: HashMap<Print, usize>,
    slots: Vec<Slot>,
    hand: usize,
}

impl Kept {
    fn get(&mut self, print: &Print) -> Option<Arc<Claims>> {
        let slot = self.places.get(print).and_then(|place| self.slots.get_mut(*place))?;
        slot.was_used = true;
        Some(Arc::clone(&slot.claims))
    }

    fn put(&mut self, print: Print, claims: Arc<Claims>) {
        let new = Slot { print, claims, was_used: false };
        if self.slots.len() < MOST_KEPT {
            self.places.insert(print, self.slots.len());
            self.slots.push(new);
            return;
        }
        // At the second round at the latest, one is found.
        loop {
            let place = self.hand;
            self.hand = (place + 1) % MOST_KEPT;
            match self.slots.get_mut(place) {
                Some(slot) if slot.was_used => slot.was_used = false,
                Some(slot) => {
                    self.places.remove(&slot.print);
                    self.places.insert(print, place);
                    *slot = new;
                    return;
                }
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{GOOD, NOW, minted, plain};
    use super::*;

    #[test]
    fn what_was_verified_is_kept_for_its_time_and_no_longer() {
        let mut verifier = Verifier::new(plain(), Rules::default());
        let token = minted(GOOD);
        let first = verifier.verify(&token, NOW).unwrap();
        let again = verifier.verify(&token, NOW + 3600 + 29).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(verifier.verify(&token, NOW + 3600 + 30), Err(TokenError::Expired));
        let later = format!("{},\"nbf\":{NOW}}}", &GOOD[..GOOD.len() - 1]);
        let later = minted(&later);
        assert!(verifier.verify(&later, NOW).is_ok());
        // The clock was set back.
        assert_eq!(verifier.verify(&later, NOW - 31), Err(TokenError::NotYetValid));
        assert_eq!(verifier.len(), 2);
        // A refusal is not kept, nor is what only begins alike.
        assert!(verifier.verify(&format!("{token}A"), NOW).is_err());
        assert!(verifier.verify(&token[..token.len() - 1], NOW).is_err());
        assert_eq!(verifier.verify(&"x".repeat(LONGEST + 1), NOW), Err(TokenError::TooLong));
        assert_eq!(verifier.len(), 2);
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let mut verifier = Verifier::new(plain(), Rules::default());
        assert!(verifier.is_empty());
        let token = |n: usize| minted(&GOOD.replace("u-1", &format!("u-{n}")));
        let used = token(0);
        let kept = verifier.verify(&used, NOW).unwrap();
        for n in 1..3 * MOST_KEPT {
            assert_eq!(verifier.verify(&token(n), NOW).unwrap().user_id, format!("u-{n}"));
            let again = verifier.verify(&used, NOW).unwrap();
            assert!(Arc::ptr_eq(&kept, &again), "after {n}");
            assert_eq!(verifier.len(), (n + 1).min(MOST_KEPT));
        }
        // Whoever was thrown out is verified again.
        assert_eq!(verifier.verify(&token(1), NOW).unwrap().user_id, "u-1");
    }
}
