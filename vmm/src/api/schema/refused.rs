//! Why a value is not taken.

use std::borrow::Cow;

/// A well-formed value that is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Refused {
    /// The field that holds it.
    pub field: &'static str,
    /// Why not, and what would be.
    pub reason: Cow<'static, str>,
}

impl Refused {
    /// Because of `reason`.
    pub fn new(field: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { field, reason: reason.into() }
    }
}

/// All that is wrong with a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", listed(.0))]
pub struct Refusals(Vec<Refused>);

impl Refusals {
    /// Notes a field that is not taken, unless something is noted of it already, to which this may be due.
    pub(crate) fn add(&mut self, field: &'static str, reason: impl Into<Cow<'static, str>>) {
        if !self.has(field) {
            self.0.push(Refused::new(field, reason));
        }
    }

    /// The same, if there is a fault.
    pub(super) fn note(&mut self, result: Result<(), Refused>) {
        if let Err(Refused { field, reason }) = result {
            self.add(field, reason);
        }
    }

    /// Whether anything is wrong with `field`.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.0.iter().any(|refused| refused.field == field)
    }

    /// # Errors
    /// These, unless there are none.
    pub(crate) fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl From<Refused> for Refusals {
    fn from(refused: Refused) -> Self {
        Self(vec![refused])
    }
}

impl From<Result<(), Refused>> for Refusals {
    fn from(result: Result<(), Refused>) -> Self {
        result.err().map_or_else(Self::default, Self::from)
    }
}

impl IntoIterator for Refusals {
    type Item = Refused;
    type IntoIter = std::vec::IntoIter<Refused>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

fn listed(refusals: &[Refused]) -> String {
    refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
