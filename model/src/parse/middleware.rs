//! Middleware chains and plugins.

use std::time::Duration;

use super::address;
use super::fields::{Fields, Names};
use super::findings::Findings;
use super::header::{header_name, header_values};
use super::policy::rate_limit;
use super::read::{self, shown};
use super::support::Feature;
use super::tree::{Node, Value};
use crate::config::{
    Chain, ChainId, HeaderEdits, JwksSource, Jwt, Plugin, PluginId, PluginKind, Policy, RateLimit, Stage,
};

/// Plugins that are part of the proxy.
const BUILTIN: &[(&str, &str)] = &[("structured_logger", "structured_logger")];
/// Headers that carry credentials: their values must come from a secret.
const CREDENTIAL_HEADERS: &[&str] = &["authorization", "cookie", "proxy-authorization", "x-api-key"];

/// What stages refer to.
#[derive(Debug)]
pub(super) struct References<'a, 'n> {
    pub(super) policies: &'a mut Names<'n>,
    pub(super) all_policies: &'a [Policy],
    pub(super) plugins: &'a mut Names<'n>,
}

/// A chain.
pub(super) fn chain(id: &str, node: &Node<'_>, references: &mut References<'_, '_>, findings: &mut Findings) -> Chain {
    let mut chain = Chain { id: ChainId(id.to_owned()), stages: Vec::new(), at: node.at() };
    let items = match &node.value {
        Value::List(items) => items.as_slice(),
        Value::Map(_) | Value::Scalar { .. } => {
            let Some(fields) = Fields::open(node, "a chain", &["id", "stages"], findings) else { return chain };
            let Some(stages) = fields.require("stages", "a list of stages", findings) else { return chain };
            read::list(stages, "stages", findings).unwrap_or_default()
        }
    };
    chain.stages = items.iter().filter_map(|item| stage(item, references, findings)).collect();
    chain
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StageType {
    RequestId,
    Auth,
    RateLimit,
    HeaderTransform,
    Plugin,
    Tracing,
    AccessLog,
}

const STAGES: &[(&str, StageType)] = &[
    ("request_id", StageType::RequestId),
    ("auth", StageType::Auth),
    ("rate_limit", StageType::RateLimit),
    ("header_transform", StageType::HeaderTransform),
    ("plugin", StageType::Plugin),
    ("tracing", StageType::Tracing),
    ("access_log", StageType::AccessLog),
];

fn stage(node: &Node<'_>, references: &mut References<'_, '_>, findings: &mut Findings) -> Option<Stage> {
    let kind = match node.get("type") {
        Some(kind) => read::one_of(kind, STAGES, findings)?,
        None => {
            let fields = Fields::open(node, "a stage", &["type", "config", "policy_ref", "plugin_ref"], findings)?;
            fields.require("type", "such as `request_id`", findings);
            return None;
        }
    };
    let keys: &[&str] = match kind {
        StageType::RequestId | StageType::Tracing | StageType::AccessLog => &["type"],
        StageType::Auth | StageType::HeaderTransform => &["type", "config"],
        StageType::RateLimit => &["type", "config", "policy_ref"],
        StageType::Plugin => &["type", "plugin_ref"],
    };
    let fields = Fields::open(node, "this stage", keys, findings)?;
    match kind {
        StageType::RequestId => Some(Stage::RequestId),
        StageType::AccessLog => Some(Stage::AccessLog),
        StageType::Tracing => {
            if let Some(node) = fields.get("type") {
                findings.uses(node, Feature::Tracing);
            }
            Some(Stage::Tracing)
        }
        StageType::Auth => {
            let config = fields.require("config", "`{ jwt: { issuer: … } }`", findings)?;
            let fields = Fields::open(config, "`config` of `auth`", &["jwt"], findings)?;
            jwt(fields.require("jwt", "`{ issuer: … }`", findings)?, findings).map(Stage::Auth)
        }
        StageType::RateLimit => limit(&fields, references, findings).map(Stage::RateLimit),
        StageType::HeaderTransform => {
            header_edits(fields.require("config", "`{ add: …, set: …, remove: … }`", findings)?, findings)
                .map(Stage::HeaderTransform)
        }
        StageType::Plugin => {
            let node = fields.require("plugin_ref", "the id of a plugin", findings)?;
            references.plugins.find(node, findings).map(Stage::Plugin)
        }
    }
}

fn limit(fields: &Fields<'_, '_>, references: &mut References<'_, '_>, findings: &mut Findings) -> Option<RateLimit> {
    match fields.at_most_one(&["policy_ref", "config"], findings) {
        Some(("policy_ref", node)) => {
            let policy = references.all_policies.get(references.policies.find(node, findings)?)?;
            if policy.rate_limit.is_none() {
                findings
                    .error(node, "missing_key", "this policy has no `rate_limit`")
                    .help("add one to the policy, or write it here as `config`");
            }
            policy.rate_limit.clone()
        }
        Some((_, node)) => rate_limit(node, findings),
        None => {
            fields.require("policy_ref", "the id of a policy with `rate_limit`, or `config: …`", findings);
            None
        }
    }
}

fn jwt(node: &Node<'_>, findings: &mut Findings) -> Option<Jwt> {
    let fields = Fields::open(node, "`jwt`", &["issuer", "audience", "jwks_file", "jwks_url"], findings)?;
    let issuer = fields.require_text("issuer", "the expected `iss`", findings);
    let jwks = match fields.at_most_one(&["jwks_file", "jwks_url"], findings) {
        Some(("jwks_file", node)) => JwksSource::File(read::text(node, "the path of a file", findings)?.to_owned()),
        Some((_, node)) => JwksSource::Url(web_url(node, findings)?),
        None => {
            // The issuer's discovery document is fetched, so the issuer must be a URL.
            if let Some(node) = fields.get("issuer") {
                web_url(node, findings)?;
            }
            JwksSource::Discovery
        }
    };
    let audience = fields.text("audience", "the expected `aud`", findings).map(Into::into);
    Some(Jwt { issuer: issuer?.to_owned(), audience, jwks })
}

/// An `http://` or `https://` URL as written.
pub(super) fn web_url(node: &Node<'_>, findings: &mut Findings) -> Option<String> {
    let target = address::url(node, findings)?;
    if target.scheme == crate::config::Scheme::H2c {
        findings.error(node, "bad_address", "write `http://` or `https://` here");
        return None;
    }
    node.scalar().map(Into::into)
}

fn header_edits(node: &Node<'_>, findings: &mut Findings) -> Option<HeaderEdits> {
    let fields = Fields::open(node, "`config` of `header_transform`", &["add", "set", "remove"], findings)?;
    let values = |name: &str, findings: &mut Findings| {
        let Some(node) = fields.get(name) else { return Vec::new() };
        check_credentials(node, findings);
        header_values(node, findings)
    };
    let (add, set) = (values("add", findings), values("set", findings));
    let remove = match fields.get("remove") {
        Some(node) => read::list(node, "headers", findings)
            .unwrap_or_default()
            .iter()
            .filter_map(|item| header_name(item, findings))
            .collect(),
        None => Vec::new(),
    };
    Some(HeaderEdits { add, set, remove })
}

/// A credential must be a reference to a secret, never a literal.
fn check_credentials(node: &Node<'_>, findings: &mut Findings) {
    let Value::Map(entries) = &node.value else { return };
    for (name, value) in entries {
        if !CREDENTIAL_HEADERS.iter().any(|secret| name.text.eq_ignore_ascii_case(secret)) {
            continue;
        }
        findings.allow_secret(value);
        let text = value.scalar().unwrap_or_default();
        if !text.is_empty() && !text.contains("${env:") && !text.contains("${file:") {
            findings
                .error(value, "secret_literal", "a credential must not be part of a config")
                .help("write `${env:SEALANE_SECRET_NAME}` or `${file:/path}`; each node resolves it");
        }
    }
}

/// A plugin.
pub(super) fn plugin(id: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Plugin> {
    let (external, keys): (bool, &[&str]) = match node.get("type") {
        Some(kind) if read::one_of(kind, &[("external_grpc", true), ("builtin", false)], findings)? => {
            (true, &["id", "type", "address", "timeout", "fail_mode"])
        }
        Some(_) => (false, &["id", "type", "name", "fail_mode"]),
        None => {
            let keys = &["id", "type", "address", "timeout", "name", "fail_mode"];
            let fields = Fields::open(node, "a plugin", keys, findings)?;
            fields.require("type", "`external_grpc` or `builtin`", findings);
            return None;
        }
    };
    let fields = Fields::open(node, "this plugin", keys, findings)?;
    let kind = if external {
        let node = fields.require("address", "`host:port` of a gRPC server", findings);
        let address = node.and_then(|node| {
            let target = address::target(node, findings)?;
            if !matches!(&*target.path, "" | "/") {
                findings
                    .error(node, "path_in_address", format!("`{}` cannot be part of this address", shown(&target.path)))
                    .suggest(target.origin);
                return None;
            }
            node.scalar().map(str::to_owned)
        });
        let timeout = fields.duration("timeout", Duration::from_millis(50), findings);
        PluginKind::ExternalGrpc { address: address?, timeout }
    } else {
        let node = fields.require("name", "such as `structured_logger`", findings)?;
        PluginKind::Builtin { name: read::one_of(node, BUILTIN, findings)?.to_owned() }
    };
    let fail_closed = fields.one_of("fail_mode", &[("closed", true), ("open", false)], true, findings);
    Some(Plugin { id: PluginId(id.to_owned()), kind, fail_closed, at: node.at() })
}
