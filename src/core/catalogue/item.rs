//! One entry of a model list, or an object in it: its members, each unread.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// A name or a word, borrowed from the list where nothing in it is escaped.
#[derive(serde::Deserialize)]
pub struct Word<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// Members in the order of the list. There are some dozens at the most of what anybody reads: looking through
/// them takes less than a map of them does to make.
#[derive(Debug, Default)]
pub struct Item<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Item<'a> {
    /// Reads an object. `None`: it is something else.
    pub fn read(raw: &'a RawValue) -> Option<Self> {
        serde_json::from_str(raw.get()).ok()
    }

    /// The member of this name, the last of them if there are several, as JSON readers take it.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rfind(|(key, _)| key == name).map(|(_, raw)| *raw)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The object of this name, empty where there is none.
    pub fn part(&self, name: &str) -> Self {
        self.get(name).and_then(Self::read).unwrap_or_default()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(key, raw)| (key.as_ref(), *raw))
    }
}

impl<'de> Deserialize<'de> for Item<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Item<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item<'de>, A::Error> {
                let mut members = Vec::with_capacity(16);
                while let Some((Word(key), raw)) = map.next_entry()? {
                    members.push((key, raw));
                }
                Ok(Item(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_by_name_and_the_last_of_a_name_counts() {
        let raw: &RawValue =
            serde_json::from_str(r#"{"a":1,"\u0062":{"c":[2]},"a":3,"n":null}"#).unwrap();
        let item = Item::read(raw).unwrap();
        assert_eq!(item.get("a").unwrap().get(), "3");
        assert_eq!(item.part("b").get("c").unwrap().get(), "[2]");
        assert!(item.contains("n") && !item.contains("c"));
        assert!(item.part("a").get("c").is_none());
        assert_eq!(item.iter().count(), 4);
        for other in ["[]", "1", "\"a\"", "null"] {
            assert!(Item::read(serde_json::from_str(other).unwrap()).is_none(), "{other}");
        }
    }
}
