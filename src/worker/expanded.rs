//! Arrays in the form in which PostgreSQL finds any element at once. In a flat one it counts through all before it,
//! where they have no fixed length or some are NULL: for a batch that is its square.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

/// With fewer elements, taking them apart costs more than counting.
const FEW: usize = 8;
/// What is larger is not copied.
const MOST_BYTES: usize = 1 << 20;

/// The same array, whose so many elements are taken apart when the first of them is asked for.
pub fn expanded(array: DatumWithOid<'_>, elements: usize) -> DatumWithOid<'_> {
    let Some(flat) = array.datum().filter(|_| elements >= FEW) else { return array };
    // SAFETY: the datum is an array that was made in this transaction, in memory and not packed. What is made of it
    // lives where the next allocation would, as the array does that was made a moment ago, and is not to be changed.
    unsafe {
        let flat = flat.sans_lifetime();
        if pgrx::varsize_any(flat.cast_mut_ptr::<pg_sys::varlena>()) > MOST_BYTES {
            return array;
        }
        let apart = pg_sys::expand_array(flat, pg_sys::CurrentMemoryContext, std::ptr::null_mut());
        DatumWithOid::new(pg_sys::MakeExpandedObjectReadOnlyInternal(apart), array.oid())
    }
}
