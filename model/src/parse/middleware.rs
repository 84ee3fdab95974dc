//! Middleware chains and plugins.

use std::sync::Arc;
use std::time::Duration;

use super::address;
use super::fields::{Fields, Names};
use super::findings::Findings;
use super::policy::rate_limit;
use super::read::{self, shown};
use super::support::Feature;
use super::tree::{Node, Value};
use crate::config::{
    AcceptId, Chain, ChainId, Config, Plugin, PluginId, PluginKind, PluginProtocol, Policy, RequestId, Route, Stage,
};

mod compression;
mod cors;
mod edits;
mod jwt;
mod redirect;

/// Plugins that are part of the proxy.
const BUILTIN: &[(&str, &str)] = &[("structured_logger", "structured_logger")];
/// Stages of one chain.
const STAGES_MAX: usize = 64;
/// Plugins of a config.
pub(super) const PLUGINS_MAX: usize = 200;

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
    if items.len() > STAGES_MAX {
        findings.error(node, "out_of_range", format!("a chain has {STAGES_MAX} stages at most, not {}", items.len()));
    }
    chain.stages = items.iter().filter_map(|item| stage(item, references, findings)).collect();
    check_order(items, &chain.stages, findings);
    chain
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StageType {
    RequestId,
    Auth,
    RateLimit,
    HeaderTransform,
    Cors,
    Compression,
    Redirect,
    Plugin,
    Tracing,
    AccessLog,
}

const STAGES: &[(&str, StageType)] = &[
    ("request_id", StageType::RequestId),
    ("auth", StageType::Auth),
    ("rate_limit", StageType::RateLimit),
    ("header_transform", StageType::HeaderTransform),
    ("cors", StageType::Cors),
    ("compression", StageType::Compression),
    ("redirect", StageType::Redirect),
    ("plugin", StageType::Plugin),
    ("tracing", StageType::Tracing),
    ("access_log", StageType::AccessLog),
];

fn stage(node: &Node<'_>, references: &mut References<'_, '_>, findings: &mut Findings) -> Option<Stage> {
    // A stage without options may be written as its name alone.
    if let Some(name) = node.scalar().filter(|_| !node.is_null()) {
        if let Some((_, kind @ (StageType::RequestId | StageType::AccessLog))) =
            STAGES.iter().find(|(known, _)| *known == name)
        {
            return Some(if *kind == StageType::RequestId {
                Stage::RequestId(RequestId::default())
            } else {
                Stage::AccessLog { sample_percent: 100.0 }
            });
        }
        let found = findings.error(node, "wrong_type", format!("expected a stage, found `{}`", shown(name)));
        found.help("write `- type: …`").suggest(format!("type: {name}"));
        return None;
    }
    let kind = match node.get("type") {
        Some(kind) => read::one_of(kind, STAGES, findings)?,
        None => {
            let fields = Fields::open(node, "a stage", &["type", "config", "policy_ref", "plugin_ref"], findings)?;
            fields.require("type", "such as `request_id`", findings);
            return None;
        }
    };
    let keys: &[&str] = match kind {
        StageType::Tracing => &["type"],
        StageType::RateLimit => &["type", "config", "policy_ref"],
        StageType::Plugin => &["type", "plugin_ref"],
        StageType::RequestId
        | StageType::Auth
        | StageType::HeaderTransform
        | StageType::Cors
        | StageType::Compression
        | StageType::Redirect
        | StageType::AccessLog => &["type", "config"],
    };
    let fields = Fields::open(node, "this stage", keys, findings)?;
    match kind {
        StageType::RequestId => Some(Stage::RequestId(
            fields.get("config").map_or_else(RequestId::default, |node| request_id(node, findings)),
        )),
        StageType::AccessLog => {
            let sample_percent = fields.get("config").and_then(|node| access_log(node, findings)).unwrap_or(100.0);
            Some(Stage::AccessLog { sample_percent })
        }
        StageType::Tracing => {
            if let Some(node) = fields.get("type") {
                findings.uses(node, Feature::Tracing);
            }
            Some(Stage::Tracing)
        }
        StageType::Auth => {
            let config = fields.require("config", "`{ jwt: { issuer: … } }`", findings)?;
            let fields = Fields::open(config, "`config` of `auth`", &["jwt"], findings)?;
            let jwt = jwt::jwt(fields.require("jwt", "`{ issuer: … }`", findings)?, findings)?;
            Some(Stage::Auth(Box::new(jwt)))
        }
        StageType::RateLimit => limit(&fields, references, findings),
        StageType::HeaderTransform => {
            let node = fields.require("config", "`{ add: …, set: …, remove: …, response: … }`", findings)?;
            edits::header_transform(node, findings).map(Stage::HeaderTransform)
        }
        StageType::Cors => {
            cors::cors(fields.require("config", "`{ origins: [https://app.example.com] }`", findings)?, findings)
                .map(Stage::Cors)
        }
        StageType::Compression => compression::compression(fields.get("config"), findings).map(Stage::Compression),
        StageType::Redirect => {
            let node = fields.require("config", "`{ to: \"https://{host}{path}{query}\" }`", findings)?;
            redirect::redirect(node, findings).map(Stage::Redirect)
        }
        StageType::Plugin => {
            let node = fields.require("plugin_ref", "the id of a plugin", findings)?;
            references.plugins.find(node, findings).map(Stage::Plugin)
        }
    }
}

