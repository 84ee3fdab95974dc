//! Field edits that are the same for every request.

use sealane_model::config::HeaderEdits;

use crate::admission::Edits;
use crate::admission::edits::FieldEdits;

/// Compiled.
#[derive(Debug)]
pub(crate) struct HeaderTransform {
    request: FieldEdits,
}

impl HeaderTransform {
    pub(crate) fn compile(edits: &HeaderEdits) -> Self {
        Self { request: fields(edits) }
    }

    pub(crate) fn apply(&self, edits: &mut Edits) {
        edits.request.merge(&self.request);
    }
}

/// Remove, then set, then add.
fn fields(HeaderEdits { add, set, remove }: &HeaderEdits) -> FieldEdits {
    let mut compiled = FieldEdits::default();
    remove.iter().for_each(|name| compiled.remove(name.as_bytes()));
    set.iter().for_each(|(name, _)| compiled.remove(name.as_bytes()));
    set.iter().chain(add).for_each(|(name, value)| compiled.add(name.as_bytes(), value.as_bytes()));
    compiled
}
