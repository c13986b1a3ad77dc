//! The values of a data.yaml, as people write them. Each has a type of its own, so that an error keeps its line and its
//! reason. Texts, numbers and truth values are taken as they stand: a class may be called `1.10`, `no` or `2024-01-01`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A text, a number or a truth value, exactly as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plain(pub String);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, |text| Ok(Self(text.to_owned())))
    }
}

/// What `parse` makes of a text. Asked for a text, YAML's readers give any scalar as it was written; an error within has
/// its place.
fn from_text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    struct One<T>(fn(&str) -> Result<T, String>);
    impl<T> Visitor<'_> for One<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("one text, with no list or map in its place")
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            self.0(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_str(One(parse))
}

/// A whole number, in quotes or not, `2.0` too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count(pub usize);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, |text| {
            let number = text.trim();
            let whole = number.strip_suffix(".0").unwrap_or(number).parse();
            whole.map(Self).map_err(|_| format!("`{text}` is not a whole number from 0"))
        })
    }
}

/// Folders, lists or patterns: one, or several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entries(pub Vec<String>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Entries;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a folder, a .txt file, or a list of these")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Entries, E> {
                // `test: ` with nothing behind it means that there is none.
                Ok(Entries(
                    Some(text.to_owned()).into_iter().filter(|text| !text.trim().is_empty()).collect(),
                ))
            }
            fn visit_unit<E: Error>(self) -> Result<Entries, E> {
                Ok(Entries::default())
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Entries, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Entries, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Entries, A::Error> {
                let mut found = Vec::new();
                while let Some(Plain(entry)) = entries.next_element()? {
                    found.push(entry);
                }
                found.retain(|entry| !entry.trim().is_empty());
                Ok(Entries(found))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

/// Class names by id, numbered from 0 without gaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names(pub Vec<String>);

/// A class id, in quotes or not.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Id(u32);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, |text| {
            let id = text.trim().parse().map(Self);
            id.map_err(|_| format!("`{text}` is no class id; write whole numbers from 0, as in `0: first`"))
        })
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("class names as a list, `[first, second]`, or as a map from class id to name, `{0: first, 1: second}`")
    }

    fn visit_unit<E: Error>(self) -> Result<Names, E> {
        Ok(Names::default())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Names, E> {
        let glued = text
            .split_once(':')
            .is_some_and(|(id, name)| id.trim().parse::<u32>().is_ok() && !name.starts_with(' '));
        Err(E::custom(if glued {
            format!("`{text}` is one text; write a blank behind each colon: `0: first`")
        } else {
            let list = text.split(',').map(str::trim).collect::<Vec<_>>().join(", ");
            format!("`{text}` is one text; write a list: `names: [{list}]`")
        }))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Names, A::Error> {
        let mut found = Vec::new();
        while let Some(Plain(name)) = names.next_element()? {
            found.push(named(found.len(), name)?);
        }
        Ok(Names(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut names: A) -> Result<Names, A::Error> {
        let mut found = BTreeMap::new();
        while let Some((Id(id), Plain(name))) = names.next_entry()? {
            let name = named(id, name)?;
            if let Some(other) = found.insert(id, name.clone()) {
                return Err(A::Error::custom(format!(
                    "class {id} has two names, `{other}` and `{name}`; remove one"
                )));
            }
        }
        let (count, first) = (found.len(), found.keys().next().copied());
        match (0..).zip(found.keys()).find(|(expected, id)| expected != *id) {
            None => Ok(Names(found.into_values().collect())),
            Some((0, _)) if first == Some(1) => Err(A::Error::custom(format!(
                "the classes are numbered from 1; number them from 0, as label files do: 0 to {}",
                count - 1
            ))),
            Some((missing, _)) => Err(A::Error::custom(format!(
                "{count} names, but no class {missing}; number the classes from 0 without gaps"
            ))),
        }
    }
}

/// A class's name, which it must have.
fn named<E: Error>(id: impl fmt::Display, name: String) -> Result<String, E> {
    if name.trim().is_empty() {
        return Err(E::custom(format!("class {id} has no name; write one, in quotes if it is odd")));
    }
    Ok(name)
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamesVisitor)
    }
}

/// Keypoints of an object and numbers of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeypointShape(pub [usize; 2]);

impl<'de> Deserialize<'de> for KeypointShape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;
        impl<'de> Visitor<'de> for Numbers {
            type Value = KeypointShape;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the number of keypoints and 2 or 3 numbers for each: `kpt_shape: [17, 3]`")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<KeypointShape, A::Error> {
                let mut found = Vec::new();
                while let Some(Count(number)) = numbers.next_element()? {
                    found.push(number);
                }
                match found[..] {
                    [points @ 1..=10_000, each @ 2..=3] => Ok(KeypointShape([points, each])),
                    _ => Err(A::Error::custom(format_args!(
                        "{found:?} is not the number of keypoints and 2 or 3 numbers for each: `kpt_shape: [17, 3]`"
                    ))),
                }
            }
        }
        deserializer.deserialize_any(Numbers)
    }
}
