//! A List in JSON, item by item: what `kubectl get -o json` prints of a whole cluster never stands in memory as one tree, which would
//! be ten times its text, and stay with the allocator.
//!
//! Owns what can be told of a JSON value before it is read. It refuses to know objects. Invariant: an item is handed on and dropped
//! before the next one is read.

use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::Value;

/// What a JSON value is, as far as it matters before it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    api_version: Option<String>,
    kind: Option<String>,
    /// How often `items` is a list.
    lists: usize,
    /// How often `items` is there.
    items: usize,
}

impl Head {
    /// `apiVersion` and `kind` of the items, empty if each has its own; `None` if it is no List, or an odd one.
    pub(super) fn list(&self) -> Option<(&str, &str)> {
        let kind = self.kind.as_deref()?.strip_suffix("List")?;
        let version = self.api_version.as_deref().unwrap_or_default();
        (self.items == 1 && self.lists == 1).then_some((version, kind))
    }
}

/// Reads the items of a List one by one.
///
/// # Errors
/// What the parser refuses; [`Head`] has seen the same text before.
pub(super) fn for_each_item(
    text: &str,
    visit: &mut dyn FnMut(usize, &Value),
) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Items(visit).deserialize(&mut deserializer)
}

impl<'de> Deserialize<'de> for Head {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HeadVisitor)
    }
}

struct HeadVisitor;

/// Anything but an object has no head.
macro_rules! headless {
    ($($method:ident: $type:ty),+) => { $(
        fn $method<E>(self, _: $type) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
    )+ };
}

impl<'de> Visitor<'de> for HeadVisitor {
    type Value = Head;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    headless! { visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str }

    fn visit_unit<E>(self) -> Result<Head, E> {
        Ok(Head::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Head, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Head::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Head, A::Error> {
        let mut head = Head::default();
        let text = |value: Value| value.as_str().map(ToOwned::to_owned);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "apiVersion" => head.api_version = text(map.next_value()?),
                "kind" => head.kind = text(map.next_value()?),
                "items" => {
                    head.items += 1;
                    head.lists += usize::from(map.next_value::<IsList>()?.0);
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(head)
    }
}

/// Whether a value is a list.
#[derive(Default)]
struct IsList(bool);

impl<'de> Deserialize<'de> for IsList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IsListVisitor)
    }
}

struct IsListVisitor;

impl<'de> Visitor<'de> for IsListVisitor {
    type Value = IsList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    headless! { visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str }

    fn visit_unit<E>(self) -> Result<IsList, E> {
        Ok(IsList(false))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<IsList, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(IsList(true))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<IsList, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(IsList(false))
    }
}

/// The items of a List, or the List itself.
struct Items<'a>(&'a mut dyn FnMut(usize, &Value));

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a List")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                map.next_value_seed(Items(&mut *self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(item) = seq.next_element::<Value>()? {
            (self.0)(index, &item);
            index += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head {
        serde_json::from_str(text).expect("JSON")
    }

    #[test]
    fn only_what_is_a_list_without_doubt_is_read_item_by_item() {
        let list = head(
            r#"{"apiVersion": "v1", "items": [{"kind": "Node"}], "kind": "List", "metadata": {}}"#,
        );
        assert_eq!(list.list(), Some(("v1", "")));
        let typed = head(r#"{"kind": "NodeList", "items": []}"#);
        assert_eq!(typed.list(), Some(("", "Node")));
        for other in [
            "null",
            "[1, [2]]",
            "\"List\"",
            "-1",
            "1.5",
            "true",
            r#"{"kind": "Service", "items": []}"#,
            r#"{"kind": ["List"], "items": []}"#,
            r#"{"kind": "List"}"#,
            r#"{"kind": "List", "items": null}"#,
            r#"{"kind": "List", "items": {"a": 1}}"#,
            r#"{"kind": "List", "items": [], "items": []}"#,
        ] {
            assert_eq!(head(other).list(), None, "{other}");
        }
    }

    #[test]
    fn items_come_in_order_with_their_index() {
        let mut seen = Vec::new();
        let text = r#"{"items": [1, {"items": [2]}, null], "kind": "List"}"#;
        for_each_item(text, &mut |index, item| {
            seen.push((index, item.to_string()));
        })
        .expect("JSON");
        let wanted = [(0, "1"), (1, r#"{"items":[2]}"#), (2, "null")];
        assert_eq!(seen, wanted.map(|(index, text)| (index, text.to_owned())));
    }
}
