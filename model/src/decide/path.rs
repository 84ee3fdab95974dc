//! Paths as they are compared: the normalised copy of a request's path, and the condition of a route in the same form.
//!
//! Knows nothing of routes or hosts. The rules are those of the row "paths" in the public interfaces: percent-encoded
//! unreserved characters are decoded, dot segments removed, `//` collapsed; other escapes stay, in upper-case hex.
//! What a request target may not hold raw (controls, space, non-ASCII) is percent-encoded, so that a normalised path
//! is always printable ASCII and `/café` in a config meets `/caf%C3%A9` from a browser.

use std::borrow::Cow;

/// `%00`, a broken escape, dots that leave the root, or no leading `/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadPath;

/// What a path looks like, normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Normal {
    /// It is normal as it is.
    AsSent,
    /// The copy that was written.
    Copied,
}

/// Normalises `raw` into `copy`, which is touched only where the two differ.
///
/// `//` is collapsed before dots are resolved (as nginx and Go do): `/a//../b` is `/b`. A trailing slash stays, and one
/// follows from a trailing dot segment (RFC 3986, 5.2.4).
pub(super) fn normalise(raw: &str, copy: &mut String) -> Result<Normal, BadPath> {
    let Some(rest) = raw.strip_prefix('/') else { return Err(BadPath) };
    if is_normal(raw.as_bytes()) {
        return Ok(Normal::AsSent);
    }
    copy.clear();
    copy.push('/');
    // Invariant: `copy` ends with `/` before each segment. Whether that slash is the path's own at its end:
    let mut ends_with_slash = true;
    for segment in rest.split('/') {
        let start = copy.len();
        decode_segment(segment.as_bytes(), copy)?;
        ends_with_slash = matches!(&copy[start..], "" | "." | "..");
        match &copy[start..] {
            "" | "." => copy.truncate(start),
            ".." => {
                let parent = copy[..start - 1].rfind('/').ok_or(BadPath)?;
                copy.truncate(parent + 1);
            }
            _ => copy.push('/'),
        }
    }
    if !ends_with_slash {
        copy.pop();
    }
    Ok(Normal::Copied)
}

/// A route's path in the form that requests are compared in. One that no request can have (it has a broken escape or
/// leaves the root) stays as it is and matches nothing.
pub(super) fn normalised_condition(path: &str) -> Cow<'_, str> {
    let mut copy = String::new();
    match normalise(path, &mut copy) {
        Ok(Normal::Copied) => copy.into(),
        Ok(Normal::AsSent) | Err(BadPath) => path.into(),
    }
}

/// Whether `path`, which starts with `/`, is already normal: the common case, without a copy.
fn is_normal(path: &[u8]) -> bool {
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        at += match byte {
            b'/' => match path[at + 1..] {
                [b'/', ..] | [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..] => return false,
                _ => 1,
            },
            b'%' => match path[at + 1..] {
                [high, low, ..] if escape_stays(high, low) => 3,
                _ => return false,
            },
            0x21..=0x7e => 1,
            _ => return false,
        };
    }
    true
}

/// Whether `%` + `high` + `low` is as it would be written.
fn escape_stays(high: u8, low: u8) -> bool {
    let upper = |digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F');
    upper(high) && upper(low) && escaped(high, low).is_some_and(|byte| byte != 0 && !is_unreserved(byte))
}

/// Appends `segment` with unreserved characters decoded and everything else that is escaped in upper-case hex.
fn decode_segment(segment: &[u8], out: &mut String) -> Result<(), BadPath> {
    let mut at = 0;
    while let Some(&first) = segment.get(at) {
        let (byte, was_escaped) = match first {
            b'%' => match segment[at + 1..] {
                [high, low, ..] => (escaped(high, low).ok_or(BadPath)?, true),
                _ => return Err(BadPath),
            },
            byte => (byte, false),
        };
        match byte {
            0 => return Err(BadPath),
            0x21..=0x7e if !was_escaped || is_unreserved(byte) => out.push(char::from(byte)),
            _ => out.extend(escape(byte).map(char::from)),
        }
        at += if was_escaped { 3 } else { 1 };
    }
    Ok(())
}

/// RFC 3986, 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The byte that two hex digits stand for.
pub(super) fn escaped(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// `byte`, percent-encoded in upper-case hex.
pub(super) fn escape(byte: u8) -> [u8; 3] {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    [b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: &str, expected: Result<&str, BadPath>) {
        let mut copy = String::from("left over");
        let normal = normalise(raw, &mut copy);
        let found = normal.map(|normal| if normal == Normal::AsSent { raw } else { copy.as_str() });
        assert_eq!(found, expected, "{raw}");
        if let Ok(Normal::Copied) = normal {
            assert_ne!(raw, copy, "a copy is made only where it differs");
            assert_eq!(normalise(&copy, &mut String::new()), Ok(Normal::AsSent), "{copy} is normal");
        }
    }

    #[test]
    fn normal_paths_stay_as_they_are() {
        for path in [
            "/",
            "/a",
            "/a/",
            "/a/b.c",
            "/.well-known/x",
            "/a/..b/...",
            "/%2F%5C%20%7F",
            "/a;b=c,d:e@f!$&'()*+",
            "/a[b]|\\",
        ] {
            check(path, Ok(path));
        }
    }

    #[test]
    fn unreserved_characters_are_decoded_and_the_rest_is_kept_in_upper_case() {
        check("/%61%7e%2D", Ok("/a~-"));
        check("/%2f%5c", Ok("/%2F%5C"));
        check("/a%2fb", Ok("/a%2Fb"));
        check("/%25%36%31", Ok("/%2561"));
        check("/%c3%a9", Ok("/%C3%A9"));
        check("/é x", Ok("/%C3%A9%20x"));
    }

    #[test]
    fn dot_segments_are_removed_and_slashes_collapsed() {
        check("/a/./b", Ok("/a/b"));
        check("/a/../b", Ok("/b"));
        check("/a/b/..", Ok("/a/"));
        check("/a/.", Ok("/a/"));
        check("/a/%2e%2E/b", Ok("/b"));
        check("/a/.%2e", Ok("/"));
        check("//a///b//", Ok("/a/b/"));
        check("/a//../b", Ok("/b"));
        check("/..%2fa", Ok("/..%2Fa"));
        check("//", Ok("/"));
    }

    #[test]
    fn broken_paths_are_refused() {
        for path in
            ["", "a", "/%00", "/%", "/%4", "/%zz", "/%4g/x", "/..", "/a/../..", "//..", "/./../a", "/%2e%2e", "/\0"]
        {
            check(path, Err(BadPath));
        }
    }
}
