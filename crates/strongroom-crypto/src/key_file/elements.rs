//! The members of a JSON array of objects, one after the other, without ever holding two.

use zeroize::{Zeroize as _, Zeroizing};

use crate::limits::SESSION_BYTES_MAX;

/// The text is no array of objects.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct NotAList;

/// One member, and whether it was short enough to be kept.
pub(super) enum Element {
    /// The text of something that looks like an object.
    Text,
    /// It had more than [`SESSION_BYTES_MAX`] bytes.
    TooLarge,
}

/// Cuts the text into the array's members. What is inside of one is only looked at as far as that
/// takes; whoever gets it parses it.
pub(super) struct Splitter {
    place: Place,
    /// The member so far. Never grows, so leaves no copies.
    text: Zeroizing<Vec<u8>>,
    is_too_large: bool,
}

#[derive(Clone, Copy)]
enum Place {
    BeforeArray,
    /// Behind `[`, where the array may end.
    BeforeFirst,
    /// Behind a comma.
    BeforeNext,
    Inside {
        depth: usize,
        string: Text,
    },
    Behind,
    AfterArray,
}

#[derive(Clone, Copy)]
enum Text {
    Outside,
    Inside,
    /// Behind a backslash.
    Escaped,
}

impl Splitter {
    pub(super) fn new() -> Self {
        Self {
            place: Place::BeforeArray,
            text: Zeroizing::new(Vec::with_capacity(SESSION_BYTES_MAX)),
            is_too_large: false,
        }
    }

    /// Takes bytes off the front, up to the end of a member; `None` if they end before that.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Element>, NotAList> {
        while let Some((byte, rest)) = bytes.split_first() {
            *bytes = rest;
            if self.push(*byte)? {
                let is_too_large = std::mem::take(&mut self.is_too_large);
                let element = if is_too_large { Element::TooLarge } else { Element::Text };
                return Ok(Some(element));
            }
        }
        Ok(None)
    }

    /// The member that has just ended.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Fails if the array has not ended.
    pub(super) fn finish(&self) -> Result<(), NotAList> {
        match self.place {
            Place::AfterArray => Ok(()),
            Place::BeforeArray
            | Place::BeforeFirst
            | Place::BeforeNext
            | Place::Inside { .. }
            | Place::Behind => Err(NotAList),
        }
    }

    /// Whether a member ends here.
    fn push(&mut self, byte: u8) -> Result<bool, NotAList> {
        let is_blank = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        self.place = match (self.place, byte) {
            (Place::Inside { depth, string }, _) => {
                self.keep(byte);
                match inside(depth, string, byte) {
                    Some(place) => place,
                    None => {
                        self.place = Place::Behind;
                        return Ok(true);
                    }
                }
            }
            (place, _) if is_blank => place,
            (Place::BeforeArray, b'[') => Place::BeforeFirst,
            (Place::BeforeFirst | Place::BeforeNext, b'{') => {
                self.text.zeroize();
                self.keep(byte);
                Place::Inside { depth: 1, string: Text::Outside }
            }
            (Place::Behind, b',') => Place::BeforeNext,
            (Place::BeforeFirst | Place::Behind, b']') => Place::AfterArray,
            (
                Place::BeforeArray
                | Place::BeforeFirst
                | Place::BeforeNext
                | Place::Behind
                | Place::AfterArray,
                _,
            ) => return Err(NotAList),
        };
        Ok(false)
    }

    fn keep(&mut self, byte: u8) {
        if self.text.len() < SESSION_BYTES_MAX {
            self.text.push(byte);
        } else {
            self.is_too_large = true;
        }
    }
}

/// Where a byte inside a member leads to; `None` behind its last brace.
fn inside(depth: usize, string: Text, byte: u8) -> Option<Place> {
    let (depth, string) = match (string, byte) {
        (Text::Inside, b'\\') => (depth, Text::Escaped),
        (Text::Inside, b'"') => (depth, Text::Outside),
        (Text::Inside | Text::Escaped, _) => (depth, Text::Inside),
        (Text::Outside, b'"') => (depth, Text::Inside),
        (Text::Outside, b'{' | b'[') => (depth.saturating_add(1), Text::Outside),
        (Text::Outside, b'}' | b']') => (depth - 1, Text::Outside),
        (Text::Outside, _) => (depth, Text::Outside),
    };
    (depth > 0).then_some(Place::Inside { depth, string })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Feeds the text in pieces, as they come out of a file.
    fn split(text: &[u8], piece: usize) -> Result<Vec<Vec<u8>>, NotAList> {
        let mut splitter = Splitter::new();
        let mut elements = Vec::new();
        for mut piece in text.chunks(piece) {
            while let Some(element) = splitter.next(&mut piece)? {
                elements.push(match element {
                    Element::Text => splitter.text().to_vec(),
                    Element::TooLarge => b"too large".to_vec(),
                });
            }
        }
        splitter.finish().map(|()| elements)
    }

    #[test]
    fn what_is_no_list_of_objects_is_refused() {
        for bad in [
            "", " ", "{}", "[", "[{}", "[{},", "[{},]", "[,{}]", "[{}{}]", "[1]", "[[]]", "[{}] x",
            "[{}]]", "null", "[\"{}\"]",
        ] {
            assert_eq!(split(bad.as_bytes(), 3), Err(NotAList), "{bad}");
        }
    }

    #[test]
    fn a_member_that_is_too_large_does_not_hide_the_next() {
        let large = format!("{{\"a\":\"{}\"}}", "[".repeat(SESSION_BYTES_MAX));
        let text = format!("[{{}},{large},{{\"b\":1}}]");
        let elements = split(text.as_bytes(), 1000).unwrap();
        assert_eq!(elements, [&b"{}"[..], b"too large", b"{\"b\":1}"]);
        let exact = format!("{{\"a\":\"{}\"}}", "a".repeat(SESSION_BYTES_MAX - 8));
        assert_eq!(split(format!("[{exact}]").as_bytes(), 9).unwrap(), [exact.as_bytes()]);
    }

    fn object() -> impl Strategy<Value = Value> {
        let text = r#"[\\"\[\]{}a,: ]{0,6}"#;
        let leaf = prop_oneof![text.prop_map(Value::from), any::<i32>().prop_map(Value::from)];
        let value = leaf.prop_recursive(3, 16, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                (text, inner).prop_map(|(name, value)| json!({ name: value })),
            ]
        });
        (text, value).prop_map(|(name, value)| json!({ name: value }))
    }

    proptest! {
        #[test]
        fn a_list_is_cut_as_a_json_library_reads_it(
            objects in prop::collection::vec(object(), 0..5), piece in 1usize..20, pretty: bool,
        ) {
            let list = Value::from(objects.clone());
            let text = if pretty { format!("\n{list:#}\n") } else { list.to_string() };
            let elements = split(text.as_bytes(), piece).unwrap();
            let read = elements.iter().map(|text| serde_json::from_slice::<Value>(text).unwrap());
            prop_assert_eq!(read.collect::<Vec<_>>(), objects);
        }

        #[test]
        fn any_text_is_cut_or_refused(text in r#"\[?[\[\]{}",\\a: ]{0,20}\]?"#) {
            if let Ok(list) = serde_json::from_str::<Vec<serde_json::Map<String, Value>>>(&text) {
                prop_assert_eq!(split(text.as_bytes(), 4).unwrap().len(), list.len());
            } else {
                let _ = split(text.as_bytes(), 4);
            }
        }
    }
}
