//! What the admin listener answers: one table, from which requests are routed and the OpenAPI document is made, so that
//! the document cannot say anything else than what is served.

use std::sync::Arc;

use axum::Router;
use axum::routing::{MethodRouter, delete, get, post};

use super::{cache, config, drain, explain, live, openapi, pools, probe, tail};
use crate::shared::Shared;

/// One method of one path.
#[derive(Clone, Copy)]
pub(super) struct Operation {
    /// In lower case.
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    handler: fn() -> MethodRouter<Arc<Shared>>,
    pub(super) summary: &'static str,
    pub(super) parameters: &'static [Parameter],
    pub(super) body: Body,
    /// Status and schema; refusals are added by what the operation is.
    pub(super) answers: &'static [(u16, &'static str)],
    pub(super) access: Access,
}

/// A parameter of the path or the query.
#[derive(Clone, Copy)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// `path` or `query`.
    pub(super) place: &'static str,
    /// Name of a schema, or `[name]` for a parameter that may come several times.
    pub(super) schema: &'static str,
    pub(super) about: &'static str,
}

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    None,
    /// A config, raw or wrapped.
    Config,
    /// A JSON object of this schema.
    Json(&'static str),
    /// The same; it may be left out.
    OptionalJson(&'static str),
}

/// Who may ask, and how often.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Anybody.
    Open,
    /// Whoever has the token, where there is one.
    Guarded,
    /// The same, and each address only so often: it takes time and memory.
    Limited,
}

const fn parameter(place: &'static str, name: &'static str, schema: &'static str, about: &'static str) -> Parameter {
    Parameter { name, place, schema, about }
}

const EXPLAIN: &[Parameter] = &[
    parameter("query", "url", "AbsoluteUrl", "The request's URL, with scheme and host; this or `request_id`"),
    parameter("query", "method", "Text", "The request's method; GET unless told otherwise"),
    parameter("query", "header", "[Text]", "`Name: value` of a request header, as often as needed"),
    parameter("query", "request_id", "Text", "A request of the past, while it is remembered"),
];
const APPLY: &[Parameter] = &[
    parameter("query", "dry_run", "Flag", "Everything but the swap"),
    parameter("query", "break_glass", "Flag", "On a proxy of a fleet: serve it until the agent's next command"),
];
const POOL: &[Parameter] = &[parameter("path", "id", "Text", "The pool")];
const DOMAIN: &[Parameter] = &[parameter("path", "domain", "Text", "The host")];
const TAIL: &[Parameter] = &[
    parameter("query", "route", "Text", "Only this route"),
    parameter("query", "pool", "Text", "Only this pool"),
    parameter("query", "status", "StatusFilter", "Only this status, or a class such as 5xx"),
    parameter("query", "host", "Text", "Only this host"),
    parameter("query", "path_prefix", "Text", "Only paths that begin so"),
    parameter("query", "min_duration_ms", "Count", "Only requests that took at least so long"),
    parameter("query", "lines", "Count", "End after so many"),
    parameter("query", "seconds", "Count", "End after so long"),
];

const fn operation(
    method: &'static str,
    path: &'static str,
    handler: fn() -> MethodRouter<Arc<Shared>>,
    summary: &'static str,
    answers: &'static [(u16, &'static str)],
    access: Access,
) -> Operation {
    Operation { method, path, handler, summary, parameters: &[], body: Body::None, answers, access }
}

impl Operation {
    const fn with(mut self, parameters: &'static [Parameter]) -> Self {
        self.parameters = parameters;
        self
    }

