//! Work whose time grows with a text from outside. A large text is worked on by a thread of its
//! own: the gateway's thread serves every tenant, and none of them may hold it for long.
//!
//! Those threads come from the runtime's pool and inherit the gateway thread's signal mask: every
//! signal is blocked in them, and they never touch PostgreSQL.

use crate::error::Error;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Bytes past which a text is large. What is done with fewer takes less than a millisecond.
const LIGHT: usize = 64 << 10;
/// Threads that work at one time; more work waits its turn.
const MOST_THREADS: usize = 4;

pub struct Heavy {
    turns: Arc<Semaphore>,
}

impl Default for Heavy {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { turns: Arc::new(Semaphore::new(cores.min(MOST_THREADS))) }
    }
}

impl Heavy {
    /// Does `work` on a text of so many bytes.
    pub async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        if bytes <= LIGHT {
            return Ok(work());
        }
        let turn = self.turns.clone().acquire_owned().await.map_err(Error::internal)?;
        let done = spawn_blocking(move || {
            // Held to the end of the work, which goes on when its caller goes away.
            let _turn = turn;
            work()
        });
        done.await.map_err(|_| Error::panicked())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[tokio::test]
    async fn large_texts_do_not_hold_the_thread() {
        let heavy = Heavy::default();
        let here = std::thread::current().id();
        let at = || std::thread::current().id();
        assert_eq!(heavy.run(LIGHT, at).await, Ok(here));
        // It goes on until it is let go, which nobody could do on this thread if it held it.
        let (let_go, held) = mpsc::channel::<()>();
        let slow = move || held.recv_timeout(Duration::from_secs(60)).is_ok();
        let mut running = Box::pin(heavy.run(LIGHT + 1, slow));
        tokio::select! {
            _ = &mut running => panic!("it takes its time"),
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
        let_go.send(()).unwrap();
        assert_eq!(running.await, Ok(true));
        assert!(heavy.run(LIGHT + 1, at).await.is_ok_and(|there| there != here));
        assert_eq!(
            heavy.run(LIGHT + 1, || panic!("on purpose")).await,
            Err::<(), _>(Error::panicked())
        );
    }
}
