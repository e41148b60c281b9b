//! Parts of a runtime's files that are kept within bounds, however large they are in the file.
//!
//! What does not fit is passed over while the file is parsed, so that it is never held; each part says that it was cut.

use std::collections::BTreeMap;
use std::fmt;

use dogwatch_schemas::Text;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Bytes kept of a single text.
pub(super) const TEXT_BYTES_MAX: usize = 4_096;
/// Bytes kept of a list, the arguments of a program: as much as the kernel part takes of an exec.
const LIST_BYTES_MAX: usize = 32 << 10;
/// Bytes kept of a map, names and values.
const MAP_BYTES_MAX: usize = 64 << 10;
/// What an entry takes beside its bytes.
const ENTRY_BYTES: usize = 64;

/// A text of at most [`TEXT_BYTES_MAX`].
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Line {
    pub text: Text,
    pub cut: bool,
}

/// Texts that take at most [`LIST_BYTES_MAX`] together; whole ones, as many as fit.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct List {
    pub items: Vec<Text>,
    pub cut: bool,
}

/// Names and values that take at most [`MAP_BYTES_MAX`] together.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Map {
    pub entries: BTreeMap<Text, Text>,
    pub cut: bool,
}

/// Reads, of the map at `path` in a file, the entries of these names alone; a map that is not there has none.
#[derive(Clone, Copy)]
pub(super) struct Named<'a> {
    pub path: &'a [&'a str],
    pub names: &'a [Text],
}

/// Of a map of texts the entries of these names, whole: all values up to [`TEXT_BYTES_MAX`], and of larger ones as many as fit
/// into [`MAP_BYTES_MAX`]. Of the others as many as fit into that, too.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen<'a>(pub &'a [&'a str]);

/// What [`Chosen`] found.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Entries {
    pub named: BTreeMap<Text, Text>,
    pub others: Map,
    /// One of these names had no room.
    pub cut: bool,
}

/// Values of a map or of a list, at most [`MAP_BYTES_MAX`] together.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Values<T> {
    pub items: Vec<T>,
    pub cut: bool,
}

impl<T> Default for Values<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            cut: false,
        }
    }
}

/// What a value of a bounded map says of itself.
pub(super) trait Measured {
    fn bytes(&self) -> usize;
    fn whole(&self) -> bool;
}

fn line(text: &str, bytes_max: usize) -> Line {
    let end = text.floor_char_boundary(bytes_max);
    Line {
        text: text[..end].into(),
        cut: end < text.len(),
    }
}

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Cutting;
        impl Visitor<'_> for Cutting {
            type Value = Line;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Line, E> {
                Ok(line(text, TEXT_BYTES_MAX))
            }
        }
        deserializer.deserialize_str(Cutting)
    }
}

/// A text of a list: whole, or none at all, since half an argument is another argument.
struct Item(Option<Text>);

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl Visitor<'_> for Whole {
            type Value = Item;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Item, E> {
                Ok(Item((text.len() <= LIST_BYTES_MAX).then(|| text.into())))
            }
        }
        deserializer.deserialize_str(Whole)
    }
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = List;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of texts")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<List, A::Error> {
                let mut list = List::default();
                let mut bytes = 0;
                while let Some(Item(item)) = items.next_element()? {
                    bytes += item.as_ref().map_or(LIST_BYTES_MAX, |item| item.len());
                    list.cut |= bytes + list.items.len() * ENTRY_BYTES >= 2 * LIST_BYTES_MAX
                        || bytes > LIST_BYTES_MAX;
                    if !list.cut {
                        list.items.extend(item);
                    }
                }
                Ok(list)
            }
        }
        deserializer.deserialize_seq(Items)
    }
}