    const fn taking(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
}

/// All of them.
pub(super) const OPERATIONS: &[Operation] = &{
    use Access::{Guarded, Limited, Open};
    const CHECKED: &[(u16, &str)] = &[(200, "Validated")];
    const APPLIED: &[(u16, &str)] = &[(200, "Applied"), (409, "Error"), (503, "Error")];
    const ROLLED_BACK: &[(u16, &str)] =
        &[(200, "RolledBack"), (404, "Error"), (409, "Error"), (422, "Invalid"), (503, "Error")];
    [
        operation("get", "/healthz", || get(probe::healthz), "The process lives", &[(200, "Health")], Open),
        operation(
            "get",
            "/ready",
            || get(probe::ready),
            "It takes requests",
            &[(200, "Health"), (503, "NotReady")],
            Open,
        ),
        operation("get", "/readyz", || get(probe::ready), "The same", &[(200, "Health"), (503, "NotReady")], Open),
        operation(
            "get",
            "/metrics",
            || get(probe::metrics),
            "Prometheus metrics",
            &[(200, "@text"), (404, "Error")],
            Guarded,
        ),
        operation(
            "get",
            "/api/v2/openapi.json",
            || get(openapi::document),
            "This document",
            &[(200, "Document")],
            Guarded,
        ),
        operation(
            "post",
            "/api/v2/config/validate",
            || post(config::validate),
            "Check a config; changes nothing",
            CHECKED,
            Limited,
        )
        .taking(Body::Config),
        operation("post", "/api/v2/config/apply", || post(config::apply), "Serve a config", APPLIED, Limited)
            .with(APPLY)
            .taking(Body::Config),
        operation(
            "post",
            "/api/v2/config/diff",
            || post(config::diff),
            "What differs from what is served",
            &[(200, "Diff"), (404, "Error")],
            Limited,
        )
        .taking(Body::Config),
        operation(
            "get",
            "/api/v2/config/current",
            || get(config::current),
            "What is served, without secrets",
            &[(200, "Current"), (404, "Error")],
            Guarded,
        ),
        operation(
            "post",
            "/api/v2/config/rollback",
            || post(config::rollback),
            "Serve an earlier version",
            ROLLED_BACK,
            Limited,
        )
        .taking(Body::OptionalJson("Rollback")),
        operation("post", "/admin/validate", || post(config::validate), "As /api/v2/config/validate", CHECKED, Limited)
            .taking(Body::Config),
        operation("post", "/admin/config", || post(config::apply), "As /api/v2/config/apply", APPLIED, Limited)
            .with(APPLY)
            .taking(Body::Config),
        operation(
            "get",
            "/admin/snapshot",
            || get(config::snapshot),
            "What is served, in short",
            &[(200, "Snapshot"), (404, "Error")],
            Guarded,
        ),
        operation(
            "post",
            "/admin/rollback",
            || post(config::rollback),
            "As /api/v2/config/rollback",
            ROLLED_BACK,
            Limited,
        )
        .taking(Body::OptionalJson("Rollback")),
        operation("get", "/api/v2/drain", || get(drain::state), "How far a shutdown is", &[(200, "Drain")], Guarded),
        operation("post", "/api/v2/drain", || post(drain::begin), "Begin a shutdown", &[(202, "Drain")], Guarded),
        operation(
            "get",
            "/api/v2/explain",
            || get(explain::explain),
            "Which route takes a request, and why",
            &[(200, "Account"), (404, "Error")],
            Guarded,
        )
        .with(EXPLAIN),
        operation(
            "get",
            "/api/v2/samples",
            || get(probe::samples),
            "Recent requests as decisions saw them",
            &[(200, "Samples")],
            Guarded,
        ),
        operation(
            "get",
            "/api/v2/tail",
            || get(tail::follow),
            "Requests as they end, one JSON object a line",
            &[(200, "@lines"), (503, "Error")],
            Guarded,
        )
        .with(TAIL),
        operation(
            "get",
            "/api/v2/pools/{id}/health",
            || get(pools::health),
            "Each endpoint of a pool",
            &[(200, "PoolHealth"), (404, "Error")],
            Guarded,
        )
        .with(POOL),
        operation(
            "get",
            "/api/v2/breakers",
            || get(live::breakers),
            "Every circuit breaker",
            &[(200, "Breakers")],
            Guarded,
        ),
        operation(
            "get",
            "/api/v2/traffic/canary",
            || get(live::traffic),
            "Every traffic plan",
            &[(200, "Traffic")],
            Guarded,
        ),
        operation(
            "get",
            "/api/v2/cache/stats",
            || get(cache::stats),
            "What is stored",
            &[(200, "CacheStats")],
            Guarded,
        ),
        operation(
            "post",
            "/api/v2/cache/purge",
            || post(cache::purge),
            "Take stored answers out",
            &[(200, "Purged")],
            Guarded,
        )
        .taking(Body::Json("Purge")),
        operation(
            "delete",
            "/admin/cache/{domain}",
            || delete(cache::purge_domain),
            "Take a host's stored answers out",
            &[(200, "PurgedDomain")],
            Guarded,
        )
        .with(DOMAIN),
    ]
};

/// The routes of those operations.
pub(super) fn routes(wanted: impl Fn(Access) -> bool) -> Router<Arc<Shared>> {
    let operations = OPERATIONS.iter().filter(|operation| wanted(operation.access));
    operations.fold(Router::new(), |router, operation| router.route(operation.path, (operation.handler)()))
}
