//! `Cache-Control` of requests and answers (RFC 9111 §5.2, RFC 5861, RFC 9213), read the careful way.
//!
//! Input: the values of the field lines in order. Where a value can be read in two ways the stricter one counts: the
//! lowest of several numbers, a number that is none is 0, and a list that ends inside a quoted string is `no-store`.

use sealane_model::decide::HeaderView;

/// Larger values are this one (RFC 9111 §1.2.2).
pub(super) const SECONDS_MAX: u64 = 1 << 31;

/// What a client asks of caches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestDirectives {
    pub(super) no_store: bool,
    pub(super) no_cache: bool,
    pub(super) only_if_cached: bool,
    /// Seconds.
    pub(super) max_age: Option<u64>,
    /// Seconds.
    pub(super) min_fresh: Option<u64>,
    /// Seconds; as stale as it may be where the client names no number.
    pub(super) max_stale: Option<u64>,
    /// Seconds.
    pub(super) stale_if_error: Option<u64>,
}

impl RequestDirectives {
    pub(super) fn read(headers: &impl HeaderView) -> Self {
        let mut found = Self::default();
        let mut any = false;
        headers.any_value("cache-control", &mut |value| {
            any = true;
            found.no_store |= each(value, |name, argument| found.take(name, argument)).is_err();
            false
        });
        // `Pragma` counts where there is no `Cache-Control` (RFC 9111 §5.4).
        if !any {
            headers.any_value("pragma", &mut |value| {
                found.no_cache |= each(value, |name, _| found.no_cache |= is(name, "no-cache")).is_err();
                false
            });
        }
        found
    }

    fn take(&mut self, name: &[u8], argument: Option<&[u8]>) {
        match name {
            _ if is(name, "no-store") => self.no_store = true,
            _ if is(name, "no-cache") => self.no_cache = true,
            _ if is(name, "only-if-cached") => self.only_if_cached = true,
            _ if is(name, "max-age") => lower(&mut self.max_age, seconds(argument)),
            _ if is(name, "min-fresh") => {
                self.min_fresh = Some(self.min_fresh.unwrap_or(0).max(seconds(argument)));
            }
            _ if is(name, "max-stale") => {
                lower(&mut self.max_stale, argument.map_or(SECONDS_MAX, |_| seconds(argument)));
            }
            _ if is(name, "stale-if-error") => lower(&mut self.stale_if_error, seconds(argument)),
            _ => {}
        }
    }
}

/// What an answer says to shared caches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResponseDirectives {
    /// There was any.
    pub(super) any: bool,
    pub(super) no_store: bool,
    /// Without a list of fields.
    pub(super) no_cache: bool,
    /// Without a list of fields.
    pub(super) private: bool,
    /// Fields, in lower case, that must not be stored: those that `private` and `no-cache` list.
    pub(super) without: Vec<String>,
    pub(super) public: bool,
    pub(super) must_revalidate: bool,
    pub(super) proxy_revalidate: bool,
    pub(super) must_understand: bool,
    pub(super) no_transform: bool,
    /// Seconds.
    pub(super) s_maxage: Option<u64>,
    /// Seconds.
    pub(super) max_age: Option<u64>,
    /// Seconds.
    pub(super) stale_while_revalidate: Option<u64>,
    /// Seconds.
    pub(super) stale_if_error: Option<u64>,
    /// They came in `CDN-Cache-Control` or `Surrogate-Control`: `Expires` does not count beside them (RFC 9213 §2.2).
    pub(super) targeted: bool,
}

impl ResponseDirectives {
    /// Those of `CDN-Cache-Control` where that is there and well formed, else those of `Surrogate-Control`, else those of
    /// `Cache-Control`.
    pub(super) fn read(headers: &impl HeaderView) -> Self {
        if let Some(targeted) = Self::read_targeted(headers) {
            return targeted;
        }
        let common = Self::read_common(headers);
        match Self::read_surrogate(headers) {
            // What is for one user stays so: it is older than fields that are for one kind of cache.
            Some(surrogate) => Self {
                private: common.private,
                without: common.without,
                no_transform: common.no_transform,
                ..surrogate
            },
            None => common,
        }
    }

    fn read_common(headers: &impl HeaderView) -> Self {
        let mut found = Self::default();
        headers.any_value("cache-control", &mut |value| {
            found.any = true;
            found.no_store |= each(value, |name, argument| found.take(name, argument)).is_err();
            false
        });
        found
    }

