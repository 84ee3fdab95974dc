//! Selecting header fields: what of a request decides which stored variant fits (RFC 9111 §4.1).
//!
//! Values are compared after joining lines and taking out whitespace around members; order counts.

use sealane_model::decide::HeaderView;

/// The fields that an answer varies on, with the values of the request that it was given to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selected(Box<[Field]>);

/// Name, and the value if the request had one.
type Field = (Box<str>, Option<Box<[u8]>>);

/// Fields that one answer may vary on; with more it is not stored.
pub(super) const SELECTING_MAX: usize = 32;

impl Selected {
    /// Those that `response` names, with the values of `request`. `None`: too many.
    pub(crate) fn read(response: &impl HeaderView, request: &impl HeaderView) -> Option<Self> {
        let mut names: Vec<Box<str>> = Vec::new();
        response.any_value("vary", &mut |value| {
            for member in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()) {
                let name = String::from_utf8_lossy(member).to_ascii_lowercase();
                if !names.iter().any(|known| **known == *name) {
                    names.push(name.into());
                }
            }
            names.len() > SELECTING_MAX
        });
        if names.len() > SELECTING_MAX {
            return None;
        }
        let selected = names.into_iter().map(|name| {
            let mut value = Vec::new();
            let there = normalised(request, &name, &mut value);
            (name, there.then(|| value.into()))
        });
        Some(Self(selected.collect()))
    }

    /// Whether the answer fits `request`.
    pub(crate) fn fits(&self, request: &impl HeaderView) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let mut value = Vec::new();
        self.0.iter().all(|(name, stored)| {
            value.clear();
            let there = normalised(request, name, &mut value);
            stored.as_deref() == there.then_some(&value[..])
        })
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| 48 + name.len() + value.as_ref().map_or(0, |value| value.len())).sum()
    }
}

/// Appends the value of the field, lines joined and whitespace around members taken out, in lower case where that says
/// the same: languages and codings (RFC 9111 §4.1, RFC 4647 §2, RFC 9110 §8.4.1). Whether it is there.
pub(super) fn normalised(headers: &impl HeaderView, name: &str, out: &mut Vec<u8>) -> bool {
    let mut there = false;
    let start = out.len();
    headers.any_value(name, &mut |value| {
        for member in value.split(|&byte| byte == b',') {
            if there {
                out.push(b',');
            }
            there = true;
            out.extend_from_slice(member.trim_ascii());
        }
        false
    });
    if ["accept-language", "accept-encoding", "accept-charset"].iter().any(|folded| name.eq_ignore_ascii_case(folded)) {
        out[start..].make_ascii_lowercase();
    }
    there
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests::Lines;

    #[test]
    fn a_variant_fits_requests_with_the_same_selecting_fields() {
        let check = |vary: &[(&str, &str)], stored: &[(&str, &str)], presented: &[(&str, &str)], expected| {
            let selected = Selected::read(&Lines(vary), &Lines(stored)).unwrap();
            assert_eq!(selected.fits(&Lines(presented)), expected, "{vary:?} {stored:?} {presented:?}");
        };
        let foo = [("Vary", "Foo")];
        check(&[], &[("foo", "1")], &[("foo", "2")], true);
        check(&foo, &[("foo", "1")], &[("FOO", "1"), ("other", "2")], true);
        check(&foo, &[("foo", "1")], &[("foo", "2")], false);
        check(&foo, &[("foo", "1")], &[], false);
        check(&foo, &[], &[("foo", "")], false);
        check(&foo, &[], &[], true);
        check(&foo, &[("foo", "1,2")], &[("foo", " 1 , 2 ")], true);
        check(&foo, &[("foo", "1, 2")], &[("foo", "1"), ("foo", "2")], true);
        check(&foo, &[("foo", "1, 2")], &[("foo", "2, 1")], false);
        check(&foo, &[("foo", "12")], &[("foo", "1,2")], false);
        check(&foo, &[("foo", "en")], &[("foo", "EN")], false);
        let language = [("Vary", "Accept-Language")];
        check(&language, &[("accept-language", "en-GB, de")], &[("accept-language", "EN-gb,DE")], true);
        check(&language, &[("accept-language", "en, de")], &[("accept-language", "de, en")], false);
        let two = [("vary", "Foo, , foo"), ("vary", "Bar")];
        check(&two, &[("foo", "1"), ("bar", "a")], &[("bar", "a"), ("foo", "1")], true);
        check(&two, &[("foo", "1"), ("bar", "a")], &[("foo", "1")], false);
    }

    #[test]
    fn an_answer_that_varies_on_too_much_is_not_taken() {
        let names: Vec<String> = (0..=SELECTING_MAX).map(|number| format!("x-{number}")).collect();
        assert_eq!(Selected::read(&Lines(&[("vary", &names.join(","))]), &Lines(&[])), None);
    }
}
