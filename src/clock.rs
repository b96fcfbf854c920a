//! The time of day, and what a thread has really worked, which a busy machine does not lengthen.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Microseconds since 1970.
pub fn unix_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The processor time that the calling thread has used. `None`: the system does not say.
pub fn thread_time() -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec, which is ours, and nothing else.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    if result != 0 {
        return None;
    }
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn work_counts_and_sleep_does_not() {
        let before = thread_time().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let slept = thread_time().unwrap();
        assert!(slept - before < Duration::from_millis(40));
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(200) {}
        assert!(thread_time().unwrap() > slept);
    }
}
