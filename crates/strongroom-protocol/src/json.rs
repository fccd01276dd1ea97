//! JSON objects that are kept as they came, once it is certain that any reader can read them.

use std::{borrow::Cow, fmt};

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use crate::limits::OBJECT_DEPTH_MAX;

/// The text of one JSON object, kept byte for byte.
///
/// `session_data` and `auth_data` are not ours to interpret, and a restore hands all of them out in
/// one document: one that a strict reader stumbles over would spoil the whole restore. So nothing
/// becomes an `Object` that has lone surrogates, numbers beyond a double, one key twice, or nests
/// deeper than [`OBJECT_DEPTH_MAX`]. (serde_json's `RawValue` lets all of these pass.)
#[derive(Clone, Eq, PartialEq)]
pub struct Object(Box<str>);

/// Why a JSON text is not kept as an [`Object`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadObject {
    /// Another kind of value.
    #[error("is not an object")]
    NotAnObject,
    /// More bytes than allowed.
    #[error("is larger than {bytes_max} bytes")]
    TooLarge {
        /// What is allowed.
        bytes_max: usize,
    },
    /// Not JSON, or JSON that some readers refuse.
    #[error("is not JSON that every reader accepts: {0}")]
    NotStrict(String),
}

impl Object {
    /// Checks the text of a JSON value, of at most `bytes_max` bytes, and keeps a copy.
    pub fn parse(text: &str, bytes_max: usize) -> Result<Self, BadObject> {
        Self::check(text, bytes_max)?;
        Ok(Self(text.into()))
    }

    /// The same without a copy, for a text that is a secret.
    pub fn check(text: &str, bytes_max: usize) -> Result<(), BadObject> {
        if !text.starts_with('{') {
            return Err(BadObject::NotAnObject);
        }
        if text.len() > bytes_max {
            return Err(BadObject::TooLarge { bytes_max });
        }
        check_strict(text).map_err(|error| BadObject::NotStrict(error.to_string()))
    }

    /// The text, as it came.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The size only: who reads a log has no business with a key.
impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({} bytes)", self.0.len())
    }
}

/// Whether `text` is a JSON document by its grammar alone, however odd its values.
pub(crate) fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

fn check_strict(text: &str) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Strict { depth: 0 }.deserialize(&mut deserializer)?;
    deserializer.end()
}

/// Reads any value and keeps nothing. Strings and numbers are read whole, which is where serde_json
/// refuses lone surrogates and overflow.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == OBJECT_DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {OBJECT_DEPTH_MAX}")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inside = self.deeper()?;
        while seq.next_element_seed(inside)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inside = self.deeper()?;
        let mut keys = Vec::new();
        while let Some(key) = map.next_key_seed(Text)? {
            keys.push(key);
            map.next_value_seed(inside)?;
        }
        // Sorted at the end, since a set for each of these small objects would cost more.
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair.first() == pair.last()) {
            Some(_) => Err(A::Error::custom("one key stands twice in an object")),
            None => Ok(()),
        }
    }
}

/// A string, borrowed from the input where it has no escapes.
pub(crate) struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn nested(depth: usize) -> String {
        format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1))
    }

    #[test]
    fn what_a_strict_reader_refuses_is_refused() {
        for bad in [
            r#"{"a":"\ud800"}"#,
            r#"{"a":"\udc00\ud800"}"#,
            r#"{"\ud800":1}"#,
            r#"{"a":1e400}"#,
            r#"{"a":-1e400}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"a":[{"b":{},"c":0,"b":{}}]}"#,
            "{\"a\":\"\u{1}\"}",
            r#"{"a":01}"#,
            r#"{"a":NaN}"#,
            r#"{"a":1,}"#,
            r#"{} {}"#,
            &nested(OBJECT_DEPTH_MAX + 1),
            &nested(100_000),
        ] {
            let shown: String = bad.chars().take(40).collect();
            assert!(
                matches!(Object::parse(bad, usize::MAX), Err(BadObject::NotStrict(_))),
                "{shown}"
            );
        }
    }

    #[test]
    fn what_is_merely_unusual_is_kept_to_the_byte() {
        for good in [
            "{}",
            r#"{"":null,"__proto__":{"constructor":[]}}"#,
            r#"{"n":123456789012345678901234567890,"f":-0.0,"e":1E+2,"tiny":1e-400}"#,
            r#"{"nul":"\u0000","emoji":"😀","escaped":"\ud83d\ude00\/"}"#,
            "{ \"spaces\" :\t[ 1 ,\n2 ] }",
            &nested(OBJECT_DEPTH_MAX),
        ] {
            assert_eq!(Object::parse(good, usize::MAX).unwrap().as_str(), good);
        }
    }

    #[test]
    fn other_values_and_large_objects_are_named_as_such() {
        for value in ["null", "[]", "\"{}\"", "1", ""] {
            assert_eq!(Object::parse(value, usize::MAX), Err(BadObject::NotAnObject), "{value:?}");
        }
        assert!(Object::parse(r#"{"a":1}"#, 7).is_ok());
        assert_eq!(Object::parse(r#"{"a":1}"#, 6), Err(BadObject::TooLarge { bytes_max: 6 }));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_filter_map("JSON has no NaN", |f| f.is_finite().then(|| json!(f))),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::hash_map(".*", inner, 0..8)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Whatever serde_json can hold as a value, it may also be sent to us.
        #[test]
        fn every_object_that_a_json_library_writes_is_kept(value in value()) {
            let text = json!({ "value": value }).to_string();
            let kept = Object::parse(&text, usize::MAX).unwrap();
            prop_assert_eq!(kept.as_str(), &text);
        }

        /// What is kept, a strict reader reads, also as a part of a larger document.
        #[test]
        fn whatever_is_kept_can_be_read(text in r#"\{"a":[\[\]{}0-9eE.\\u"a-d,:+-]{0,20}\}"#) {
            if Object::parse(&text, usize::MAX).is_ok() {
                let document = format!(r#"{{"rooms":{{"!r":{{"sessions":{{"s":{text}}}}}}}}}"#);
                prop_assert!(serde_json::from_str::<Value>(&document).is_ok(), "{}", text);
            }
        }
    }
}