/// Names plugins that, when they are away, refuse requests which anybody may send.
pub(super) fn warn_of_public_refusals(config: &Config, nodes: &[(&str, &Node<'_>)], findings: &mut Findings) {
    for plugin in config.plugins.iter().enumerate().filter(|(_, plugin)| plugin.fail_closed).map(|(index, _)| index) {
        if !matches!(config.plugins[plugin].kind, PluginKind::ExternalGrpc { .. }) {
            continue;
        }
        let asks = |route: &&Arc<Route>| {
            let chain = route.middleware.and_then(|chain| config.middleware.get(chain));
            !route.require_mtls && chain.is_some_and(|chain| chain.stages.contains(&Stage::Plugin(plugin)))
        };
        let Some(route) = config.routes.iter().find(asks) else { continue };
        let id = &config.plugins[plugin].id.0;
        let Some((_, node)) = nodes.iter().find(|(named, _)| named == id) else { continue };
        let spot = node.get("fail_mode").unwrap_or(node);
        let message =
            format!("while the plugin `{id}` is away, everybody who asks for the route `{}` gets 503", route.id);
        findings
            .warning(spot, "public_fail_closed", message)
            .help("right for a plugin that decides who may pass; `fail_mode: open` for one that only adds something");
    }
}

/// What cannot work in the order written.
fn check_order(items: &[Node<'_>], stages: &[Stage], findings: &mut Findings) {
    // With errors among them, stages and nodes do not go in pairs.
    if items.len() != stages.len() {
        return;
    }
    let mut authenticated = false;
    let mut compressions = 0;
    for (node, stage) in items.iter().zip(stages) {
        match stage {
            Stage::Auth(_) => authenticated = true,
            Stage::RateLimit { limit, .. }
                if matches!(limit.key, crate::config::RateLimitKey::Claim(_)) && !authenticated =>
            {
                findings
                    .error(node, "bad_order", "a limit by claim needs a verified token, and no `auth` stands before it")
                    .help("move the `auth` stage up");
            }
            Stage::Compression(_) => {
                compressions += 1;
                if compressions == 2 {
                    findings.error(node, "repeated_stage", "an answer is compressed once").help("keep one of them");
                }
            }
            Stage::Cors(_) if authenticated => {
                findings
                    .warning(
                        node,
                        "preflight_refused",
                        "preflight requests carry no token, so `auth` refuses them before this",
                    )
                    .help("move the `cors` stage up");
            }
            _ => {}
        }
    }
}

fn request_id(node: &Node<'_>, findings: &mut Findings) -> RequestId {
    let default = RequestId::default();
    let Some(fields) = Fields::open(node, "`config` of `request_id`", &["header", "accept", "response"], findings)
    else {
        return default;
    };
    let words = &[("any", AcceptId::Any), ("trusted", AcceptId::Trusted), ("never", AcceptId::Never)];
    RequestId {
        header: fields.get("header").and_then(|node| edits::own_header(node, findings)).unwrap_or(default.header),
        accept: fields.one_of("accept", words, default.accept, findings),
        response: fields.boolean("response", default.response, findings),
    }
}

fn access_log(node: &Node<'_>, findings: &mut Findings) -> Option<f64> {
    let fields = Fields::open(node, "`config` of `access_log`", &["sample_percent"], findings)?;
    Some(fields.percent("sample_percent", 100.0, findings))
}

fn limit(fields: &Fields<'_, '_>, references: &mut References<'_, '_>, findings: &mut Findings) -> Option<Stage> {
    match fields.at_most_one(&["policy_ref", "config"], findings) {
        Some(("policy_ref", node)) => {
            let policy = references.all_policies.get(references.policies.find(node, findings)?)?;
            if policy.rate_limit.is_none() {
                findings
                    .error(node, "missing_key", "this policy has no `rate_limit`")
                    .help("add one to the policy, or write it here as `config`");
            }
            Some(Stage::RateLimit { limit: policy.rate_limit.clone()?, policy: policy.id.clone() })
        }
        Some((_, node)) => Some(Stage::RateLimit { limit: rate_limit(node, findings)?, policy: None }),
        None => {
            fields.require("policy_ref", "the id of a policy with `rate_limit`, or `config: …`", findings);
            None
        }
    }
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
/// A plugin.
pub(super) fn plugin(id: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Plugin> {
    const ALL: &[&str] =
        &["id", "type", "address", "timeout", "fail_mode", "protocol", "pass_credentials", "ca_file", "name"];
    let (external, keys): (bool, &[&str]) = match node.get("type") {
        Some(kind) if read::one_of(kind, &[("external_grpc", true), ("builtin", false)], findings)? => {
            (true, &ALL[..ALL.len() - 1])
        }
        Some(_) => (false, &["id", "type", "name", "fail_mode"]),
        None => {
            let keys = ALL;
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
            if target.scheme == crate::config::Scheme::H2c {
                let message = "plugins are spoken to by HTTP/2 in any case";
                findings.error(node, "bad_address", message).help("write `host:port` or `https://host:port`");
                return None;
            }
            Some(target)
        });
        let timeout = fields.duration("timeout", Duration::from_millis(50), findings);
        let protocols = &[("sealane", PluginProtocol::Sealane), ("ext_authz", PluginProtocol::ExtAuthz)];
        let protocol = fields.one_of("protocol", protocols, PluginProtocol::Sealane, findings);
        let pass_credentials = fields.boolean("pass_credentials", protocol == PluginProtocol::ExtAuthz, findings);
        let ca_file = fields.text("ca_file", "the path of a file", findings).map(str::to_owned);
        let target = address?;
        if let Some(node) = fields.get("ca_file")
            && target.scheme != crate::config::Scheme::Https
        {
            let message = "a CA is of no use without TLS";
            findings.error(node, "conflicting_keys", message).help("write the address as `https://host:port`");
            return None;
        }
        let scheme = if target.origin.contains("://") { "" } else { "http://" };
        PluginKind::ExternalGrpc {
            origin: format!("{scheme}{}", target.origin),
            ca_file,
            timeout,
            protocol,
            pass_credentials,
        }
    } else {
        let node = fields.require("name", "such as `structured_logger`", findings)?;
        PluginKind::Builtin { name: read::one_of(node, BUILTIN, findings)?.to_owned() }
    };
    let fail_closed = fields.one_of("fail_mode", &[("closed", true), ("open", false)], true, findings);
    Some(Plugin { id: PluginId(id.to_owned()), kind, fail_closed, at: node.at() })
}
