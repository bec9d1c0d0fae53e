//! All that is wrong with a document that cannot be read.
//!
//! Reading stops at the first thing that is wrong. So that is noted, something that can be read is put in its place, and
//! the document is read again, until nothing is wrong any more.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use serde_path_to_error::{Path, Segment};

use super::{Configuration, Misplaced, Mistake, Position, VmConfig, located, no_kernel};

/// More than anybody makes in one file: reading again and again has an end.
const MOST_MISTAKES: usize = 100;

/// A step into a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Field(String),
    Element(usize),
}

impl Step {
    fn field(name: &str) -> Self {
        Self::Field(name.to_owned())
    }
}

/// What is wrong with `text`.
pub(super) fn diagnose(text: &str) -> Vec<Mistake> {
    let mut document: Value = match serde_json::from_str(text) {
        Ok(document) => document,
        // What follows cannot be told from what belongs to it.
        Err(error) => return vec![mistake(&error, (error.line(), error.column().max(1)), "")],
    };
    let mut mistakes = Vec::new();
    doubled(Position::of_document(text), "", &mut mistakes);
    // Where something was put in place, and how many things were tried there.
    let mut patched = Vec::<(Vec<Step>, usize)>::new();
    let config = loop {
        let error = match serde_path_to_error::deserialize::<_, VmConfig>(&document) {
            Ok(config) => break Some(config),
            Err(_) if mistakes.len() >= MOST_MISTAKES => break None,
            Err(error) => error,
        };
        let mut path = steps(error.path());
        let message = error.inner().to_string();
        path.extend(missing_field(&message));
        let known = patched.iter_mut().find(|(place, _)| *place == path);
        let tried = if let Some((_, tried)) = known {
            *tried += 1;
            *tried
        } else {
            // What is put in place lacks fields of its own.
            if !patched.iter().any(|(place, _)| path.starts_with(place)) {
                let (position, name) = locate(text, &path);
                mistakes.push(mistake(&message, position, &name));
            }
            patched.push((path.clone(), 0));
            0
        };
        let unknown = message.starts_with("unknown field");
        let filler = STAND_INS.get(tried).filter(|_| !unknown);
        if !replace(&mut document, &path, filler.map(|make| make())) {
            break None;
        }
    };
    if let Some(config) = config {
        let boots = config.boot_source.is_some();
        let is_patched = |path: &[Step]| {
            patched.iter().any(|(place, _)| path.starts_with(place) || place.starts_with(path))
        };
        let misplaced = Configuration::of(config).err().unwrap_or_default();
        let judged =
            misplaced.iter().filter(|misplaced| !judged_by(misplaced).iter().any(|path| is_patched(path)));
        mistakes.extend(judged.map(|misplaced| located(text, misplaced)));
        if !boots && !is_patched(&[Step::field("boot-source")]) {
            mistakes.push(no_kernel());
        }
    }
    mistakes
}

/// What is put in place of what cannot be read, one after another, until something can; then it is taken out.
const STAND_INS: [fn() -> Value; 5] =
    [|| Value::Null, || json!(false), || json!(1), || json!(""), || json!({})];

/// The fields that decide whether `misplaced` is: where something was put in place of one, nobody knows.
fn judged_by(misplaced: &Misplaced) -> Vec<Vec<Step>> {
    let ((section, index), field) = (misplaced.section, misplaced.refused.field);
    let path = |field| {
        let element = index.map(Step::Element);
        [Step::field(section)].into_iter().chain(element).chain([Step::field(field)]).collect::<Vec<_>>()
    };
    match (section, field) {
        // To be written to, a file needs more permissions.
        ("drives", "path_on_host") => vec![path(field), path("is_read_only")],
        ("balloon", "amount_mib") => {
            vec![path(field), vec![Step::field("machine-config"), Step::field("mem_size_mib")]]
        }
        _ => vec![path(field)],
    }
}

fn mistake(error: &impl ToString, (line, column): (usize, usize), path: &str) -> Mistake {
    let error = error.to_string();
    // serde_json's own place is that of the value that was read, or in brackets.
    let message = error.split(" at line ").next().unwrap_or_default();
    let message = if path.is_empty() { message.to_owned() } else { format!("{path}: {message}") };
    Mistake { line, column, message }
}

/// The field that is missing, if that is what `message` says.
fn missing_field(message: &str) -> Option<Step> {
    let name = message.strip_prefix("missing field `")?.split('`').next()?;
    Some(Step::field(name))
}

fn steps(path: &Path) -> Vec<Step> {
    let step = |segment: &Segment| match segment {
        Segment::Seq { index } => Some(Step::Element(*index)),
        Segment::Map { key } => Some(Step::Field(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    };
    path.iter().filter_map(step).collect()
}

/// What the field `name` of `path` is called.
fn dotted(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Where `path` leads as far as it is there, and what it is called.
fn locate(text: &str, path: &[Step]) -> ((usize, usize), String) {
    let mut position = Position::of_document(text);
    let mut name = String::new();
    for step in path {
        match step {
            Step::Field(field) => {
                position = position.field(field);
                name = dotted(&name, field);
            }
            Step::Element(index) => {
                position = position.element(*index);
                name = format!("{name}[{index}]");
            }
        }
    }
    (position.line_and_column(), name)
}

/// Puts `value` where `path` leads, or takes away what is there. Returns whether that was possible.
fn replace(document: &mut Value, path: &[Step], value: Option<Value>) -> bool {
    let Some((last, around)) = path.split_last() else {
        return false;
    };
    let inner = around.iter().try_fold(document, |value, step| match step {
        Step::Field(name) => value.get_mut(name),
        Step::Element(index) => value.get_mut(index),
    });
    match (inner, last) {
        (Some(Value::Object(fields)), Step::Field(name)) => match value {
            Some(value) => {
                fields.insert(name.clone(), value);
                true
            }
            None => fields.remove(name).is_some(),
        },
        (Some(Value::Array(elements)), Step::Element(index)) if *index < elements.len() => {
            match value {
                Some(value) => elements[*index] = value,
                None => drop(elements.remove(*index)),
            }
            true
        }
        _ => false,
    }
}

/// Notes every field that is in its object twice.
fn doubled(position: Position<'_>, path: &str, mistakes: &mut Vec<Mistake>) {
    let mut seen = BTreeSet::new();
    for (name, value) in position.fields() {
        let inner = dotted(path, &name);
        let value = position.at(value);
        if !seen.insert(name) {
            mistakes.push(mistake(&"is there twice", value.line_and_column(), &inner));
        }
        doubled(value, &inner, mistakes);
    }
    for (index, element) in position.elements().into_iter().enumerate() {
        doubled(element, &format!("{path}[{index}]"), mistakes);
    }
}
