//! Answers with a redirect to somewhere else.

use sealane_model::config::{self, RedirectPiece};

use crate::admission::{Seen, Step};
use crate::answer::{Content, Local};
use crate::error::Category;
use crate::http1::write;

/// Compiled.
#[derive(Debug)]
pub(crate) struct Redirect {
    status: u16,
    to: Vec<RedirectPiece>,
}

impl Redirect {
    pub(crate) fn compile(config: &config::Redirect) -> Self {
        Self { status: config.status, to: config.to.clone() }
    }

    /// A request that is where it is to go already passes: it would come back for ever.
    pub(crate) fn admit(&self, seen: &Seen<'_>) -> Step {
        let scheme = if seen.tls().is_some() { "https" } else { "http" };
        let wants_host = self.to.iter().any(|piece| matches!(piece, RedirectPiece::Host | RedirectPiece::Authority));
        if wants_host && seen.authority().is_empty() {
            return Step::Answer(Box::new(Local::refusal(Category::BadRequest, "missing host")));
        }
        let location = self.location(scheme, seen);
        let mut here = format!("{scheme}://{}{}", seen.authority(), seen.path());
        if let Some(query) = seen.query() {
            here.push('?');
            here.push_str(query);
        }
        let is_here = location == here
            || (location.starts_with('/') && here.ends_with(&location) && {
                let start = here.len() - location.len();
                start == scheme.len() + 3 + seen.authority().len()
            });
        if is_here {
            return Step::Continue;
        }
        let mut lines = Vec::with_capacity(location.len() + 16);
        write::field(&mut lines, b"Location", location.as_bytes());
        let content = Content::Whole(Vec::new());
        Step::Answer(Box::new(Local::Whole { status: self.status, reason: None, lines, content }))
    }

    fn location(&self, scheme: &str, seen: &Seen<'_>) -> String {
        let mut out = String::with_capacity(128);
        for piece in &self.to {
            match piece {
                RedirectPiece::Text(text) => out.push_str(text),
                RedirectPiece::Scheme => out.push_str(scheme),
                RedirectPiece::Host if seen.authority().starts_with('[') => {
                    out.push('[');
                    out.push_str(seen.host());
                    out.push(']');
                }
                RedirectPiece::Host => out.push_str(seen.host()),
                RedirectPiece::Authority => out.push_str(seen.authority()),
                RedirectPiece::Path => {
                    let path = if seen.path() == "*" { "/" } else { seen.path() };
                    out.push_str(if out.ends_with('/') { path.strip_prefix('/').unwrap_or(path) } else { path });
                }
                RedirectPiece::Query => {
                    if let Some(query) = seen.query() {
                        out.push(if out.contains('?') { '&' } else { '?' });
                        out.push_str(query);
                    }
                }
            }
        }
        // A target that starts with two slashes, or a slash and a backslash, names another host.
        if out.starts_with('/') {
            let rest = out.trim_start_matches(['/', '\\']).len();
            out.replace_range(..out.len() - rest, "/");
        }
        out
    }
}
