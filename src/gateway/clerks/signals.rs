//! Signals to clerks, which are processes of their own. Without an id there is none to signal.

/// Has a clerk give up its statement.
pub fn cancel(pid: Option<i32>) {
    send(pid, libc::SIGINT);
}

/// Has it end.
pub fn end(pid: Option<i32>) {
    send(pid, libc::SIGTERM);
}

fn send(pid: Option<i32>, signal: i32) {
    if let Some(pid) = pid {
        // SAFETY: a plain call of the system. The process is there: its connection is, and its end is read from that.
        unsafe { libc::kill(pid, signal) };
    }
}
