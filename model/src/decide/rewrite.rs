//! The path that an endpoint sees.
//!
//! Without a rewrite it is the request's, byte for byte. A rewrite builds on the normalised copy, and whatever it
//! writes is a valid path: it starts with `/`, and bytes that RFC 3986 does not allow in a path are percent-encoded.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use regex_automata::meta::{self, Regex};
use regex_automata::util::captures::Captures;
use regex_automata::util::interpolate;
use regex_automata::util::iter::Searcher;
use regex_automata::{Input, PatternID};

use super::{path, syntax};
use crate::config::{Config, PathMatch, Pattern, Rewrite, RouteIndex};

/// The rewrites of a table.
#[derive(Debug, Default)]
pub(super) struct Rewrites {
    /// By route.
    of_route: Vec<Option<Box<Rewriting>>>,
    regexes: Vec<(Pattern, Regex)>,
}

/// One thread's room for rewriting.
#[derive(Debug)]
pub(super) struct RewriteScratch {
    /// By regex, made when first needed.
    searches: Vec<Option<Box<RegexSearch>>>,
    text: Vec<u8>,
}

#[derive(Debug)]
struct RegexSearch {
    cache: meta::Cache,
    captures: Captures,
}

#[derive(Debug)]
enum Rewriting {
    Path(String),
    /// The first bytes are replaced. They end before a slash or at the end of the path.
    Prefix {
        bytes: usize,
        by: String,
    },
    /// An index into [`Rewrites::regexes`].
    Regex {
        regex: usize,
        replacement: String,
    },
}

impl Rewrites {
    /// Regexes that `before` has are used again.
    pub(super) fn compile(config: &Config, before: Option<&Self>) -> Self {
        let before = Compiled::of(before.map(|before| before.regexes.as_slice()));
        let mut rewrites = Self::default();
        let mut known = HashMap::<&Pattern, usize, FixedState>::default();
        for route in &config.routes {
            let rewriting = route.rewrite.as_ref().map(|rewrite| match rewrite {
                Rewrite::Path(path) => Rewriting::Path(path.clone()),
                Rewrite::Prefix(by) => Rewriting::Prefix { bytes: matched_prefix_bytes(&route.path), by: by.clone() },
                Rewrite::Regex { regex, replacement } => {
                    let regex = *known.entry(regex).or_insert_with(|| {
                        rewrites.regexes.push((regex.clone(), before.compile(regex)));
                        rewrites.regexes.len() - 1
                    });
                    Rewriting::Regex { regex, replacement: replacement.clone() }
                }
            });
            rewrites.of_route.push(rewriting.map(Box::new));
        }
        rewrites
    }

    pub(super) fn scratch(&self) -> RewriteScratch {
        RewriteScratch { searches: self.regexes.iter().map(|_| None).collect(), text: Vec::new() }
    }

    /// Appends the rewritten path and is `true`; `false`: the route does not rewrite.
    pub(super) fn write(
        &self,
        route: RouteIndex,
        normal_path: &str,
        scratch: &mut RewriteScratch,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(rewriting) = self.of_route.get(route).and_then(Option::as_ref) else { return false };
        match &**rewriting {
            Rewriting::Path(path) => write_encoded(path.as_bytes(), out),
            Rewriting::Prefix { bytes, by } => {
                let rest = normal_path.as_bytes().get(*bytes..).unwrap_or_default();
                let text = &mut scratch.text;
                text.clear();
                // One slash where they meet; a path of its own where nothing is left.
                let by = if rest.is_empty() { by } else { by.trim_end_matches('/') };
                text.extend(by.as_bytes());
                text.extend(rest);
                write_encoded(text, out);
            }
            Rewriting::Regex { regex, replacement } => {
                let search = &mut scratch.searches[*regex];
                let regex = &self.regexes[*regex].1;
                let search = search.get_or_insert_with(|| Box::new(RegexSearch::new(regex)));
                scratch.text.clear();
                search.replace_all(regex, normal_path.as_bytes(), replacement.as_bytes(), &mut scratch.text);
                write_encoded(&scratch.text, out);
            }
        }
        true
    }
}

impl RegexSearch {
    fn new(regex: &Regex) -> Self {
        Self { cache: regex.create_cache(), captures: regex.create_captures() }
    }

    fn replace_all(&mut self, regex: &Regex, path: &[u8], replacement: &[u8], out: &mut Vec<u8>) {
        let Self { cache, captures } = self;
        let mut searcher = Searcher::new(Input::new(path));
        let mut done = 0;
        while let Some(found) = searcher.advance(|input| {
            regex.search_captures_with(cache, input, captures);
            Ok(captures.get_match())
        }) {
            out.extend(&path[done..found.start()]);
            interpolate::bytes(
                replacement,
                |group, out| out.extend(captures.get_group(group).map_or(&[][..], |span| &path[span])),
                |name| regex.group_info().to_index(PatternID::ZERO, name),
                out,
            );
            done = found.end();
        }
        out.extend(&path[done..]);
    }
}

/// What [`Rewrite::Prefix`] replaces: the prefix without its trailing slash; of an exact path the whole. Other routes
/// match `/` and all below, so that the replacement comes before the whole path.
fn matched_prefix_bytes(condition: &PathMatch) -> usize {
    match condition {
        PathMatch::Prefix(path) | PathMatch::Exact(path) => {
            path::normalised_condition(path).trim_end_matches('/').len()
        }
        PathMatch::Regex(_) | PathMatch::Any => 0,
    }
}

/// Regexes that are compiled already.
pub(super) struct Compiled<'r>(HashMap<&'r Pattern, &'r Regex, FixedState>);

impl<'r> Compiled<'r> {
    pub(super) fn of(before: Option<&'r [(Pattern, Regex)]>) -> Self {
        Self(before.into_iter().flatten().map(|(pattern, regex)| (pattern, regex)).collect())
    }

    pub(super) fn compile(&self, pattern: &Pattern) -> Regex {
        self.0.get(pattern).map_or_else(|| compile_regex(pattern), |regex| Regex::clone(regex))
    }
}

fn compile_regex(pattern: &Pattern) -> Regex {
    Regex::builder()
        .configure(Regex::config().utf8_empty(false).nfa_size_limit(None))
        .build_from_hir(&syntax::parse(pattern))
        .expect("a Pattern compiles")
}

/// Appends `path` with a leading `/` and percent-encoded where it must be. Whole escapes stay.
pub(super) fn write_encoded(path: &[u8], out: &mut Vec<u8>) {
    if path.first() != Some(&b'/') {
        out.push(b'/');
    }
    for (at, &byte) in path.iter().enumerate() {
        let stays = match byte {
            b'%' => matches!(path[at + 1..], [high, low, ..] if path::escaped(high, low).is_some()),
            // pchar of RFC 3986, 3.3, and the slash.
            b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b'@' => true,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => true,
            _ => byte.is_ascii_alphanumeric(),
        };
        if stays {
            out.push(byte);
        } else {
            out.extend(path::escape(byte));
        }
    }
}
