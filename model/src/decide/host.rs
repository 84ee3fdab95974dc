//! Hosts: the form they are compared in, and what is kept by exact name or wildcard.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::Ipv6Addr;

use foldhash::fast::FixedState;

use crate::config::HostMatch;

/// `raw` in lower case without a trailing dot; an IPv6 literal in its canonical text. `copy` is used where they differ.
pub(super) fn normalised<'a>(raw: &'a str, copy: &'a mut String) -> &'a str {
    let name = raw.strip_suffix('.').unwrap_or(raw);
    if name.contains(':')
        && let Ok(address) = name.parse::<Ipv6Addr>()
    {
        copy.clear();
        // Writing to a string cannot fail.
        let _ = write!(copy, "{address}");
        return copy;
    }
    if !name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return name;
    }
    copy.clear();
    copy.push_str(name);
    copy.make_ascii_lowercase();
    copy
}

/// Values by exact name and by wildcard.
#[derive(Clone, Debug)]
pub(super) struct Names<T> {
    exact: HashMap<Box<str>, T, FixedState>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, T, FixedState>,
    /// Bounds how far a long name is looked at.
    wildcard_bytes_max: usize,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { exact: HashMap::default(), wildcard: HashMap::default(), wildcard_bytes_max: 0 }
    }
}

impl<T> Names<T> {
    /// The value of `name`, made by `new` at its first mention.
    pub(super) fn entry(&mut self, name: &HostMatch, new: impl FnOnce() -> T) -> &mut T {
        let mut copy = String::new();
        match name {
            HostMatch::Exact(name) => self.exact.entry(normalised(name, &mut copy).into()).or_insert_with(new),
            HostMatch::Wildcard(suffix) => {
                let suffix = normalised(suffix, &mut copy);
                self.wildcard_bytes_max = self.wildcard_bytes_max.max(suffix.len());
                self.wildcard.entry(suffix.into()).or_insert_with(new)
            }
        }
    }

    /// Calls `found` with the value of `host` and of each wildcard that it is below: exact first, then by length of
    /// the wildcard, longest first.
    pub(super) fn visit(&self, host: &str, mut found: impl FnMut(&T)) {
        if let Some(value) = self.exact.get(host) {
            found(value);
        }
        if self.wildcard.is_empty() {
            return;
        }
        // A wildcard stands for one or more labels, so the dot cannot come first.
        let from = host.len().saturating_sub(self.wildcard_bytes_max + 1).max(1);
        for (dot, _) in host.bytes().enumerate().skip(from).filter(|&(_, byte)| byte == b'.') {
            if let Some(value) = self.wildcard.get(&host[dot + 1..]) {
                found(value);
            }
        }
    }

    /// The same names with other values.
    pub(super) fn map<U>(self, mut value: impl FnMut(T) -> U) -> Names<U> {
        Names {
            exact: self.exact.into_iter().map(|(name, old)| (name, value(old))).collect(),
            wildcard: self.wildcard.into_iter().map(|(suffix, old)| (suffix, value(old))).collect(),
            wildcard_bytes_max: self.wildcard_bytes_max,
        }
    }

    /// Whether `host` has an exact value or is below a wildcard.
    pub(super) fn contains(&self, host: &str) -> bool {
        let mut contains = false;
        self.visit(host, |_| contains = true);
        contains
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_compare_in_lower_case_without_trailing_dot_and_addresses_by_value() {
        let check = |raw: &str, expected: &str| assert_eq!(normalised(raw, &mut String::new()), expected);
        check("example.com", "example.com");
        check("EXAMPLE.Com.", "example.com");
        check("::1", "::1");
        check("0:0:0:0:0:0:0:1", "::1");
        check("2001:DB8::A", "2001:db8::a");
        check("127.0.0.1", "127.0.0.1");
        check("", "");
    }

    #[test]
    fn a_wildcard_covers_one_or_more_labels_and_never_the_bare_name() {
        let mut names = Names::default();
        names.entry(&HostMatch::Wildcard("example.com".into()), || "short");
        names.entry(&HostMatch::Wildcard("b.example.com".into()), || "long");
        names.entry(&HostMatch::Exact("a.b.example.com".into()), || "exact");
        let check = |host: &str, expected: &[&str]| {
            let mut found = Vec::new();
            names.visit(host, |value| found.push(*value));
            assert_eq!(found, expected, "{host}");
        };
        check("example.com", &[]);
        check(".example.com", &[]);
        check("xexample.com", &[]);
        check("x.example.com", &["short"]);
        check("x.y.example.com", &["short"]);
        check("b.example.com", &["short"]);
        check("x.b.example.com", &["long", "short"]);
        check("a.b.example.com", &["exact", "long", "short"]);
        check("example.com.org", &[]);
    }
}
