//! Tags of a call: words of the caller's own by which it is found again in sums, reports and budgets.

use crate::core::model::is_hidden;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

/// Most tags of a call.
pub const MOST: usize = 8;
/// Most bytes of a tag.
pub const LONGEST: usize = 64;

/// By what a call is found again, beside its user and its model: the gateway key that it came with, and its tags.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    pub gateway_key: Option<Uuid>,
    /// Checked, each once.
    pub tags: Vec<String>,
}

/// One of them, as the sums know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label<'a> {
    Key(Uuid),
    Tag(&'a str),
}

impl Labels {
    /// `None`: a call has neither, and costs nothing more.
    pub fn of(gateway_key: Option<Uuid>, tags: &[String]) -> Option<Arc<Self>> {
        let is_any = gateway_key.is_some() || !tags.is_empty();
        is_any.then(|| Arc::new(Self { gateway_key, tags: tags.to_vec() }))
    }

    /// Each once, whatever they were read from.
    pub fn each(&self) -> impl Iterator<Item = Label<'_>> {
        let tags = self.tags.iter().enumerate();
        let tags = tags.filter(|(i, tag)| !self.tags[..*i].contains(tag));
        self.gateway_key.map(Label::Key).into_iter().chain(tags.map(|(_, tag)| Label::Tag(tag)))
    }

    /// The tags as PostgreSQL reads an array of texts. `None`: there are none.
    pub fn array(&self) -> Option<String> {
        if self.tags.is_empty() {
            return None;
        }
        let mut array = String::from("{");
        for (i, tag) in self.tags.iter().enumerate() {
            array.push_str(if i == 0 { "\"" } else { ",\"" });
            for c in tag.chars() {
                if matches!(c, '"' | '\\') {
                    array.push('\\');
                }
                array.push(c);
            }
            array.push('"');
        }
        array.push('}');
        Some(array)
    }
}

impl Label<'_> {
    /// As aggregator_usage_labels names it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Tag(_) => "tag",
        }
    }

    pub fn name(&self) -> String {
        match self {
            Self::Key(id) => id.to_string(),
            Self::Tag(tag) => (*tag).to_owned(),
        }
    }
}

/// What is wrong with a text that is to be the tag of a rule: of a call it would be another one, or none.
pub fn problem(tag: &str) -> Option<&'static str> {
    if tag.is_empty() {
        Some("is empty")
    } else if tag.len() > LONGEST {
        Some("is longer than 64 bytes")
    } else if checked([tag]).is_none_or(|checked| checked != [tag]) {
        Some("has spaces around it, or a character that cannot be seen")
    } else {
        None
    }
}

/// Tags without the spaces around them, each once. `None`: they are too many, or one is empty, too long, or has a
/// character that does not show.
pub fn checked(tags: impl IntoIterator<Item = impl AsRef<str>>) -> Option<Vec<String>> {
    let mut checked: Vec<String> = Vec::new();
    for tag in tags {
        let tag = tag.as_ref().trim();
        if tag.is_empty() || tag.len() > LONGEST || tag.contains(|c| c != ' ' && is_hidden(c)) {
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
    fn the_tag_of_a_rule_is_one_that_a_call_can_have() {
        for tag in ["a", "team a", "é", "a,b", "\"{}\\"] {
            assert_eq!(problem(tag), None, "{tag}");
            assert_eq!(checked([tag]).unwrap(), [tag]);
        }
        let long = "x".repeat(LONGEST + 1);
        for tag in ["", " ", " a", "a ", "a\n", "a\u{200b}", long.as_str()] {
            assert!(problem(tag).is_some(), "{tag:?}");
        }
    }

    #[test]
    fn labels_are_there_only_where_a_call_has_some() {
        assert_eq!(Labels::of(None, &[]), None);
        let tags = ["b".to_owned(), "a".to_owned(), "b".to_owned()];
        let labels = Labels::of(Some(Uuid::nil()), &tags).unwrap();
        let each: Vec<_> = labels.each().map(|label| (label.kind(), label.name())).collect();
        let key = "00000000-0000-0000-0000-000000000000".to_owned();
        assert_eq!(each, [("key", key), ("tag", "b".into()), ("tag", "a".into())]);
        assert_eq!(Labels::of(Some(Uuid::nil()), &[]).unwrap().array(), None);
    }

    #[test]
    fn tags_are_an_array_of_postgresqls_whatever_is_in_them() {
        let array = |tags: &[&str]| {
            let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
            Labels::of(None, &tags).unwrap().array().unwrap()
        };
        assert_eq!(array(&["a", "b c"]), r#"{"a","b c"}"#);
        assert_eq!(array(&["NULL", "{}", "a,b"]), r#"{"NULL","{}","a,b"}"#);
        assert_eq!(array(&[r#"a"b\c"#]), r#"{"a\"b\\c"}"#);
    }

    #[test]
    fn a_header_has_commas_between_them() {
        assert_eq!(of_header("team-a, b c,,team-a ").unwrap(), ["team-a", "b c"]);
        assert_eq!(of_header("").unwrap(), [""; 0]);
        assert_eq!(of_header("a,b\u{7f}"), None);
    }
}
