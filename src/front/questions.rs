//! Questions to the main thread, which has the ledger to keep: few at one time, and of each asker one, so that
//! nobody's many hold up what others ask.

use crate::error::Error;
use crate::gateway::ledger::Ledger;
use crate::gateway::task::Task;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, oneshot};

/// At one time: the main thread answers one after the other, and writes what has come in between.
const AT_ONE_TIME: usize = 4;
/// Lanes that are kept, whether or not anybody is in them.
const LANES: usize = 256;

/// The way to the main thread.
pub struct Questions {
    ledger: Ledger,
    all: Semaphore,
    lanes: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// The right to ask one question.
pub struct Turn<'a> {
    ledger: &'a Ledger,
    _lane: OwnedSemaphorePermit,
    _all: SemaphorePermit<'a>,
}

impl Questions {
    pub fn new(ledger: Ledger) -> Self {
        Self { ledger, all: Semaphore::new(AT_ONE_TIME), lanes: Mutex::default() }
    }

    /// Waits until this asker may ask. What was asked meanwhile may have answered it.
    pub async fn turn(&self, asker: &str) -> Result<Turn<'_>, Error> {
        let lane = self.lane(asker).acquire_owned().await.map_err(|_| Error::stopping())?;
        let all = self.all.acquire().await.map_err(|_| Error::stopping())?;
        Ok(Turn { ledger: &self.ledger, _lane: lane, _all: all })
    }

    fn lane(&self, asker: &str) -> Arc<Semaphore> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(asker).and_then(Weak::upgrade) {
            return lane;
        }
        if lanes.len() >= LANES {
            lanes.retain(|_, lane| lane.strong_count() > 0);
        }
        let lane = Arc::new(Semaphore::new(1));
        lanes.insert(asker.to_owned(), Arc::downgrade(&lane));
        lane
    }
}

impl Turn<'_> {
    /// Asks, and waits for the answer.
    pub async fn ask<T>(
        self,
        question: impl FnOnce(oneshot::Sender<T>) -> Task,
    ) -> Result<T, Error> {
        self.ledger.ask(question).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::ledger;
    use std::time::Duration;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn one_of_each_asker_and_few_of_all_are_asked_at_one_time() {
        let (ledger, _inbox, _wake) = ledger::channel().unwrap();
        let questions = Questions::new(ledger);
        let first = questions.turn("a").await.unwrap();
        assert!(timeout(SOON, questions.turn("a")).await.is_err(), "the same asker waits");
        let mut others = Vec::new();
        for asker in ["b", "c", "d"] {
            others
                .push(timeout(SOON, questions.turn(asker)).await.expect("others do not").unwrap());
        }
        assert_eq!(1 + others.len(), AT_ONE_TIME);
        assert!(timeout(SOON, questions.turn("e")).await.is_err(), "there are no more");
        drop(first);
        let again = timeout(SOON, questions.turn("a")).await.expect("its turn").unwrap();
        drop((again, others));
    }

    #[tokio::test]
    async fn lanes_that_nobody_is_in_are_forgotten() {
        let (ledger, _inbox, _wake) = ledger::channel().unwrap();
        let questions = Questions::new(ledger);
        let kept = questions.turn("kept").await.unwrap();
        for asker in 0..3 * LANES {
            drop(questions.turn(&asker.to_string()).await.unwrap());
        }
        assert!(questions.lanes.lock().unwrap().len() <= LANES + 1);
        assert!(timeout(SOON, questions.turn("kept")).await.is_err(), "a lane with somebody stays");
        drop(kept);
    }
}
