//! AI columns whose table is gone: what is kept of them goes after a while.

use crate::worker::process;
use pgrx::spi::Spi;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// Between looks for them.
const PAUSE: Duration = Duration::from_secs(60 * 60);

thread_local! {
    static NEXT: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Looks for them, if it is time to. Of users' tables only the names of views are looked at, in the catalog.
pub fn sweep() {
    if NEXT.get().is_some_and(|next| Instant::now() < next) {
        return;
    }
    NEXT.set(Some(Instant::now() + PAUSE));
    let swept = process::transaction(|installed| {
        let sql = installed.sql("SELECT @extschema@.aggregator_sweep_ai_columns()");
        Spi::connect_mut(|client| client.update(sql.as_str(), None, &[]).map(|_| ()))
    });
    if let Err(failure) = swept {
        pgrx::warning!("aggregator: AI columns of tables that are gone stay for now: {failure:?}");
    }
}
