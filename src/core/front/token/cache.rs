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

    /// What a token says that was verified before. `None`: it was not, or is not kept any more.
    pub fn known(&mut self, print: &Print, now: i64) -> Option<Result<Arc<Claims>, TokenError>> {
        let claims = self.kept.get(print)?;
        Some(claims.check_time(now).map(|()| claims))
    }

    /// As [`verify`]. A refusal is not kept. `print` is the token's.
    pub fn verify(
        &mut self,
        token: &str,
        print: Print,
        now: i64,
    ) -> Result<Arc<Claims>, TokenError> {
        let claims = Arc::new(verify(&self.keys, &self.rules, token, now)?);
        self.kept.put(print, Arc::clone(&claims));
        Ok(claims)
    }

    /// Both, as callers are known.
    #[cfg(test)]
    pub fn see(&mut self, token: &str, now: i64) -> Result<Arc<Claims>, TokenError> {
        let print = print(token)?;
        match self.known(&print, now) {
            Some(known) => known,
            None => self.verify(token, print, now),
        }
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
pub type Print = [u8; 32];

/// By which a token is known. One that is too long is not even hashed.
pub fn print(token: &str) -> Result<Print, TokenError> {
    if token.len() > LONGEST {
        return Err(TokenError::TooLong);
    }
    Ok(Sha256::digest(token).into())
}

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
        let first = verifier.see(&token, NOW).unwrap();
        let again = verifier.see(&token, NOW + 3600 + 29).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(verifier.see(&token, NOW + 3600 + 30), Err(TokenError::Expired));
        let later = format!("{},\"nbf\":{NOW}}}", &GOOD[..GOOD.len() - 1]);
        let later = minted(&later);
        assert!(verifier.see(&later, NOW).is_ok());
        // The clock was set back.
        assert_eq!(verifier.see(&later, NOW - 31), Err(TokenError::NotYetValid));
        assert_eq!(verifier.len(), 2);
        // A refusal is not kept, nor is what only begins alike.
        assert!(verifier.see(&format!("{token}A"), NOW).is_err());
        assert!(verifier.see(&token[..token.len() - 1], NOW).is_err());
        assert_eq!(verifier.see(&"x".repeat(LONGEST + 1), NOW), Err(TokenError::TooLong));
        assert_eq!(verifier.len(), 2);
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let mut verifier = Verifier::new(plain(), Rules::default());
        assert!(verifier.is_empty());
        let token = |n: usize| minted(&GOOD.replace("u-1", &format!("u-{n}")));
        let used = token(0);
        let kept = verifier.see(&used, NOW).unwrap();
        for n in 1..3 * MOST_KEPT {
            assert_eq!(verifier.see(&token(n), NOW).unwrap().user_id, format!("u-{n}"));
            let again = verifier.see(&used, NOW).unwrap();
            assert!(Arc::ptr_eq(&kept, &again), "after {n}");
            assert_eq!(verifier.len(), (n + 1).min(MOST_KEPT));
        }
        // Whoever was thrown out is verified again.
        assert_eq!(verifier.see(&token(1), NOW).unwrap().user_id, "u-1");
    }
}
