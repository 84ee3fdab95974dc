//! Conditional requests against a stored answer (RFC 9110 §13, RFC 9111 §4.3.2), and entity tags.

use sealane_model::decide::HeaderView;

use super::date;

/// Whether a client that sent these conditions has the stored answer already, so that 304 will do. Only for GET and HEAD
/// and stored 200s.
///
/// `date` is when the stored answer was made, in seconds, where it names no `Last-Modified`.
pub(crate) fn is_not_modified(request: &impl HeaderView, stored: &impl HeaderView, date: u64, now: u64) -> bool {
    let mut asked = false;
    let mut matches = false;
    request.any_value("if-none-match", &mut |list| {
        asked = true;
        stored.any_value("etag", &mut |etag| {
            matches |= list.trim_ascii() == b"*" || tags(list).any(|tag| weak(tag) == weak(etag));
            true
        });
        matches |= list.trim_ascii() == b"*";
        matches
    });
    // `If-None-Match` makes `If-Modified-Since` count for nothing (RFC 9110 §13.1.3).
    if asked {
        return matches;
    }
    let mut since = None;
    let mut lines = 0;
    request.any_value("if-modified-since", &mut |value| {
        lines += 1;
        since = date::parse(value, now);
        false
    });
    let Some(since) = since.filter(|_| lines == 1) else { return false };
    let mut modified = None;
    let mut there = false;
    stored.any_value("last-modified", &mut |value| {
        there = true;
        modified = date::parse(value, now);
        true
    });
    match modified {
        Some(modified) => modified <= since,
        None => !there && date <= since,
    }
}

/// Whether a range may be taken from the stored answer as far as `If-Range` is concerned: a strong entity tag that is
/// the same, or the same `Last-Modified` (RFC 9110 §13.1.5).
pub(crate) fn range_holds(request: &impl HeaderView, stored: &impl HeaderView) -> bool {
    let mut holds = true;
    request.any_value("if-range", &mut |condition| {
        let condition = condition.trim_ascii();
        let name = if condition.starts_with(b"\"") || condition.starts_with(b"W/") { "etag" } else { "last-modified" };
        holds = !condition.starts_with(b"W/")
            && stored.any_value(name, &mut |value| value.trim_ascii() == condition && !value.starts_with(b"W/"));
        false
    });
    holds
}

/// The opaque part: what weak comparison looks at.
fn weak(tag: &[u8]) -> &[u8] {
    let tag = tag.trim_ascii();
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// The members of a list of entity tags. A comma inside the quotes is part of the tag.
fn tags(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = list;
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_ascii_start();
            if rest.is_empty() {
                return None;
            }
            let mut quoted = false;
            let end = rest.iter().position(|&byte| {
                quoted ^= byte == b'"';
                byte == b',' && !quoted
            });
            let (tag, after) = rest.split_at(end.unwrap_or(rest.len()));
            rest = after.get(1..).unwrap_or_default();
            if !tag.trim_ascii().is_empty() {
                return Some(tag.trim_ascii());
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests::Lines;

    const EARLY: &str = "Tue, 20 Jan 2026 10:00:00 GMT";
    const LATE: &str = "Tue, 20 Jan 2026 11:00:00 GMT";
    const NOW: u64 = 1_768_905_045;

    #[test]
    fn a_client_that_has_the_answer_is_told_so() {
        let check = |request: &[(&str, &str)], stored: &[(&str, &str)], expected| {
            assert_eq!(is_not_modified(&Lines(request), &Lines(stored), NOW, NOW), expected, "{request:?} {stored:?}");
        };
        let inm = |list| [("if-none-match", list)];
        let tag = [("etag", "\"abcdef\"")];
        check(&inm("\"abcdef\""), &tag, true);
        check(&inm("W/\"abcdef\""), &tag, true);
        check(&inm("\"1234\", \"abcdef\", \"5678\""), &tag, true);
        check(&inm("\"1234\",,\"abcdef\""), &tag, true);
        check(&inm("\"a, \\\"abcdef\\\"\""), &tag, false);
        check(&inm("\"x,\"abcdef\""), &tag, false);
        check(&inm("abcdef"), &tag, false);
        check(&inm("\"ABCDEF\""), &tag, false);
        check(&inm("*"), &tag, true);
        check(&inm("*"), &[], true);
        check(&inm("\"abcdef\""), &[("etag", "W/\"abcdef\"")], true);
        check(&inm("\"abcdef\""), &[], false);
        check(&[("if-none-match", "\"x\""), ("if-modified-since", LATE)], &[tag[0], ("last-modified", EARLY)], false);
        check(&[("if-modified-since", EARLY)], &[("last-modified", EARLY)], true);
        check(&[("if-modified-since", LATE)], &[("last-modified", EARLY)], true);
        check(&[("if-modified-since", EARLY)], &[("last-modified", LATE)], false);
        check(&[("if-modified-since", "Tuesday, 20-Jan-26 10:00:00 GMT")], &[("last-modified", EARLY)], true);
        check(&[("if-modified-since", "soon")], &[("last-modified", EARLY)], false);
        check(&[("if-modified-since", LATE)], &[], true);
        check(&[("if-modified-since", EARLY)], &[], false);
        check(&[], &tag, false);
    }

    #[test]
    fn a_range_is_taken_only_from_the_very_same_answer() {
        let check = |condition: &str, stored: &[(&str, &str)], expected| {
            assert_eq!(
                range_holds(&Lines(&[("if-range", condition)]), &Lines(stored)),
                expected,
                "{condition} {stored:?}"
            );
        };
        check("\"a\"", &[("etag", "\"a\"")], true);
        check("\"a\"", &[("etag", "\"b\"")], false);
        check("W/\"a\"", &[("etag", "W/\"a\"")], false);
        check("\"a\"", &[("etag", "W/\"a\"")], false);
        check(EARLY, &[("last-modified", EARLY)], true);
        check(LATE, &[("last-modified", EARLY)], false);
        assert!(range_holds(&Lines(&[]), &Lines(&[])));
    }
}
