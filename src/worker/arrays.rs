//! Arrays that are arguments of statements: made at once, and in the form in which PostgreSQL finds any element at once.

use pgrx::datum::{DatumWithOid, IntoDatum};
use pgrx::pg_sys;

/// In a flat array any element is found by counting through all before it, where they have no fixed length or some are
/// NULL: for a batch that is its square. With fewer elements, taking them apart costs more than that.
const FEW: usize = 8;
/// What is larger is not copied.
const MOST_BYTES: usize = 1 << 20;

/// An array of values. From a `Vec` it would be made element by element, in a memory context of its own.
pub fn array<'a, T: IntoDatum>(values: impl IntoIterator<Item = T>) -> DatumWithOid<'a> {
    let values = values.into_iter().map(IntoDatum::into_datum);
    let (mut elements, mut nulls): (Vec<pg_sys::Datum>, Vec<bool>) =
        values.map(|value| (value.unwrap_or(pg_sys::Datum::null()), value.is_none())).unzip();
    // More than an array can have is refused by PostgreSQL, and so is the most that can be said.
    let (mut dimensions, mut lower_bounds) =
        ([i32::try_from(elements.len()).unwrap_or(i32::MAX)], [1]);
    let of = T::type_oid();
    let (mut length, mut is_by_value, mut alignment) = (0, false, 0);
    // SAFETY: of the elements there are as many as is said, or more, and each is of the type; what is made of them is
    // copied from them, lives where the next allocation would, and is not to be changed.
    unsafe {
        pg_sys::get_typlenbyvalalign(of, &raw mut length, &raw mut is_by_value, &raw mut alignment);
        let flat = pg_sys::construct_md_array(
            elements.as_mut_ptr(),
            nulls.as_mut_ptr(),
            1,
            dimensions.as_mut_ptr(),
            lower_bounds.as_mut_ptr(),
            of,
            length.into(),
            is_by_value,
            alignment,
        );
        let bytes = pgrx::varsize_any(flat.cast::<pg_sys::varlena>());
        let mut datum = pg_sys::Datum::from(flat);
        if elements.len() >= FEW && bytes <= MOST_BYTES {
            // Each is taken out when the first of them is asked for.
            let apart =
                pg_sys::expand_array(datum, pg_sys::CurrentMemoryContext, std::ptr::null_mut());
            datum = pg_sys::MakeExpandedObjectReadOnlyInternal(apart);
        }
        DatumWithOid::new(datum, pg_sys::get_array_type(of))
    }
}