    /// RFC 9213: a dictionary of structured fields (RFC 9651); as a whole not there if any member is malformed.
    fn read_targeted(headers: &impl HeaderView) -> Option<Self> {
        let mut found = Self { targeted: true, ..Self::default() };
        let mut malformed = false;
        headers.any_value("cdn-cache-control", &mut |value| {
            let walked = each(value, |name, argument| {
                malformed |= !is_dictionary_member(name, argument);
                found.any = true;
                found.take(name, argument);
            });
            malformed |= walked.is_err();
            false
        });
        (found.any && !malformed).then_some(found)
    }

    /// The Edge Architecture's `Surrogate-Control` (W3C note of 2001): `no-store`, and `max-age=` with the seconds of
    /// freshness, and after a `+` those in which the answer may be served while it is fetched anew. What is meant for
    /// another surrogate by its name is not for us.
    fn read_surrogate(headers: &impl HeaderView) -> Option<Self> {
        let mut found = Self { targeted: true, ..Self::default() };
        headers.any_value("surrogate-control", &mut |value| {
            let walked = each(value, |name, argument| {
                let (Some(name), Some(argument)) = (targeted(name), targeted(argument.unwrap_or_default())) else {
                    return;
                };
                if is(name, "no-store") || is(name, "no-store-remote") {
                    (found.any, found.no_store) = (true, true);
                } else if is(name, "max-age") {
                    found.any = true;
                    let plus = argument.iter().position(|&byte| byte == b'+').unwrap_or(argument.len());
                    let (fresh, stale) = argument.split_at(plus);
                    lower(&mut found.max_age, seconds(Some(fresh)));
                    if let Some(stale) = stale.strip_prefix(b"+") {
                        lower(&mut found.stale_while_revalidate, seconds(Some(stale)));
                    }
                }
            });
            if walked.is_err() {
                (found.any, found.no_store) = (true, true);
            }
            false
        });
        found.any.then_some(found)
    }

    fn take(&mut self, name: &[u8], argument: Option<&[u8]>) {
        match name {
            _ if is(name, "no-store") => self.no_store = true,
            _ if is(name, "no-cache") => self.take_fields(argument, |found| found.no_cache = true),
            _ if is(name, "private") => self.take_fields(argument, |found| found.private = true),
            _ if is(name, "public") => self.public = true,
            _ if is(name, "must-revalidate") => self.must_revalidate = true,
            _ if is(name, "proxy-revalidate") => self.proxy_revalidate = true,
            _ if is(name, "must-understand") => self.must_understand = true,
            _ if is(name, "no-transform") => self.no_transform = true,
            _ if is(name, "s-maxage") => lower(&mut self.s_maxage, seconds(argument)),
            _ if is(name, "max-age") => lower(&mut self.max_age, seconds(argument)),
            _ if is(name, "stale-while-revalidate") => lower(&mut self.stale_while_revalidate, seconds(argument)),
            _ if is(name, "stale-if-error") => lower(&mut self.stale_if_error, seconds(argument)),
            _ => {}
        }
    }

    /// With a list of fields only these are meant; without one, or with an empty one, the whole answer is.
    fn take_fields(&mut self, argument: Option<&[u8]>, whole: impl FnOnce(&mut Self)) {
        let fields = argument.map(unquote).unwrap_or_default();
        let mut names = fields.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty());
        match names.next() {
            Some(first) if self.without.len() < WITHOUT_MAX => {
                let names = std::iter::once(first).chain(names).take(WITHOUT_MAX);
                self.without.extend(names.map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()));
            }
            _ => whole(self),
        }
    }
}

/// A directive's name or argument without its target; `None`: it is for another surrogate than this one.
fn targeted(text: &[u8]) -> Option<&[u8]> {
    match text.iter().position(|&byte| byte == b';') {
        Some(at) => (text[at + 1..].trim_ascii() == SURROGATE.as_bytes()).then_some(&text[..at]),
        None => Some(text),
    }
}

/// What this cache is called in `Surrogate-Capability` and `Surrogate-Control`.
const SURROGATE: &str = "sealane";

/// Fields that `private` and `no-cache` may list before they count as meant for the whole answer.
const WITHOUT_MAX: usize = 64;

/// A list ended inside a quoted string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unterminated;

