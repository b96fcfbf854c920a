//! The key of a row with an AI column: the texts of its values. They are what casts to text give, with ISO dates, in
//! UTC, and bytes in hexadecimal, so that a value has one text wherever it is read.

use crate::error::Error;

/// Of a key, in bytes: it is part of an index.
const LONGEST_KEY: usize = 2000;

/// `pg_type.dat`: types whose output function gives something else than a cast to text.
const BOOL: u32 = 16;
const BPCHAR: u32 = 1042;
/// Types whose text depends on settings: bytea, date, timestamp, timestamptz.
const BY_SETTINGS: [u32; 4] = [17, 1082, 1114, 1184];

/// How the text that a type's output function gives becomes that of a cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    AsItIs,
    /// `t` and `f`.
    AsLetter,
    /// Filled up with spaces.
    Padded,
    /// As it is, under settings that do not change.
    BySettings,
}

/// Of a type, by its oid.
pub fn written(base: u32) -> Written {
    match base {
        BOOL => Written::AsLetter,
        BPCHAR => Written::Padded,
        other if BY_SETTINGS.contains(&other) => Written::BySettings,
        _ => Written::AsItIs,
    }
}

impl Written {
    pub fn as_cast(self, text: String) -> String {
        match self {
            Self::AsItIs | Self::BySettings => text,
            Self::AsLetter => (if text == "t" { "true" } else { "false" }).to_owned(),
            Self::Padded => text.trim_end_matches(' ').to_owned(),
        }
    }
}

/// A key that can be kept.
pub fn check_key(texts: &[String]) -> Result<(), Error> {
    match texts.iter().map(String::len).sum::<usize>() > LONGEST_KEY {
        true => Err(Error::bad_request_hint(
            format!("the key of a row with an AI column is longer than {LONGEST_KEY} bytes"),
            "Rows with such keys need another primary key, or their table no AI column.",
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_casts() {
        for (base, text, cast) in [
            (BOOL, "t", "true"),
            (BOOL, "f", "false"),
            (BPCHAR, "a b  ", "a b"),
            (1184, "2026-01-02 03:04:05+00", "2026-01-02 03:04:05+00"),
            (25, "t ", "t "),
        ] {
            assert_eq!(written(base).as_cast(text.to_owned()), cast);
        }
        assert_eq!(written(1082), Written::BySettings);
        assert_eq!(written(20), Written::AsItIs);
    }

    #[test]
    fn a_key_has_a_largest_size() {
        let key = |bytes: usize| vec!["x".repeat(bytes), String::new()];
        assert_eq!(check_key(&key(LONGEST_KEY)), Ok(()));
        assert_eq!(check_key(&key(LONGEST_KEY + 1)).unwrap_err().sqlstate(), "PT400");
    }
}
