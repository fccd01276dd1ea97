//! What is kept as it came can be read by every reader, and what can be read is kept.

use strongroom_protocol::{BadObject, OBJECT_DEPTH_MAX, Object};

use crate::json;

const BYTES_MAX: usize = 1024;

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match Object::parse(text, BYTES_MAX) {
        Ok(object) => {
            assert_eq!(object.as_str(), text);
            assert!(text.len() <= BYTES_MAX, "{text:?}");
            let value = json::read_by_all(data);
            assert!(value.is_object() && json::depth(&value) <= OBJECT_DEPTH_MAX, "{text:?}");
        }
        Err(BadObject::NotAnObject) => assert!(!text.starts_with('{'), "{text:?}"),
        Err(BadObject::TooLarge { bytes_max }) => {
            assert!(bytes_max == BYTES_MAX && text.len() > BYTES_MAX, "{text:?}");
        }
        Err(BadObject::NotStrict(why)) => {
            let is_readable = json::read(data).is_some_and(|value| {
                // Further in, and behind the end of, a document that is refused nobody looks.
                json::depth(&value) <= OBJECT_DEPTH_MAX
            });
            assert!(!is_readable, "{why}: {text:?}");
        }
    }
}