/// Walks a list of directives: name, and what follows its `=`, quotes included.
fn each(value: &[u8], mut directive: impl FnMut(&[u8], Option<&[u8]>)) -> Result<(), Unterminated> {
    let mut start = 0;
    let mut equals = None;
    let mut at = 0;
    loop {
        match value.get(at) {
            Some(b',') | None => {
                let end = at.min(value.len());
                let (name, argument) = match equals {
                    Some(equals) => (&value[start..equals], Some(value[equals + 1..end].trim_ascii_end())),
                    None => (value[start..end].trim_ascii_end(), None),
                };
                let name = name.trim_ascii_start();
                if !name.is_empty() {
                    directive(name, argument);
                }
                if at >= value.len() {
                    return Ok(());
                }
                (start, equals) = (at + 1, None);
            }
            Some(b'=') if equals.is_none() => equals = Some(at),
            Some(b'"') => {
                at += 1;
                while let Some(&byte) = value.get(at) {
                    match byte {
                        b'"' => break,
                        b'\\' => at += 2,
                        _ => at += 1,
                    }
                }
                if at >= value.len() {
                    return Err(Unterminated);
                }
            }
            Some(_) => {}
        }
        at += 1;
    }
}

fn is(name: &[u8], text: &str) -> bool {
    name.eq_ignore_ascii_case(text.as_bytes())
}

fn lower(slot: &mut Option<u64>, value: u64) {
    *slot = Some(slot.map_or(value, |before| before.min(value)));
}

/// Delta-seconds, quoted or not. Anything else is 0: freshness that cannot be read is none (RFC 9111 §4.2.1).
fn seconds(argument: Option<&[u8]>) -> u64 {
    argument.map(unquote).and_then(digits).unwrap_or(0)
}

/// Digits only; saturates.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = text.iter().try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')));
    Some(number.unwrap_or(SECONDS_MAX).min(SECONDS_MAX))
}

/// Without the quotes around it. Escapes stay: no directive has a use for them.
fn unquote(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text)
}

/// Whether this is a member of a dictionary of structured fields, with the type that the directives known here have.
fn is_dictionary_member(name: &[u8], argument: Option<&[u8]>) -> bool {
    let key = name.first().is_some_and(|byte| byte.is_ascii_lowercase() || *byte == b'*')
        && name.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(byte));
    let numeric = ["max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"];
    // Directives are case-insensitive in `Cache-Control`; keys of dictionaries are lower case by definition, and most
    // who send `MaX-aGe` mean it all the same.
    let lowered = name.to_ascii_lowercase();
    let key = key || name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-.*".contains(byte));
    let integer = |text: &[u8]| text.len() <= 15 && digits(text).is_some();
    match argument {
        None => key && !numeric.iter().any(|name| is(&lowered, name)),
        Some(value) if numeric.iter().any(|name| is(&lowered, name)) => key && integer(value),
        Some(value) => key && is_bare_item(value),
    }
}

