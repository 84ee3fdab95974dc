//! The conditions of a route beside host and path: method, headers, query.

use super::{Mismatch, RequestHead};
use crate::config::{HeaderCondition, QueryCondition, Route};

/// What a request must have, beside host and path. All of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Conditions {
    /// Empty: any.
    methods: Box<[String]>,
    headers: Box<[HeaderCondition]>,
    query: Box<[QueryCondition]>,
}

impl Conditions {
    /// Those of `route`.
    pub(super) fn of(route: &Route) -> Self {
        Self {
            methods: route.methods.clone().into(),
            headers: route.headers.clone().into(),
            query: route.query.clone().into(),
        }
    }

    /// The first condition that `head` does not meet.
    pub(super) fn mismatch(&self, head: &RequestHead<'_>) -> Option<Mismatch> {
        if !self.methods.is_empty() && !self.methods.iter().any(|method| method == head.method) {
            return Some(Mismatch::Method);
        }
        let has_header = |wanted: &HeaderCondition| {
            head.headers.any_value(&wanted.name, &mut |value| value == wanted.value.as_bytes())
        };
        if let Some(missing) = self.headers.iter().position(|wanted| !has_header(wanted)) {
            return Some(Mismatch::Header(missing));
        }
        let has_parameter = |wanted: &QueryCondition| has_parameter(head.query.unwrap_or(""), wanted);
        self.query.iter().position(|wanted| !has_parameter(wanted)).map(Mismatch::Query)
    }
}

/// How many conditions `route` has beside host and path. Its methods count as one, however many they are.
pub(super) fn count(route: &Route) -> usize {
    usize::from(!route.methods.is_empty()) + route.headers.len() + route.query.len()
}

/// Whether one of the parameters of `query` is `wanted`. One without `=` has an empty value.
fn has_parameter(query: &str, wanted: &QueryCondition) -> bool {
    query.split('&').any(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        !parameter.is_empty()
            && decoded(name.as_bytes()).eq(wanted.name.bytes())
            && decoded(value.as_bytes()).eq(wanted.value.bytes())
    })
}

/// The bytes of a query component: `+` is a space, escapes are decoded, a broken escape stands for itself.
fn decoded(component: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = component;
    std::iter::from_fn(move || {
        let (byte, length) = match *rest {
            [] => return None,
            [b'%', high, low, ..] => super::path::escaped(high, low).map_or((b'%', 1), |byte| (byte, 3)),
            [b'+', ..] => (b' ', 1),
            [byte, ..] => (byte, 1),
        };
        rest = &rest[length..];
        Some(byte)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_parameter_is_compared_decoded_in_any_occurrence() {
        let check = |query: &str, name: &str, value: &str, expected| {
            let wanted = QueryCondition { name: name.into(), value: value.into() };
            assert_eq!(has_parameter(query, &wanted), expected, "{query} {name}={value}");
        };
        check("debug=1", "debug", "1", true);
        check("debug=10", "debug", "1", false);
        check("a=b&debug=0&debug=1", "debug", "1", true);
        check("q=a+b", "q", "a b", true);
        check("q=a%20b", "q", "a b", true);
        check("q=a%2Bb", "q", "a+b", true);
        check("%64ebug=%31", "debug", "1", true);
        check("caf%c3%a9=1", "café", "1", true);
        check("debug", "debug", "", true);
        check("debug=", "debug", "", true);
        check("q=a=b", "q", "a=b", true);
        check("q=%zz", "q", "%zz", true);
        check("Debug=1", "debug", "1", false);
        check("", "debug", "1", false);
        check("&&", "", "", false);
    }
}
