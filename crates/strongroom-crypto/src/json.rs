//! The members of a JSON object, once it is certain that every reader reads the same ones.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::value::RawValue;
use strongroom_protocol::{BadObject, Object};

/// Why a member is not what it should be. Never quotes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FieldError {
    /// It is not there, or `null`.
    #[error("{field} is missing")]
    Missing {
        /// Its name.
        field: &'static str,
    },
    /// Another kind of value.
    #[error("{field} is not {expected}")]
    Type {
        /// Its name.
        field: &'static str,
        /// What it should be, with an article.
        expected: &'static str,
    },
}

/// What an object has, by name. Reading a member takes it out, so that the unknown ones remain.
pub(crate) struct Members<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Members<'a> {
    /// Reads the text of an object of at most `bytes_max` bytes.
    pub(crate) fn parse(text: &'a str, bytes_max: usize) -> Result<Self, BadObject> {
        Object::check(text, bytes_max)?;
        // Cannot fail after that check.
        serde_json::from_str(text).map(Self).map_err(|_| BadObject::NotAnObject)
    }

    /// A member, unless it is absent or `null`.
    pub(crate) fn take(&mut self, field: &str) -> Option<&'a RawValue> {
        self.0.remove(field).filter(|raw| raw.get() != "null")
    }

    pub(crate) fn text(&mut self, field: &'static str) -> Result<Cow<'a, str>, FieldError> {
        self.optional_text(field)?.ok_or(FieldError::Missing { field })
    }

    pub(crate) fn optional_text(
        &mut self,
        field: &'static str,
    ) -> Result<Option<Cow<'a, str>>, FieldError> {
        let Some(raw) = self.take(field) else { return Ok(None) };
        text(raw).map(Some).ok_or(FieldError::Type { field, expected: "a string" })
    }

    /// The members that nobody has taken.
    pub(crate) fn rest(self) -> BTreeMap<String, Box<RawValue>> {
        self.0.into_iter().map(|(name, raw)| (name, raw.to_owned())).collect()
    }
}

/// A string, borrowed where it has no escapes.
pub(crate) fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    match serde_json::from_str::<&str>(raw.get()) {
        Ok(text) => Some(Cow::Borrowed(text)),
        Err(_) => serde_json::from_str(raw.get()).ok().map(Cow::Owned),
    }
}

/// Appends a string as JSON.
pub(crate) fn write_text(out: &mut String, text: &str) {
    out.push('"');
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0x08 => "\\b",
            0x0c => "\\f",
            0..0x20 => "",
            0x20.. => continue,
        };
        out.push_str(text.get(plain..at).unwrap_or_default());
        plain = at + 1;
        out.push_str(escape);
        if escape.is_empty() {
            out.push_str(if byte < 0x10 { "\\u000" } else { "\\u001" });
            out.extend(char::from_digit(u32::from(byte & 0xf), 16));
        }
    }
    out.push_str(text.get(plain..).unwrap_or_default());
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Canonical JSON asks for exactly the escapes that serde_json writes.
        #[test]
        fn strings_are_written_as_the_library_writes_them(text in "(.|[\\x00-\\x7f]){0,20}") {
            let mut out = String::new();
            write_text(&mut out, &text);
            prop_assert_eq!(&out, &serde_json::to_string(&text).unwrap());
        }
    }

    #[test]
    fn a_member_that_stands_twice_is_refused() {
        assert!(Members::parse(r#"{"a":1,"\u0061":2}"#, 99).is_err());
    }
}
