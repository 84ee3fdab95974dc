//! How a JWT is verified.

use std::time::Duration;

use super::edits::own_header;
use super::web_url;
use crate::config::{JwksSource, Jwt, JwtAlgorithm};
use crate::parse::fields::{Fields, mapping};
use crate::parse::findings::Findings;
use crate::parse::read::{self, shown};
use crate::parse::tree::{Node, Value};

const KEYS: &[&str] = &[
    "issuer",
    "audience",
    "jwks_file",
    "jwks_url",
    "ca_file",
    "algorithms",
    "leeway",
    "claims_to_headers",
    "forward_token",
];
const ALGORITHMS: &[(&str, JwtAlgorithm)] = &[
    ("RS256", JwtAlgorithm::Rs256),
    ("RS384", JwtAlgorithm::Rs384),
    ("RS512", JwtAlgorithm::Rs512),
    ("PS256", JwtAlgorithm::Ps256),
    ("PS384", JwtAlgorithm::Ps384),
    ("PS512", JwtAlgorithm::Ps512),
    ("ES256", JwtAlgorithm::Es256),
    ("ES384", JwtAlgorithm::Es384),
    ("ES512", JwtAlgorithm::Es512),
    ("EdDSA", JwtAlgorithm::EdDsa),
    ("HS256", JwtAlgorithm::Hs256),
    ("HS384", JwtAlgorithm::Hs384),
    ("HS512", JwtAlgorithm::Hs512),
];
/// Clocks that are further apart are broken, and an expired token must not live on for long.
const LEEWAY_MAX: Duration = Duration::from_secs(600);

pub(super) fn jwt(node: &Node<'_>, findings: &mut Findings) -> Option<Jwt> {
    let fields = Fields::open(node, "`jwt`", KEYS, findings)?;
    let issuer = fields.require_text("issuer", "the expected `iss`", findings);
    let jwks = match fields.at_most_one(&["jwks_file", "jwks_url"], findings) {
        Some(("jwks_file", node)) => JwksSource::File(read::text(node, "the path of a file", findings)?.to_owned()),
        Some((_, node)) => JwksSource::Url(key_url(node, findings)?),
        None => {
            // The issuer's discovery document is fetched, so the issuer must be a URL.
            if let Some(node) = fields.get("issuer") {
                key_url(node, findings)?;
            }
            JwksSource::Discovery
        }
    };
    if let (Some(node), JwksSource::File(_)) = (fields.get("ca_file"), &jwks) {
        findings.error(node, "conflicting_keys", "keys from a file need no CA").help("remove `ca_file`");
    }
    let leeway = fields.duration_or_zero("leeway", Duration::from_secs(60), findings);
    if let Some(node) = fields.get("leeway").filter(|_| leeway > LEEWAY_MAX) {
        findings.error(node, "out_of_range", "at most `10m`").help("let the clocks be set, by NTP or the like");
    }
    let algorithms = fields.get("algorithms").map(|node| algorithms(node, &jwks, findings)).unwrap_or_default();
    Some(Jwt {
        issuer: issuer?.to_owned(),
        audiences: fields.get("audience").map(|node| audiences(node, findings)).unwrap_or_default(),
        jwks,
        ca_file: fields.text("ca_file", "the path of a file", findings).map(Into::into),
        algorithms,
        leeway,
        claims_to_headers: fields.get("claims_to_headers").map(|node| claims(node, findings)).unwrap_or_default(),
        forward_token: fields.boolean("forward_token", true, findings),
    })
}

/// A URL that keys come from.
fn key_url(node: &Node<'_>, findings: &mut Findings) -> Option<String> {
    let url = web_url(node, findings)?;
    let host = url.strip_prefix("http://").map(|rest| rest.split(['/', '?']).next().unwrap_or(rest));
    let loopback = |host: &str| {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        matches!(name, "localhost" | "[::1]") || name.starts_with("127.")
    };
    if host.is_some_and(|host| !loopback(host)) {
        findings
            .warning(node, "plain_text_keys", "keys that come in plain text can be replaced on their way")
            .help("use `https://`");
    }
    Some(url)
}

/// One audience, or a list of them.
fn audiences(node: &Node<'_>, findings: &mut Findings) -> Vec<String> {
    let all = match &node.value {
        Value::List(_) => read::texts(node, "audiences", findings),
        Value::Map(_) | Value::Scalar { .. } => {
            read::text(node, "the expected `aud`", findings).map(|text| (node, text)).into_iter().collect()
        }
    };
    if all.is_empty() {
        findings.error(node, "empty_value", "no audience is left").help("remove the key to accept any audience");
    }
    for (node, text) in &all {
        if text.trim().is_empty() {
            findings.error(*node, "empty_value", "must not be blank");
        }
    }
    all.into_iter().map(|(_, text)| text.to_owned()).collect()
}

fn algorithms(node: &Node<'_>, jwks: &JwksSource, findings: &mut Findings) -> Vec<JwtAlgorithm> {
    let mut all = Vec::new();
    let items = read::list(node, "algorithms", findings).unwrap_or_default();
    if items.is_empty() {
        findings.error(node, "empty_value", "no token could pass").help("remove the key to go by the keys alone");
    }
    for item in items {
        if item.scalar().is_some_and(|text| text.eq_ignore_ascii_case("none")) {
            findings.error(item, "unknown_value", "`none` would let anybody in");
            continue;
        }
        let Some(algorithm) = read::one_of(item, ALGORITHMS, findings) else { continue };
        let shared = matches!(algorithm, JwtAlgorithm::Hs256 | JwtAlgorithm::Hs384 | JwtAlgorithm::Hs512);
        if shared && !matches!(jwks, JwksSource::File(_)) {
            findings
                .error(item, "conflicting_keys", "a shared secret cannot come from a URL")
                .help("use `jwks_file`, or an algorithm with public keys");
        }
        all.push(algorithm);
    }
    all
}

/// Claims that are passed on as headers.
fn claims(node: &Node<'_>, findings: &mut Findings) -> Vec<(String, String)> {
    const CLAIMS_MAX: usize = 32;
    let mut all: Vec<(String, String)> = Vec::new();
    let entries = mapping(node, "claims and their headers", findings).unwrap_or_default();
    if entries.len() > CLAIMS_MAX {
        findings.error(node, "out_of_range", format!("at most {CLAIMS_MAX} claims can be passed on"));
    }
    for (claim, header) in entries {
        let Some(name) = own_header(header, findings) else { continue };
        if all.iter().any(|(_, known)| known.eq_ignore_ascii_case(&name)) {
            findings.error(header, "duplicate_key", format!("two claims are passed on as `{}`", shown(&name)));
            continue;
        }
        all.push((claim.text.to_string(), name));
    }
    all
}
