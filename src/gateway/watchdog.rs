//! How long the gateway's thread leaves everybody waiting. It serves all tenants, so nothing may
//! hold it for longer than some milliseconds; here that is measured, and an administrator sees it.
//!
//! A beat that comes late says that something held the thread meanwhile, or that the machine did
//! not let it run. What it has really worked tells the two apart.

use crate::clock::thread_time;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::sleep_until;

/// Between beats, while requests are in flight. An idle worker sleeps.
const BEAT: Duration = Duration::from_millis(10);
/// For how long the worst is told, and up to twice as long.
const WINDOW: Duration = Duration::from_secs(60);

/// A moment, and what the thread had worked by then.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    worked: Option<Duration>,
}

impl Mark {
    fn now() -> Self {
        Self { at: Instant::now(), worked: thread_time() }
    }
}

#[derive(Debug, Default)]
pub struct Watchdog {
    state: Mutex<State>,
    woken: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// When requests came to an idle gateway.
    began: Option<Mark>,
    window_began: Option<Instant>,
    worst: Duration,
    worst_before: Duration,
}

impl State {
    fn note(&mut self, stall: Duration, now: Instant) {
        if self.window_began.is_none_or(|began| now.duration_since(began) >= WINDOW) {
            self.window_began = Some(now);
            self.worst_before = std::mem::take(&mut self.worst);
        }
        self.worst = self.worst.max(stall);
    }
}

impl Watchdog {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A request is in flight, and none was before. Called on the thread that is watched.
    pub fn wake(&self) {
        self.lock().began.get_or_insert_with(Mark::now);
        self.woken.notify_one();
    }

    /// The longest that the thread was held lately, in milliseconds.
    pub fn worst_ms(&self) -> u64 {
        let state = self.lock();
        let worst = state.worst.max(state.worst_before);
        u64::try_from(worst.as_millis()).unwrap_or(u64::MAX)
    }

    /// Watches the thread that it runs on, for as long as it runs.
    pub async fn watch(&self, is_busy: impl Fn() -> bool) {
        loop {
            self.woken.notified().await;
            let Some(began) = self.lock().began.take() else { continue };
            self.beat(began, Duration::ZERO);
            while is_busy() {
                let mark = Mark::now();
                sleep_until((mark.at + BEAT).into()).await;
                self.beat(mark, BEAT);
            }
        }
    }

    /// A beat that should have come so long after the last.
    fn beat(&self, last: Mark, after: Duration) {
        let now = Mark::now();
        let late = now.at.duration_since(last.at).saturating_sub(after);
        let worked = match (last.worked, now.worked) {
            (Some(before), Some(now)) => now.saturating_sub(before),
            _ => late,
        };
        self.lock().note(late.min(worked), now.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn work(time: Duration) {
        let until = thread_time().unwrap() + time;
        while thread_time().unwrap() < until {}
    }

    /// Waits until it has noticed, as long as a busy machine may take.
    async fn until(noticed: impl Fn() -> bool) {
        for _ in 0..2000 {
            if noticed() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn what_holds_the_thread_is_noticed() {
        let watchdog = Arc::new(Watchdog::default());
        let watching = watchdog.clone();
        tokio::spawn(async move { watching.watch(|| true).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(watchdog.worst_ms(), 0);
        // At once, before the watchdog is awake.
        watchdog.wake();
        work(Duration::from_millis(80));
        until(|| watchdog.worst_ms() > 0).await;
        assert!((80..1000).contains(&watchdog.worst_ms()), "{}", watchdog.worst_ms());
        // And in the middle of its work.
        work(Duration::from_millis(160));
        until(|| watchdog.worst_ms() >= 140).await;
        assert!(watchdog.worst_ms() >= 140, "{}", watchdog.worst_ms());
    }

    #[test]
    fn the_worst_is_told_for_a_while() {
        let mut state = State::default();
        let now = Instant::now();
        let ms = Duration::from_millis;
        state.note(ms(5), now);
        state.note(ms(70), now + ms(10));
        state.note(ms(1), now + WINDOW);
        assert_eq!((state.worst, state.worst_before), (ms(1), ms(70)));
        state.note(ms(2), now + 2 * WINDOW);
        assert_eq!((state.worst, state.worst_before), (ms(2), ms(1)));
    }
}
