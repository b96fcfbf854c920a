//! Secrets that say nothing: gateway keys, and the codes and tokens of the console.
//!
//! Each is its prefix, 43 digits of base 62 that hold 256 random bits, and six digits of a CRC-32 of what is before
//! them. By the checksum one that is mistyped or invented is refused without a question to the database, and
//! scanners of source code find lost ones without a question to anybody (as GitHub's tokens have it). Only the
//! SHA-256 is stored: against 256 random bits a slow hash would protect nothing, and cost everybody who calls.

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Random bytes that one is made of.
pub const RANDOM_BYTES: usize = 32;
/// Base 62 digits of 256 bits.
const SECRET_DIGITS: usize = 43;
/// Base 62 digits of 32 bits.
const CHECK_DIGITS: usize = 6;
/// Characters of its end that its owner sees: all of them of the checksum.
const HINT: usize = 4;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What tells one kind from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    pub prefix: &'static str,
}

impl Form {
    const fn checked(self) -> usize {
        self.prefix.len() + SECRET_DIGITS
    }

    /// Bytes of one.
    const fn len(self) -> usize {
        self.checked() + CHECK_DIGITS
    }
}

/// By this one is stored and looked up: its SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; 32]);

/// One that was just made: the only time that it is known. Wiped when dropped; never printed.
pub struct Made {
    pub text: Zeroizing<String>,
    pub hash: Hash,
    /// Its last characters, to tell it from others.
    pub hint: String,
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Made(…{})", self.hint)
    }
}

/// What these random bytes make. It is as secret as they are.
pub fn make(form: Form, random: &[u8; RANDOM_BYTES]) -> Made {
    // Its size from the start, so that no copy of it is left where it grew.
    let mut text = Zeroizing::new(String::with_capacity(form.len()));
    text.push_str(form.prefix);
    let digits = Zeroizing::new(digits::<SECRET_DIGITS>(random));
    text.extend(digits.iter().map(|digit| char::from(*digit)));
    let check = checksum(text.as_bytes());
    text.extend(check.map(char::from));
    let hint = text.chars().skip(form.len() - HINT).collect();
    Made { hash: hash(text.as_bytes()), hint, text }
}

/// What it is looked up by, if it can be one. `None`: it was never made.
pub fn read(form: Form, text: &[u8]) -> Option<Hash> {
    let (checked, check) = text.split_at_checked(form.checked())?;
    let secret = checked.strip_prefix(form.prefix.as_bytes())?;
    let is_made = secret.iter().all(u8::is_ascii_alphanumeric) && check == checksum(checked);
    is_made.then(|| hash(text))
}

fn hash(text: &[u8]) -> Hash {
    Hash(Sha256::digest(text).into())
}

fn checksum(checked: &[u8]) -> [u8; CHECK_DIGITS] {
    digits(&crc32fast::hash(checked).to_be_bytes())
}

/// A number, written big end first in bytes, in so many digits of base 62. They must be enough for it.
fn digits<const N: usize>(number: &[u8]) -> [u8; N] {
    let mut rest = Zeroizing::new(number.to_vec());
    let mut out = [DIGITS[0]; N];
    for place in out.iter_mut().rev() {
        let mut left = 0;
        for byte in rest.iter_mut() {
            let value = left << 8 | usize::from(*byte);
            // Less than 256, because what is left is less than 62.
            *byte = (value / DIGITS.len()) as u8;
            left = value % DIGITS.len();
        }
        *place = DIGITS[left];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: Form = Form { prefix: "agk_" };
    const CHECKED: usize = FORM.checked();
    const MOST: &str = "yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp1";

    #[test]
    fn one_has_its_form() {
        let made = make(FORM, &[0; 32]);
        assert_eq!(&made.text[..CHECKED], format!("agk_{}", "0".repeat(43)));
        assert_eq!((made.text.len(), FORM.len()), (53, 53));
        // 2^256 - 1 in base 62, by another way of reckoning.
        let made = make(FORM, &[0xff; 32]);
        assert_eq!(&made.text[4..CHECKED], MOST);
        let mut one = [0; 32];
        one[31] = 62;
        assert_eq!(&make(FORM, &one).text[4..CHECKED], format!("{}10", "0".repeat(41)));
        // The check value of CRC-32.
        assert_eq!(checksum(b"123456789"), digits::<6>(&0xcbf4_3926_u32.to_be_bytes()));
        assert_eq!(&digits::<6>(&[0xff; 4]), b"4gfFC3");
    }

    #[test]
    fn what_was_made_is_read_and_nothing_near_it() {
        let made = make(FORM, &std::array::from_fn(|i| i as u8 * 7));
        let text = made.text.as_bytes();
        assert_eq!(read(FORM, text), Some(made.hash));
        assert_eq!(made.hash.0, <[u8; 32]>::from(Sha256::digest(text)));
        assert!(made.text.ends_with(&made.hint) && made.hint.len() == 4);
        for place in 0..text.len() {
            for byte in [b'0', b'Z', b'a', b'-', b'_', b' ', 0, 0xff] {
                let mut other = text.to_vec();
                other[place] = byte;
                assert_eq!(read(FORM, &other).is_some(), other == text, "{place} {byte}");
            }
            assert_eq!(read(FORM, &text[..place]), None);
            assert_eq!(read(FORM, &text[place + 1..]), None);
        }
        for other in
            [made.text.to_uppercase(), format!("{}0", *made.text), format!(" {}", *made.text)]
        {
            assert_eq!(read(FORM, other.as_bytes()), None, "{other}");
        }
        // A checksum that is right does not make up for digits that are none.
        let mut other = b"agk_".to_vec();
        other.extend([b'-'; SECRET_DIGITS]);
        let check = checksum(&other);
        other.extend(check);
        assert_eq!(read(FORM, &other), None);
    }

    #[test]
    fn one_is_never_another_kind_and_is_not_printed() {
        let made = make(FORM, &[9; 32]);
        let other = Form { prefix: "ags_" };
        assert_eq!(read(other, made.text.as_bytes()), None);
        assert_eq!(read(other, made.text.replace("agk_", "ags_").as_bytes()), None);
        assert_eq!(format!("{made:?}"), format!("Made(…{})", made.hint));
    }

    proptest::proptest! {
        #[test]
        fn no_two_are_one(a in proptest::array::uniform32(0u8..), b in proptest::array::uniform32(0u8..)) {
            let (one, other) = (make(FORM, &a), make(FORM, &b));
            proptest::prop_assert_eq!(a == b, *one.text == *other.text);
            proptest::prop_assert_eq!(read(FORM, one.text.as_bytes()), Some(one.hash));
        }

        #[test]
        fn nothing_from_outside_panics(bytes in proptest::collection::vec(0u8.., 0..70)) {
            proptest::prop_assert_eq!(read(FORM, &bytes), None);
        }
    }
}
