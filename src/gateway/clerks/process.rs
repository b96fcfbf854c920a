//! What is done to clerks, which are processes of their own. Without an id there is none.

use std::time::Duration;

/// Has a clerk give up its statement.
pub fn cancel(pid: Option<i32>) {
    send(pid, libc::SIGINT);
}

/// Has it end.
pub fn end(pid: Option<i32>) {
    send(pid, libc::SIGTERM);
}

/// What it has had of the processor since it began. `None`: it is not there, or the system does not say.
pub fn used(pid: Option<i32>) -> Option<Duration> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: either fills in a value of ours, and keeps nothing.
    let is_told = unsafe {
        libc::clock_getcpuclockid(pid?, &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    let whole = u64::try_from(time.tv_sec).ok().filter(|_| is_told)?;
    Some(Duration::new(whole, u32::try_from(time.tv_nsec).ok()?))
}

/// Leaves it only what nobody else wants of the processor. It cannot be given more again.
pub fn stand_back(pid: Option<i32>) {
    if let Some(pid) = pid {
        // SAFETY: all that it needs of a sched_param; the system reads it and keeps nothing. As for the process, as in
        // `send`. Where the system refuses, it goes on as it was.
        unsafe {
            let mut none: libc::sched_param = std::mem::zeroed();
            none.sched_priority = 0;
            libc::sched_setscheduler(pid, libc::SCHED_IDLE, &raw const none);
        }
    }
}

fn send(pid: Option<i32>, signal: i32) {
    if let Some(pid) = pid {
        // SAFETY: a plain call of the system. The process is there: its connection is, and its end is read from that.
        unsafe { libc::kill(pid, signal) };
    }
}
