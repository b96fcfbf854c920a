//! What the processor gives a clerk: what calls leave of it.

/// How much less than others, in the steps of nice(1): at 10, a tenth of what a session gets where both want it.
const STEPS: libc::c_int = 10;

/// Stands back for everybody else. A long report takes a whole core for as long as it lasts; on a machine of few, calls
/// would queue behind it.
pub fn stand_back() {
    // SAFETY: it takes three numbers, and changes nothing but this process's own share of the processor. Whoever may
    // not lower it keeps it.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, STEPS) };
}