impl<'de> Deserialize<'de> for Map {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Map;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a map of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Map, A::Error> {
                let mut map = Map::default();
                let mut bytes = 0;
                while let Some((name, value)) = entries.next_entry::<Line, Line>()? {
                    let entry_bytes = name.text.len() + value.text.len() + ENTRY_BYTES;
                    // A cut name is another name.
                    if name.cut || bytes + entry_bytes > MAP_BYTES_MAX {
                        map.cut = true;
                        continue;
                    }
                    bytes += entry_bytes;
                    map.cut |= value.cut;
                    map.entries.insert(name.text, value.text);
                }
                Ok(map)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl<'de> DeserializeSeed<'de> for Named<'_> {
    type Value = BTreeMap<Text, Text>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Named<'_> {
    type Value = BTreeMap<Text, Text>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = BTreeMap::new();
        while let Some(Line { text: name, cut }) = map.next_key()? {
            match self.path.split_first() {
                Some((first, path)) if *name == **first => {
                    found = map.next_value_seed(Self { path, ..self })?;
                }
                None if !cut && self.names.contains(&name) => {
                    found.insert(name, map.next_value::<Line>()?.text);
                }
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(found)
    }
}

impl<'de> DeserializeSeed<'de> for Chosen<'_> {
    type Value = Entries;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Entries, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Chosen<'_> {
    type Value = Entries;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a map of texts")
    }

    fn visit_unit<E>(self) -> Result<Entries, E> {
        Ok(Entries::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut found = Entries::default();
        let (mut large_bytes, mut bytes) = (0, 0);
        while let Some(Line { text: name, cut }) = map.next_key()? {
            if !cut && self.0.contains(&&*name) {
                let Item(value) = map.next_value()?;
                // What is large must not take the room of names.
                let fits = |value: &Text| {
                    let large = value.len() > TEXT_BYTES_MAX;
                    let room = !large || large_bytes + value.len() <= MAP_BYTES_MAX;
                    large_bytes += if large && room { value.len() } else { 0 };
                    room
                };
                match value.filter(fits) {
                    Some(value) => _ = found.named.insert(name, value),
                    None => found.cut = true,
                }
                continue;
            }
            let value: Line = map.next_value()?;
            bytes += name.len() + value.text.len() + ENTRY_BYTES;
            if cut || value.cut || bytes > MAP_BYTES_MAX {
                found.others.cut = true;
                continue;
            }
            found.others.entries.insert(name, value.text);
        }
        Ok(found)
    }
}

impl<'de, T: Deserialize<'de> + Measured> Deserialize<'de> for Values<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Measured> Visitor<'de> for Each<T> {
            type Value = Values<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a map or a list")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Values<T>, A::Error> {
                let mut values = Values::default();
                let mut bytes = 0;
                while let Some((IgnoredAny, value)) = map.next_entry::<IgnoredAny, T>()? {
                    values.take(value, &mut bytes);
                }
                Ok(values)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Values<T>, A::Error> {
                let mut values = Values::default();
                let mut bytes = 0;
                while let Some(value) = list.next_element::<T>()? {
                    values.take(value, &mut bytes);
                }
                Ok(values)
            }
        }
        deserializer.deserialize_any(Each(std::marker::PhantomData))
    }
}

