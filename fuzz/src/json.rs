//! JSON as others read it: a strict reader, and one by other hands.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use tinyjson::JsonValue;

/// A document in UTF-8 in which no object has a member twice; `None` if it is none.
pub(crate) fn read(document: &[u8]) -> Option<Value> {
    serde_json::from_slice(document).ok().map(|Strict(value)| value)
}

/// Reads a document of ours, which every reader must be able to read, and to the same value.
pub(crate) fn read_by_all(document: &[u8]) -> Value {
    let shown = String::from_utf8_lossy(document);
    let value = read(document).unwrap_or_else(|| panic!("no strict JSON: {shown}"));
    let other: JsonValue = shown.parse().unwrap_or_else(|error| panic!("{error}: {shown}"));
    assert!(is_same(&value, &other), "two readers differ: {shown}");
    value
}

/// How deep objects and arrays nest; those that hold none have depth 1.
pub(crate) fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn is_same(ours: &Value, other: &JsonValue) -> bool {
    match (ours, other) {
        (Value::Null, JsonValue::Null) => true,
        (Value::Bool(a), JsonValue::Boolean(b)) => a == b,
        // The last digit of a double depends on the reader.
        (Value::Number(a), JsonValue::Number(b)) => {
            a.as_f64().is_some_and(|a| (a - b).abs() <= a.abs() * 1e-15)
        }
        (Value::String(a), JsonValue::String(b)) => a == b,
        (Value::Array(a), JsonValue::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
        }
        (Value::Object(a), JsonValue::Object(b)) => {
            let is_in_other = |(name, a)| b.get(name).is_some_and(|b| is_same(a, b));
            a.len() == b.len() && a.iter().all(is_in_other)
        }
        (_, _) => false,
    }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, Strict(value))) = map.next_entry::<String, _>()? {
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a member stands twice"));
            }
        }
        Ok(members.into())
    }
}