/// An integer, a token, a string or a boolean; parameters are not looked into.
fn is_bare_item(value: &[u8]) -> bool {
    let value = value.split(|&byte| byte == b';').next().unwrap_or_default();
    match value.first() {
        Some(b'"') => value.len() >= 2 && value.ends_with(b"\""),
        Some(b'?') => matches!(value, b"?0" | b"?1"),
        Some(b'-') => digits(&value[1..]).is_some(),
        Some(byte) if byte.is_ascii_digit() => value.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.'),
        Some(byte) if byte.is_ascii_alphabetic() || *byte == b'*' => {
            value.iter().all(|byte| byte.is_ascii_graphic() && !b"\"(),<=>?@[]{}".contains(byte))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests::Lines;

    fn response(value: &str) -> ResponseDirectives {
        ResponseDirectives::read(&Lines(&[("cache-control", value)]))
    }

    fn request(value: &str) -> RequestDirectives {
        RequestDirectives::read(&Lines(&[("cache-control", value)]))
    }

    #[test]
    fn numbers_are_read_strictly_and_the_lowest_of_several_counts() {
        let check = |value: &str, expected| assert_eq!(response(value).max_age, expected, "{value}");
        check("max-age=3600", Some(3600));
        check("MaX-aGe=3600", Some(3600));
        check("max-age=\"3600\"", Some(3600));
        check("max-age=003600", Some(3600));
        check("max-age='3600'", Some(0));
        check("max-age= 3600", Some(0));
        check("max-age =3600", None);
        check("max-age=-1", Some(0));
        check("max-age=3600.5", Some(0));
        check("max-age=a100", Some(0));
        check("max-age=100a", Some(0));
        check("max-age", Some(0));
        check("max-age=99999999999999999999999", Some(SECONDS_MAX));
        check("max-age=1800, max-age=1", Some(1));
        check("max-age=1, max-age=1800", Some(1));
        check("foobar, max-age=3600", Some(3600));
        check("extension=\"max-age=3600\", max-age=1", Some(1));
        check("max-age=1, extension=\"a, max-age=0, \\\" b\"", Some(1));
        check("", None);
    }

    #[test]
    fn several_lines_count_together() {
        let lines =
            Lines(&[("cache-control", "max-age=3600"), ("Cache-Control", "s-maxage=1"), ("cache-control", "no-Store")]);
        let found = ResponseDirectives::read(&lines);
        assert_eq!((found.max_age, found.s_maxage, found.no_store), (Some(3600), Some(1), true));
    }

    #[test]
    fn a_list_that_ends_in_a_quoted_string_is_not_stored() {
        assert!(response("max-age=3600, x=\"y").no_store);
        assert!(response("max-age=3600, x=\"y\\\"").no_store);
    }

    #[test]
    fn qualified_forms_name_fields_and_plain_forms_the_whole() {
        let found = response("private=\"Set-Cookie, x-user\", no-cache=\"a\"");
        assert_eq!(found.without, ["set-cookie", "x-user", "a"]);
        assert!(!found.private && !found.no_cache);
        assert!(response("private").private);
        assert!(response("private=\"\"").private, "an empty list is taken for all");
        assert!(response("no-cache").no_cache);
    }

    #[test]
    fn requests_say_what_they_take() {
        let found = request("max-age=10, min-fresh=5, max-stale, only-if-cached");
        assert_eq!((found.max_age, found.min_fresh, found.max_stale), (Some(10), Some(5), Some(SECONDS_MAX)));
        assert!(found.only_if_cached);
        assert_eq!(request("max-stale=7").max_stale, Some(7));
        assert!(request("no-store").no_store && request("No-Cache").no_cache);
    }

    #[test]
    fn pragma_counts_only_without_cache_control() {
        let pragma = |lines: &[(&str, &str)]| RequestDirectives::read(&Lines(lines)).no_cache;
        assert!(pragma(&[("pragma", "no-cache")]));
        assert!(!pragma(&[("pragma", "no-cache"), ("cache-control", "max-age=5")]));
        assert!(!pragma(&[("pragma", "other")]));
    }

    #[test]
    fn surrogates_have_directives_of_their_own_but_what_is_private_stays_so() {
        let read = |common: &str, surrogate: &str| {
            let lines = [("cache-control", common), ("surrogate-control", surrogate)];
            ResponseDirectives::read(&Lines(&lines))
        };
        let found = read("no-store", "max-age=3600+600, content=\"ESI/1.0\"");
        assert_eq!((found.targeted, found.no_store, found.max_age), (true, false, Some(3600)));
        assert_eq!(found.stale_while_revalidate, Some(600));
        assert_eq!(read("max-age=3600", "MaX-aGe=1").max_age, Some(1));
        assert!(read("max-age=3600", "no-store").no_store && read("max-age=3600", "no-store-remote").no_store);
        assert!(read("private", "max-age=60").private);
        assert_eq!(
            read("max-age=1", "max-age =100").max_age,
            Some(1),
            "a field that says nothing known does not count"
        );
        assert_eq!(read("max-age=1", "max-age= 100").max_age, Some(0));
        assert_eq!(read("max-age=1", "max-age=100;other").max_age, Some(1));
        assert_eq!(read("no-store", "max-age=100;sealane").max_age, Some(100));
        assert!(read("max-age=1", "no-store;sealane").no_store);
        assert_eq!(read("max-age=1", "no-store;other, max-age=7").max_age, Some(7));
        assert!(read("max-age=1", "max-age=5, x=\"y").no_store);
        let cdn = [("surrogate-control", "max-age=5"), ("cdn-cache-control", "max-age=9")];
        assert_eq!(ResponseDirectives::read(&Lines(&cdn)).max_age, Some(9));
    }

    #[test]
    fn targeted_directives_replace_the_others_when_they_are_well_formed() {
        let read = |cdn: &str| {
            let found = ResponseDirectives::read(&Lines(&[("cache-control", "no-store"), ("cdn-cache-control", cdn)]));
            (found.targeted, found.no_store, found.max_age)
        };
        assert_eq!(read("max-age=3600"), (true, false, Some(3600)));
        assert_eq!(read("foobar, max-age=3600"), (true, false, Some(3600)));
        assert_eq!(read("max-age=10000, &&&&&"), (false, true, None));
        assert_eq!(read("max-age=\"10000\""), (false, true, None));
        assert_eq!(read("max-age =100"), (false, true, None));
        assert_eq!(read(""), (false, true, None));
        assert_eq!(read("no-store"), (true, true, None));
    }
}
