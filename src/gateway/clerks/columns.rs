//! Clerks for AI columns. What they run is up to whoever has defined a column, so they are others than those of the
//! console, there are few, each user has one of them at a time, and one that does not end in time is ended.

use super::clerk::Clerk;
use super::{Clerks, START_PATIENCE, lock};
use crate::core::front::console::told::Raised;
use crate::error::Error;
use crate::protocol::clerk::{Answer, Asked};
use crate::protocol::columns::{ColumnQuestion, Told, Unit};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use uuid::Uuid;

/// Processes that work on AI columns at one time.
const MOST: usize = 2;
/// Lanes that are kept, whether or not anybody is in them.
const LANES: usize = 256;
/// Beyond what its transactions may take together, until a clerk is ended.
const GRACE: Duration = Duration::from_secs(3);

/// Whose turn it is.
pub(super) struct ColumnTurns {
    all: Semaphore,
    lanes: Mutex<HashMap<String, Weak<Semaphore>>>,
    pub(super) idle: Mutex<Vec<(Clerk, Instant)>>,
}

impl Default for ColumnTurns {
    fn default() -> Self {
        Self { all: Semaphore::new(MOST), lanes: Mutex::default(), idle: Mutex::default() }
    }
}

impl ColumnTurns {
    /// One user's questions come one after the other, so that those of all users come in turns.
    fn lane(&self, user: &str) -> Arc<Semaphore> {
        let mut lanes = lock(&self.lanes);
        if let Some(lane) = lanes.get(user).and_then(Weak::upgrade) {
            return lane;
        }
        if lanes.len() >= LANES {
            lanes.retain(|_, lane| lane.strong_count() > 0);
        }
        let lane = Arc::new(Semaphore::new(1));
        lanes.insert(user.to_owned(), Arc::downgrade(&lane));
        lane
    }
}

/// Why a piece of work came to nothing.
#[derive(Debug)]
pub enum Undone {
    /// The database said so, and nothing of it is written.
    Raised(Raised),
    /// It took longer than it may, and its process was ended in the middle of it.
    TooLong,
    /// There is no clerk, or it went away.
    NoClerk(Error),
}

impl Clerks {
    /// Has a piece of work for an AI column done for a user.
    pub async fn work_on(
        self: &Arc<Self>,
        user: &str,
        epoch: i64,
        column: Uuid,
        unit: Unit,
    ) -> Result<Told, Undone> {
        let patience = unit.patience() + GRACE;
        let lane = self.columns.lane(user);
        let stopping = |_| Undone::NoClerk(Error::stopping());
        let _own = lane.acquire_owned().await.map_err(stopping)?;
        let _all = self.columns.all.acquire().await.map_err(stopping)?;
        let mut clerk = self.take_for_columns().await.map_err(Undone::NoClerk)?;
        let asked =
            Asked::Column(ColumnQuestion { extension: self.extension, epoch, column, unit });
        // Nobody stops waiting for it.
        let (mut waits, _waited) = oneshot::channel::<()>();
        match timeout(patience, clerk.ask(&asked, false, &mut waits)).await {
            Ok(Some(Answer::Told(told))) => {
                self.put_back_of_columns(clerk);
                Ok(told)
            }
            Ok(Some(Answer::Failed(raised))) => {
                self.put_back_of_columns(clerk);
                Err(Undone::Raised(raised))
            }
            Ok(Some(Answer::Given(_)) | None) => Err(Undone::NoClerk(Error::ClerkDown {
                reason: "its process went away in the middle of it".to_owned(),
                hint: "The server log may say more.".to_owned(),
            })),
            // Dropped in the middle of its work, its process is ended.
            Err(_) => Err(Undone::TooLong),
        }
    }

    async fn take_for_columns(&self) -> Result<Clerk, Error> {
        loop {
            let idle = lock(&self.columns.idle).pop();
            match idle {
                Some((clerk, _)) if clerk.is_there() => return Ok(clerk),
                Some(_) => {}
                None => {
                    return timeout(2 * START_PATIENCE, self.start())
                        .await
                        .unwrap_or_else(|_| Err(Error::stopping()));
                }
            }
        }
    }

    fn put_back_of_columns(self: &Arc<Self>, clerk: Clerk) {
        lock(&self.columns.idle).push((clerk, Instant::now()));
        self.watch_idle();
    }
}