impl<T: Measured> Values<T> {
    /// Keeps a value if there is room after these bytes.
    fn take(&mut self, value: T, bytes: &mut usize) {
        let value_bytes = value.bytes() + ENTRY_BYTES;
        if !value.whole() || *bytes + value_bytes > MAP_BYTES_MAX {
            self.cut = true;
            return;
        }
        *bytes += value_bytes;
        self.items.push(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_on_a_character() {
        let line: Line = serde_json::from_str(&format!("\"a{}\"", "ü".repeat(5_000))).unwrap();
        assert!(line.cut);
        assert_eq!(line.text.len(), 4_095);
        let line: Line = serde_json::from_str("\"whole\"").unwrap();
        assert_eq!((&*line.text, line.cut), ("whole", false));
    }

    #[test]
    fn a_list_holds_whole_texts_as_long_as_they_fit() {
        let list: List = serde_json::from_str(r#"["a", "", "b"]"#).unwrap();
        assert_eq!((list.items.len(), list.cut), (3, false));
        let long = "x".repeat(20 << 10);
        let list: List =
            serde_json::from_str(&format!(r#"["a", "{long}", "{long}", "b"]"#)).unwrap();
        assert_eq!((list.items.len(), list.cut), (2, true));
        let empty = vec![""; 100_000];
        let list: List = serde_json::from_str(&serde_json::to_string(&empty).unwrap()).unwrap();
        assert!(list.cut && list.items.len() <= 1_024);
    }

    #[test]
    fn a_map_of_any_size_takes_its_bytes_and_no_more() {
        let labels: BTreeMap<String, String> = (0..40_000)
            .map(|number| (format!("name{number}"), "v".repeat(100)))
            .collect();
        let map: Map = serde_json::from_str(&serde_json::to_string(&labels).unwrap()).unwrap();
        assert!(map.cut);
        let bytes: usize = map
            .entries
            .iter()
            .map(|(name, value)| name.len() + value.len() + ENTRY_BYTES)
            .sum();
        assert!(bytes <= MAP_BYTES_MAX && bytes > MAP_BYTES_MAX / 2);
        let one = format!(r#"{{"a": "{}", "b": "c"}}"#, "x".repeat(1 << 20));
        let map: Map = serde_json::from_str(&one).unwrap();
        assert_eq!(map.entries["a"].len(), TEXT_BYTES_MAX);
        assert_eq!(&*map.entries["b"], "c");
        assert!(map.cut);
    }

    #[test]
    fn chosen_entries_are_whole_however_many_others_there_are() {
        let many: String = (0..40_000)
            .map(|number| format!("\"x{number}\":\"{}\",", "v".repeat(100)))
            .collect();
        let long = "l".repeat(20_000);
        let text = format!(r#"{{{many}"labels":"{long}","type":"sandbox"}}"#);
        let choose = |text: &str| {
            let mut parser = serde_json::Deserializer::from_str(text);
            Chosen(&["labels", "type"])
                .deserialize(&mut parser)
                .unwrap()
        };
        let found = choose(&text);
        assert_eq!(found.named["labels"].len(), 20_000);
        assert_eq!(&*found.named["type"], "sandbox");
        assert!(found.others.cut && !found.cut);
        assert!(found.others.entries.len() < 1_000);
        assert_eq!(choose("null"), Entries::default());
        let huge = format!(r#"{{"labels":"{}","type":"a"}}"#, "l".repeat(1 << 20));
        let found = choose(&huge);
        assert!(found.cut && !found.named.contains_key("labels"));
        assert_eq!(
            &*found.named["type"], "a",
            "what is large takes no other's room"
        );
        let again = format!(r#""labels":"{long}","#).repeat(10);
        let found = choose(&format!(r#"{{{again}"type":"a"}}"#));
        assert!(found.cut && found.named.len() == 2);
    }

    #[test]
    fn entries_are_found_by_their_names_wherever_they_are() {
        let names = ["app".into(), "team".into()];
        let find = |text: &str| {
            let named = Named {
                path: &["Config", "Labels"],
                names: &names,
            };
            let mut parser = serde_json::Deserializer::from_str(text);
            named.deserialize(&mut parser).unwrap_or_default()
        };
        let many = "\"x\":\"app\",".repeat(10_000);
        let found = find(&format!(
            r#"{{"Labels":{{"app":"no"}},"Config":{{"app":"no","Labels":{{{many}"team":"a","app":"{}"}},"X":[]}},"Y":{{}}}}"#,
            "v".repeat(5_000)
        ));
        assert_eq!(found.len(), 2);
        assert_eq!((&*found["team"], found["app"].len()), ("a", TEXT_BYTES_MAX));
        assert!(find("{}").is_empty());
        assert!(find(r#"{"Config":{"Labels":null}}"#).is_empty());
    }
}
