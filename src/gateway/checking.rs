//! Where schemas are read and answers are checked against them: on threads that serve nothing else, of each user one at
//! a time. Whoever has much of that waits for themselves, and everybody else for one of theirs at the most.

use crate::error::Error;
use crate::gateway::heavy::Heavy;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Takes a thread of its own, however short it is.
const ALWAYS: usize = usize::MAX;
/// Users past which those who check nothing are forgotten.
const MANY: usize = 1024;

type Place = Arc<tokio::sync::Mutex<()>>;

#[derive(Default)]
pub struct Schemas {
    threads: Heavy,
    users: Mutex<HashMap<String, Place>>,
}

impl Schemas {
    pub async fn run<T: Send + 'static>(
        &self,
        user: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let turn = self.place(user).lock_owned().await;
        let work = move || {
            // Held to the end of the work, which goes on when its caller goes away.
            let _turn = turn;
            work()
        };
        self.threads.run(ALWAYS, work).await
    }

    fn place(&self, user: &str) -> Place {
        let mut users = self.users.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if users.len() >= MANY && !users.contains_key(user) {
            users.retain(|_, place| Arc::strong_count(place) > 1);
        }
        users.entry(user.to_owned()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    fn wait_for(flag: &AtomicBool) {
        let began = Instant::now();
        while !flag.load(Ordering::SeqCst) && began.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[tokio::test]
    async fn who_checks_much_waits_for_themselves() {
        let schemas = Arc::new(Schemas::default());
        let (begun, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // The first goes on until somebody else has asked, and the others until those have been answered.
        let (asked, answered) = (Arc::new(AtomicBool::default()), Arc::new(AtomicBool::default()));
        let many: Vec<_> = (0..8)
            .map(|_| {
                let (schemas, begun, done) = (schemas.clone(), begun.clone(), done.clone());
                let (asked, answered) = (asked.clone(), answered.clone());
                tokio::spawn(async move {
                    let slow = move || {
                        match begun.fetch_add(1, Ordering::SeqCst) {
                            0 => wait_for(&asked),
                            _ => wait_for(&answered),
                        }
                        done.fetch_add(1, Ordering::SeqCst);
                    };
                    schemas.run("a", slow).await
                })
            })
            .collect();
        while begun.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let before = done.clone();
        let count = schemas.run("b", move || before.load(Ordering::SeqCst));
        let (seen, ()) = tokio::join!(count, async { asked.store(true, Ordering::SeqCst) });
        answered.store(true, Ordering::SeqCst);
        let seen = seen.unwrap();
        assert!(seen <= 2, "{seen}");
        for one in many {
            one.await.unwrap().unwrap();
        }
        assert_eq!((begun.load(Ordering::SeqCst), done.load(Ordering::SeqCst)), (8, 8));
    }

    #[test]
    fn users_who_check_nothing_are_forgotten() {
        let schemas = Schemas::default();
        let held = schemas.place("held");
        for n in 0..2 * MANY {
            schemas.place(&n.to_string());
        }
        assert!(schemas.users.lock().unwrap().len() <= MANY + 1);
        assert!(Arc::ptr_eq(&held, &schemas.place("held")));
    }
}
