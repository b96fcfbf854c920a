//! Settings of the response cache.

use super::kilobytes;
use crate::core::caching::LONGEST_TTL_S;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

static CACHE_TTL: GucSetting<i32> = GucSetting::<i32>::new(0);
static CACHE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(64 * 1024);

pub fn register() {
    GucRegistry::define_int_guc(
        c"aggregator.cache_ttl",
        c"How long the answer to a request of temperature 0 answers the same request of the same user.",
        c"0 is not at all. options.cache of a call goes before it.",
        &CACHE_TTL,
        0,
        LONGEST_TTL_S as i32,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"aggregator.cache_size",
        c"The size of all answers that are kept for calls that ask the same; the oldest go first.",
        c"0 keeps none, whatever calls ask for.",
        &CACHE_SIZE,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_KB,
    );
}

/// Seconds for which answers are kept where a call does not say.
pub fn ttl_s() -> u32 {
    u32::try_from(CACHE_TTL.get()).unwrap_or(0)
}

/// Bytes of all answers that are kept in a database.
pub fn size() -> usize {
    kilobytes(&CACHE_SIZE)
}
