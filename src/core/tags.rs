//! Tags of a call: words of the caller's own by which it is found again in sums, reports and budgets.

use crate::core::model::is_hidden;

/// Most tags of a call.
pub const MOST: usize = 8;
/// Most bytes of a tag.
pub const LONGEST: usize = 64;

/// Tags without the spaces around them, each once. `None`: they are too many, or one is empty, too long, or has a
/// character that does not show.
pub fn checked(tags: impl IntoIterator<Item = impl AsRef<str>>) -> Option<Vec<String>> {
    let mut checked: Vec<String> = Vec::new();
    for tag in tags {
        let tag = tag.as_ref().trim();
        let shows = !tag.contains(|c| c != ' ' && is_hidden(c));
        if tag.is_empty() || tag.len() > LONGEST || !shows {
            return None;
        }
        if checked.iter().any(|known| known == tag) {
            continue;
        }
        if checked.len() == MOST {
            return None;
        }
        checked.push(tag.to_owned());
    }
    Some(checked)
}

/// The tags of a header, with commas between them.
pub fn of_header(value: &str) -> Option<Vec<String>> {
    checked(value.split(',').filter(|tag| !tag.trim().is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_few_short_and_can_be_seen() {
        assert_eq!(checked([" a ", "b c", "a"]).unwrap(), ["a", "b c"]);
        assert_eq!(checked(Vec::<String>::new()).unwrap(), [""; 0]);
        let eight = ["1", "2", "3", "4", "5", "6", "7", "8"];
        assert_eq!(checked(eight).unwrap(), eight);
        // The same one again is no ninth.
        assert!(checked(eight.iter().chain(&["8"])).is_some());
        assert!(checked(eight.iter().chain(&["9"])).is_none());
        assert!(checked(["é".repeat(32)]).is_some() && checked(["é".repeat(33)]).is_none());
        for bad in ["", "  ", "a\nb", "a\tb", "a\u{200b}b", "\0"] {
            assert_eq!(checked([bad]), None, "{bad:?}");
        }
    }

    #[test]
    fn a_header_has_commas_between_them() {
        assert_eq!(of_header("team-a, b c,,team-a ").unwrap(), ["team-a", "b c"]);
        assert_eq!(of_header("").unwrap(), [""; 0]);
        assert_eq!(of_header("a,b\u{7f}"), None);
    }
}
