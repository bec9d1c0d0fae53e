//! What Firecracker has and underlay does not.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor},
};

/// A section that may be `null` or empty, and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lacking;

impl<'de> Deserialize<'de> for Lacking {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Nothing)
    }
}

impl Serialize for Lacking {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_none()
    }
}

struct Nothing;

impl<'de> Visitor<'de> for Nothing {
    type Value = Lacking;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("null, since underlay does not have this")
    }

    fn visit_unit<E: Error>(self) -> Result<Lacking, E> {
        Ok(Lacking)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Lacking, A::Error> {
        match elements.next_element::<serde::de::IgnoredAny>()? {
            None => Ok(Lacking),
            Some(_) => Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_and_something_is_not() {
        for nothing in ["null", "[]"] {
            assert_eq!(serde_json::from_str::<Lacking>(nothing).unwrap(), Lacking);
        }
        for something in ["{}", "[1]", "1", "\"a\"", "true"] {
            let error = serde_json::from_str::<Lacking>(something).unwrap_err().to_string();
            assert!(error.contains("underlay does not have this"), "{error}");
        }
    }
}
