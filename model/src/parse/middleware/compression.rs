//! Compression of answers.

use crate::config::{Compression, ContentCoding};
use crate::parse::fields::Fields;
use crate::parse::findings::Findings;
use crate::parse::read::{self, shown};
use crate::parse::tree::Node;

/// What is usually text.
const TYPES: &[&str] = &[
    "text/*",
    "application/atom+xml",
    "application/graphql-response+json",
    "application/javascript",
    "application/json",
    "application/ld+json",
    "application/manifest+json",
    "application/problem+json",
    "application/rss+xml",
    "application/vnd.api+json",
    "application/wasm",
    "application/x-javascript",
    "application/x-ndjson",
    "application/xhtml+xml",
    "application/xml",
    "application/yaml",
    "font/otf",
    "font/ttf",
    "image/bmp",
    "image/svg+xml",
    "image/x-icon",
];

pub(super) fn compression(node: Option<&Node<'_>>, findings: &mut Findings) -> Option<Compression> {
    let mut compression = Compression {
        types: TYPES.iter().map(|&text| text.to_owned()).collect(),
        length_min: 1024,
        level: 5,
        codings: CODINGS.iter().map(|&(_, coding)| coding).collect(),
    };
    let Some(node) = node else { return Some(compression) };
    let fields =
        Fields::open(node, "`config` of `compression`", &["types", "min_length", "level", "encodings"], findings)?;
    if let Some(node) = fields.get("types") {
        compression.types = types(node, findings);
    }
    compression.length_min = length(&fields, compression.length_min, findings);
    if let Some(node) = fields.get("level") {
        compression.level = read::integer(node, 1..=9, findings).map_or(compression.level, |level| level as u32);
    }
    if let Some(node) = fields.get("encodings") {
        compression.codings = codings(node, findings);
    }
    Some(compression)
}

/// In the order that counts where a client wants several of them as much.
const CODINGS: &[(&str, ContentCoding)] =
    &[("br", ContentCoding::Brotli), ("zstd", ContentCoding::Zstd), ("gzip", ContentCoding::Gzip)];

fn codings(node: &Node<'_>, findings: &mut Findings) -> Vec<ContentCoding> {
    let items = read::list(node, "encodings", findings).unwrap_or_default();
    if items.is_empty() {
        findings.error(node, "missing_key", "no encoding is left").help("name one, or remove the stage");
    }
    let mut codings = Vec::new();
    for item in items {
        match read::one_of(item, CODINGS, findings) {
            Some(coding) if codings.contains(&coding) => {
                findings.error(item, "unknown_value", "this encoding is there twice").help("keep the first");
            }
            Some(coding) => codings.push(coding),
            None => {}
        }
    }
    codings
}

/// A size; a bare number of bytes too, as in `pre_compress`.
fn length(fields: &Fields<'_, '_>, default: u64, findings: &mut Findings) -> u64 {
    match fields.get("min_length") {
        Some(node) if node.scalar().is_some_and(|text| text.bytes().all(|b| b.is_ascii_digit())) => {
            read::integer(node, 0..=u64::MAX, findings).unwrap_or(default)
        }
        Some(node) => read::bytes(node, findings).unwrap_or(default),
        None => default,
    }
}

fn types(node: &Node<'_>, findings: &mut Findings) -> Vec<String> {
    let token =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b));
    let mut types = Vec::new();
    for (node, text) in read::texts(node, "types of content", findings) {
        match text.split_once('/') {
            Some((kind, below)) if token(kind) && (below == "*" || token(below)) => {
                types.push(text.to_ascii_lowercase())
            }
            _ => {
                findings
                    .error(node, "unknown_value", format!("`{}` is not a type of content", shown(text)))
                    .help("write `text/html`, or `text/*`");
            }
        }
    }
    types
}
