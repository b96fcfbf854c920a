//! Several gateways keep the same budgets. One of them, the hub, has the count; the others lease of it what they
//! spend.
//!
//! A lease is a total: so much may a gateway have spent of a budget in a period, in all. To ask twice, or to lose an
//! answer, changes nothing. What is leased counts at the hub in full until it is given back, whatever has become of
//! the gateway.

/// Most bytes of a gateway's name.
const LONGEST_NAME: usize = 63;

/// Why a text is no name of a gateway; `None`: it is one.
pub fn name_problem(name: &str) -> Option<&'static str> {
    let is_plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-'
    };
    match name.len() {
        0 => Some("is empty"),
        length if length > LONGEST_NAME => Some("is longer than 63 bytes"),
        _ if name.bytes().all(is_plain) => None,
        _ => Some("may have small letters, digits, '_' and '-' alone"),
    }
}
