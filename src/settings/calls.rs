//! Settings of streams, limits in flight and jobs.

use crate::gateway;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::time::Duration;

static STREAM_UPSTREAM: GucSetting<bool> = GucSetting::<bool>::new(false);
static STREAM_IDLE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(60_000);
static MAX_IN_FLIGHT: GucSetting<i32> = GucSetting::<i32>::new(1000);
static MAX_IN_FLIGHT_PER_USER: GucSetting<i32> = GucSetting::<i32>::new(128);
static MAX_IN_FLIGHT_PER_KEY: GucSetting<i32> = GucSetting::<i32>::new(256);
static MAX_KEY_CHECKS_PER_MINUTE: GucSetting<i32> = GucSetting::<i32>::new(10);
static JOB_MAX_ATTEMPTS: GucSetting<i32> = GucSetting::<i32>::new(5);
static JOB_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(7 * 24 * 60 * 60);
static MAX_QUEUED_JOBS_PER_USER: GucSetting<i32> = GucSetting::<i32>::new(100_000);
static MAX_QUEUED_SIZE_PER_USER: GucSetting<i32> = GucSetting::<i32>::new(256 * 1024);

pub fn register() {
    GucRegistry::define_bool_guc(
        c"aggregator.stream_upstream",
        c"Whether answers that are wanted whole are asked for as streams.",
        c"A stalled provider is then noticed by aggregator.stream_idle_timeout. options.stream_upstream goes before it.",
        &STREAM_UPSTREAM,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"aggregator.stream_idle_timeout",
        c"Silence of a provider, once its stream has begun, after which it counts as stalled.",
        c"",
        &STREAM_IDLE_TIMEOUT,
        1,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    for (name, description, more, setting) in [
        (
            c"aggregator.max_in_flight",
            c"Chat requests at providers at one time; more wait.",
            c"One user takes at most half of what the others leave.",
            &MAX_IN_FLIGHT,
        ),
        (
            c"aggregator.max_in_flight_per_user",
            c"Chat requests of one user at one time; more wait.",
            c"",
            &MAX_IN_FLIGHT_PER_USER,
        ),
        (
            c"aggregator.max_in_flight_per_key",
            c"Chat requests with one provider key at one time; more wait.",
            c"Of a platform's key, one user takes at most half of what the others leave.",
            &MAX_IN_FLIGHT_PER_KEY,
        ),
    ] {
        GucRegistry::define_int_guc(
            name,
            description,
            more,
            setting,
            1,
            100_000,
            GucContext::Sighup,
            GucFlags::default(),
        );
    }
    GucRegistry::define_int_guc(
        c"aggregator.max_key_checks_per_minute",
        c"Keys that one user may have checked at one provider in a minute.",
        c"By validate_provider_key and save_provider_key. More are PT429.",
        &MAX_KEY_CHECKS_PER_MINUTE,
        1,
        100_000,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"aggregator.job_max_attempts",
        c"How many times a job is run at the most, before it counts as failed.",
        c"It is run again after its worker died, or after a failure that may pass.",
        &JOB_MAX_ATTEMPTS,
        1,
        1000,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"aggregator.max_queued_jobs_per_user",
        c"Jobs of one user that may wait at one time.",
        c"More are refused with PT429.",
        &MAX_QUEUED_JOBS_PER_USER,
        1,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"aggregator.max_queued_size_per_user",
        c"The size of the requests of one user's jobs that may wait at one time.",
        c"More are refused with PT429.",
        &MAX_QUEUED_SIZE_PER_USER,
        1,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"aggregator.job_retention",
        c"How long jobs are kept after they have ended.",
        c"0 keeps them for ever.",
        &JOB_RETENTION,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
}

/// Silence after which a stream counts as stalled.
pub fn stream_idle_timeout() -> Duration {
    Duration::from_millis(u64::try_from(STREAM_IDLE_TIMEOUT.get()).unwrap_or(1))
}

/// Whether answers that are wanted whole are asked for as streams.
pub fn stream_upstream() -> bool {
    STREAM_UPSTREAM.get()
}

pub fn key_checks_per_minute() -> i64 {
    i64::from(MAX_KEY_CHECKS_PER_MINUTE.get())
}

/// Limits in flight.
pub fn limits() -> gateway::Limits {
    gateway::Limits {
        all: number(&MAX_IN_FLIGHT),
        per_user: number(&MAX_IN_FLIGHT_PER_USER),
        per_key: number(&MAX_IN_FLIGHT_PER_KEY),
    }
}

fn number(setting: &GucSetting<i32>) -> usize {
    usize::try_from(setting.get()).unwrap_or(1)
}

/// What may wait of one user's jobs.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    pub jobs: i64,
    pub bytes: i64,
}

pub fn queue_limits() -> QueueLimits {
    QueueLimits {
        jobs: i64::from(MAX_QUEUED_JOBS_PER_USER.get()),
        bytes: i64::from(MAX_QUEUED_SIZE_PER_USER.get()) * 1024,
    }
}

/// How often a job may be run.
pub fn job_max_attempts() -> i32 {
    JOB_MAX_ATTEMPTS.get()
}

/// Seconds for which ended jobs are kept; `None`: for ever.
pub fn job_retention_s() -> Option<i32> {
    Some(JOB_RETENTION.get()).filter(|seconds| *seconds > 0)
}
