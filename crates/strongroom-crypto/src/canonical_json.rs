//! Canonical JSON (appendices, "Canonical JSON"): the one text of an object over which signatures are
//! made. Shortest form, members in the order of their code points, integers only.

use serde_json::{Map, Number, Value};
use strongroom_protocol::Object;

use crate::json;

/// The integers that every JSON reader keeps apart.
const INTEGERS: std::ops::RangeInclusive<i64> = -((1 << 53) - 1)..=(1 << 53) - 1;

/// The object has a number that canonical JSON lacks: a fraction, or one beyond 2^53 - 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a number in the object has no canonical form")]
pub struct NotCanonical;

/// The text that is signed: the object without its members `signatures` and `unsigned`
/// ("Signing Details").
pub(crate) fn signed_text(object: &Object) -> Result<String, NotCanonical> {
    let mut members = members(object);
    members.remove("signatures");
    members.remove("unsigned");
    canonical(&members)
}

pub(crate) fn members(object: &Object) -> Map<String, Value> {
    // An `Object` can always be read.
    serde_json::from_str(object.as_str()).unwrap_or_default()
}

pub(crate) fn canonical(members: &Map<String, Value>) -> Result<String, NotCanonical> {
    let mut out = String::new();
    write_members(&mut out, members)?;
    Ok(out)
}

/// Goes as deep as the object, which is [`OBJECT_DEPTH_MAX`](strongroom_protocol::OBJECT_DEPTH_MAX).
fn write(out: &mut String, value: &Value) -> Result<(), NotCanonical> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => out.push_str(&integer(number)?.to_string()),
        Value::String(text) => json::write_text(out, text),
        Value::Array(values) => {
            out.push('[');
            for (at, value) in values.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { "," });
                write(out, value)?;
            }
            out.push(']');
        }
        Value::Object(members) => write_members(out, members)?,
    }
    Ok(())
}

fn write_members(out: &mut String, members: &Map<String, Value>) -> Result<(), NotCanonical> {
    // The order of UTF-8 is that of code points. The map has another one if any crate in the build
    // asks serde_json for it.
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_unstable_by_key(|(name, _)| *name);
    out.push('{');
    for (at, (name, value)) in sorted.into_iter().enumerate() {
        out.push_str(if at == 0 { "" } else { "," });
        json::write_text(out, name);
        out.push(':');
        write(out, value)?;
    }
    out.push('}');
    Ok(())
}

/// `-0` and `1e10` are integers as well, as the examples of the appendix have it.
fn integer(number: &Number) -> Result<i64, NotCanonical> {
    let integer = number.as_i64().or_else(|| {
        let float = number.as_f64().filter(|float| float.fract() == 0.0)?;
        // Saturates, and what is saturated is out of range.
        Some(float as i64)
    });
    integer.filter(|integer| INTEGERS.contains(integer)).ok_or(NotCanonical)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn text(json: &str) -> Result<String, NotCanonical> {
        canonical(&members(&Object::parse(json, usize::MAX).unwrap()))
    }

    /// Appendices, "Canonical JSON", "Examples".
    #[test]
    fn the_examples_of_the_appendix_hold() {
        for (json, expected) in [
            ("{}", "{}"),
            ("{\n \"one\": 1,\n \"two\": \"Two\"\n}", r#"{"one":1,"two":"Two"}"#),
            (r#"{"b": "2", "a": "1"}"#, r#"{"a":"1","b":"2"}"#),
            (
                r#"{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {
                    "display_name": "John Doe", "three_pids": [
                        {"medium": "email", "address": "john.doe@example.org"},
                        {"medium": "msisdn", "address": "123456789"}]}}}"#,
                r#"{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}"#,
            ),
            (r#"{"a": "日本語"}"#, r#"{"a":"日本語"}"#),
            (r#"{"本": 2, "日": 1}"#, r#"{"日":1,"本":2}"#),
            (r#"{"a": "\u65E5"}"#, r#"{"a":"日"}"#),
            (r#"{"a": null}"#, r#"{"a":null}"#),
            (r#"{"a": -0, "b": 1e10}"#, r#"{"a":0,"b":10000000000}"#),
        ] {
            assert_eq!(text(json).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn members_are_in_the_order_of_code_points() {
        // UTF-16 would put the last one before U+FF61.
        let expected = "{\"\":0,\"A\":0,\"a\":0,\"\u{ff61}\":0,\"\u{1f600}\":0}";
        let json = "{\"\u{1f600}\":0,\"a\":0,\"\u{ff61}\":0,\"A\":0,\"\":0}";
        assert_eq!(text(json).as_deref(), Ok(expected));
    }

    #[test]
    fn numbers_without_a_canonical_form_are_refused() {
        for good in ["9007199254740991", "-9007199254740991", "1.0", "0"] {
            assert!(text(&format!("{{\"a\":{good}}}")).is_ok(), "{good}");
        }
        for bad in ["9007199254740992", "-9007199254740992", "1.5", "1e300", "1e-9", "-1e19"] {
            assert_eq!(text(&format!("{{\"a\":[{bad}]}}")), Err(NotCanonical), "{bad}");
        }
    }

    proptest! {
        /// The canonical text is JSON, says the same, and is its own canonical text.
        #[test]
        fn canonical_text_is_a_fixed_point(
            map in prop::collection::btree_map("(.|[\\x00-\\x7f]){0,4}", any::<i32>(), 0..8),
            text in "(.|[\\x00-\\x7f]){0,8}",
        ) {
            let value = json!({"map": map, "text": text, "array": [null, true, false]});
            let once = super::canonical(value.as_object().unwrap()).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Value>(&once).unwrap(), &value);
            prop_assert_eq!(self::text(&once).unwrap(), once);
        }
    }
}
