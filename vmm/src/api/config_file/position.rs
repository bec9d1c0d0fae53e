//! Where in a document a value is.
//!
//! serde_json's raw values borrow from the text they were read from, so a value's address says where it is.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// A value, or the nearest one around it that is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position<'a> {
    text: &'a str,
    /// Within `text`.
    value: &'a str,
}

/// The fields of an object, in order, those that are there twice too.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Position<'a> {
    /// The document itself, without what is around it.
    pub(super) fn of_document(text: &'a str) -> Self {
        Self { text, value: text.trim() }
    }

    /// The field of that name: the last, if there are several.
    pub(super) fn field(self, name: &str) -> Self {
        let fields = self.fields();
        let found = fields.iter().rev().find(|(field, _)| field == name);
        found.map_or(self, |&(_, value)| Self { value, ..self })
    }

    /// The element of that number.
    pub(super) fn element(self, index: usize) -> Self {
        let elements: Vec<&'a RawValue> = serde_json::from_str(self.value).unwrap_or_default();
        elements.get(index).map_or(self, |value| Self { value: value.get(), ..self })
    }

    /// The fields of an object and what they hold; none if it is not an object.
    pub(super) fn fields(self) -> Vec<(Cow<'a, str>, &'a str)> {
        let fields: Option<Fields<'a>> = serde_json::from_str(self.value).ok();
        let fields = fields.map_or_else(Vec::new, |fields| fields.0);
        fields.into_iter().map(|(name, value)| (name, value.get())).collect()
    }

    /// The elements of a list; none if it is not a list.
    pub(super) fn elements(self) -> Vec<Self> {
        let elements: Vec<&'a RawValue> = serde_json::from_str(self.value).unwrap_or_default();
        elements.into_iter().map(|value| Self { value: value.get(), ..self }).collect()
    }

    /// The value that begins at `value`, which is part of this one.
    pub(super) const fn at(self, value: &'a str) -> Self {
        Self { value, ..self }
    }

    /// Its line and column, from 1, in bytes.
    pub(super) fn line_and_column(self) -> (usize, usize) {
        let before = &self.text[..self.value.as_ptr().addr() - self.text.as_ptr().addr()];
        let line = before.matches('\n').count();
        let column = before.len() - before.rfind('\n').map_or(0, |end| end + 1);
        (line + 1, column + 1)
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor(PhantomData))
    }
}

struct FieldsVisitor<'de>(PhantomData<&'de ()>);

impl<'de> Visitor<'de> for FieldsVisitor<'de> {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            fields.push((Cow::Owned(name), map.next_value()?));
        }
        Ok(Fields(fields))
    }
}
