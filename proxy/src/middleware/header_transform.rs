//! Edits of fields that are the same for every request.

use sealane_model::config::{self, HeaderEdits};

use crate::admission::Edits;
use crate::admission::edits::FieldEdits;

/// Compiled.
#[derive(Debug)]
pub(crate) struct HeaderTransform {
    request: FieldEdits,
    response: FieldEdits,
}

impl HeaderTransform {
    /// `reveal` puts secrets in the place of references to them.
    ///
    /// # Errors
    /// What `reveal` finds.
    pub(crate) fn compile<E>(
        config: &config::HeaderTransform,
        mut reveal: impl FnMut(&str) -> Result<String, E>,
    ) -> Result<Self, E> {
        Ok(Self { request: fields(&config.request, &mut reveal)?, response: fields(&config.response, &mut reveal)? })
    }

    pub(crate) fn apply(&self, edits: &mut Edits) {
        edits.request.merge(&self.request);
        edits.response.merge(&self.response);
    }
}

/// Remove, then set, then add.
fn fields<E>(
    HeaderEdits { add, set, remove }: &HeaderEdits,
    reveal: &mut impl FnMut(&str) -> Result<String, E>,
) -> Result<FieldEdits, E> {
    let mut compiled = FieldEdits::default();
    remove.iter().for_each(|name| compiled.remove(name.as_bytes()));
    set.iter().for_each(|(name, _)| compiled.remove(name.as_bytes()));
    for (name, value) in set.iter().chain(add) {
        compiled.add(name.as_bytes(), reveal(value)?.as_bytes());
    }
    Ok(compiled)
}
