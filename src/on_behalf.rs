//! Whom this process acts for, where it has no session of its own: a clerk says so before it runs anything, and
//! nothing that it runs can say otherwise. In every other process that is nobody, and the session tells who asks.

use crate::protocol::clerk::Principal;
use std::cell::RefCell;

thread_local! {
    static PRINCIPAL: RefCell<Option<Principal>> = const { RefCell::new(None) };
}

/// Runs `work` on behalf of somebody. It is over whatever becomes of it, also where it unwinds.
pub fn of<T>(principal: &Principal, work: impl FnOnce() -> T) -> T {
    struct Over;
    impl Drop for Over {
        fn drop(&mut self) {
            PRINCIPAL.set(None);
        }
    }
    PRINCIPAL.set(Some(principal.clone()));
    let _over = Over;
    work()
}

/// On whose behalf it is now.
pub fn principal() -> Option<Principal> {
    PRINCIPAL.with_borrow(Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_whatever_becomes_of_the_work() {
        let ada = Principal {
            user_id: "ada".to_owned(),
            role: "authenticated".to_owned(),
            is_anonymous: false,
        };
        assert_eq!(principal(), None);
        assert_eq!(of(&ada, principal), Some(ada.clone()));
        assert_eq!(principal(), None);
        assert!(std::panic::catch_unwind(|| of(&ada, || panic!("x"))).is_err());
        assert_eq!(principal(), None);
    }
}
