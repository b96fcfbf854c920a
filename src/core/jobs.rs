//! What a durable job may be, by whichever door it comes.

use crate::error::Error;

/// Bytes of a request that is kept for later: it is written, read and sent as a whole.
pub const LARGEST_REQUEST: usize = 16 << 20;
/// Of an idempotency key, in bytes: it is part of an index.
const LONGEST_KEY: usize = 255;

/// A request that is kept as it is written here.
pub fn checked_request(request: String) -> Result<String, Error> {
    match request.len() {
        size if size > LARGEST_REQUEST => {
            Err(Error::RequestTooLarge { size, limit: LARGEST_REQUEST })
        }
        _ => Ok(request),
    }
}

/// A key by which the same job is submitted once. `name`: of the argument or the header.
pub fn check_idempotency_key(name: &str, key: &str) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::bad_request(format!("{name} must not be empty")));
    }
    if key.len() > LONGEST_KEY || key.chars().any(char::is_control) {
        let what = format!("{name} must be a printable text of at most {LONGEST_KEY} bytes");
        return Err(Error::bad_request(what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_short_text_that_shows() {
        for good in ["a", "0190a6f4-5c2e-7bbb", "é ä", &"x".repeat(LONGEST_KEY)] {
            assert_eq!(check_idempotency_key("k", good), Ok(()), "{good}");
        }
        for bad in ["", "a\nb", "\0", "\u{85}", &"x".repeat(LONGEST_KEY + 1), &"é".repeat(128)] {
            let error = check_idempotency_key("Idempotency-Key", bad).unwrap_err();
            assert!(error.to_string().starts_with("Idempotency-Key"), "{error}");
            assert_eq!(error.sqlstate(), "PT400");
        }
    }

    #[test]
    fn a_request_that_is_kept_has_a_largest_size() {
        assert!(checked_request("x".repeat(LARGEST_REQUEST)).is_ok());
        let error = checked_request("x".repeat(LARGEST_REQUEST + 1)).unwrap_err();
        assert_eq!(error.sqlstate(), "PT413");
    }
}
