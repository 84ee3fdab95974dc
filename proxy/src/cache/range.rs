//! One byte range of a stored answer (RFC 9110 §14). Several ranges, other units and what cannot be read are ignored:
//! the whole answer is always right.

use std::ops::Range;

/// What a `Range` comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything.
    Whole,
    /// These bytes; never empty.
    Bytes(Range<u64>),
    /// None of the bytes that are there: 416.
    Unsatisfiable,
}

/// Reads the value of `Range` against an answer of `length` bytes.
pub(crate) fn parse(value: &[u8], length: u64) -> Part {
    let Some(spec) = std::str::from_utf8(value).ok().and_then(|text| {
        let (unit, spec) = text.split_once('=')?;
        unit.trim().eq_ignore_ascii_case("bytes").then(|| spec.trim())
    }) else {
        return Part::Whole;
    };
    if spec.contains(',') {
        return Part::Whole;
    }
    let Some((first, last)) = spec.split_once('-') else { return Part::Whole };
    match (first, last) {
        ("", suffix) => match number(suffix) {
            None => Part::Whole,
            Some(0) => Part::Unsatisfiable,
            Some(_) if length == 0 => Part::Unsatisfiable,
            Some(suffix) => Part::Bytes(length.saturating_sub(suffix)..length),
        },
        (first, "") => match number(first) {
            None => Part::Whole,
            Some(first) if first >= length => Part::Unsatisfiable,
            Some(first) => Part::Bytes(first..length),
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first > last => Part::Whole,
            (Some(first), Some(_)) if first >= length => Part::Unsatisfiable,
            (Some(first), Some(last)) => Part::Bytes(first..last.saturating_add(1).min(length)),
            _ => Part::Whole,
        },
    }
}

/// Digits only; saturates.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_cut_to_what_is_there() {
        let check = |value: &str, length, expected| assert_eq!(parse(value.as_bytes(), length), expected, "{value}");
        check("bytes=0-1", 11, Part::Bytes(0..2));
        check("bytes=1-", 11, Part::Bytes(1..11));
        check("bytes=-1", 11, Part::Bytes(10..11));
        check("bytes=-100", 11, Part::Bytes(0..11));
        check("bytes=5-100", 11, Part::Bytes(5..11));
        check("Bytes = 5-99999999999999999999999", 11, Part::Bytes(5..11));
        check("bytes=11-", 11, Part::Unsatisfiable);
        check("bytes=11-12", 11, Part::Unsatisfiable);
        check("bytes=-0", 11, Part::Unsatisfiable);
        check("bytes=0-", 0, Part::Unsatisfiable);
        for ignored in
            ["bytes=0-1,3-4", "items=0-1", "bytes", "bytes=", "bytes=a-b", "bytes=2-1", "bytes=+1-2", "bytes=-"]
        {
            check(ignored, 11, Part::Whole);
        }
    }
}
