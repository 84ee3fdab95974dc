//! The OpenAPI 3.1 document of the HTTP address. What bodies of reads say is described by the messages of the gRPC API, in
//! JSON; here stands who may call what, and how it can end.

use axum::Json;
use serde_json::{Map, Value, json};

/// One operation of one path.
struct Operation {
    path: &'static str,
    method: &'static str,
    summary: &'static str,
    access: Access,
    /// Status and schema of each answer but the refusals that follow from the rest.
    answers: &'static [(u16, &'static str)],
    /// Names of parameters in the query.
    query: &'static [&'static str],
    /// Schema of the body.
    body: Option<&'static str>,
}

/// Who may call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Open,
    Viewer,
    Sandbox,
}

const fn read(path: &'static str, summary: &'static str, answers: &'static [(u16, &'static str)]) -> Operation {
    Operation { path, method: "get", summary, access: Access::Viewer, answers, query: &[], body: None }
}

const fn open(path: &'static str, summary: &'static str, answers: &'static [(u16, &'static str)]) -> Operation {
    Operation { access: Access::Open, ..read(path, summary, answers) }
}

const fn change(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    answers: &'static [(u16, &'static str)],
) -> Operation {
    Operation { method, access: Access::Sandbox, ..read(path, summary, answers) }
}

const PAGE: &[&str] = &["page_size", "page_token"];

const OPERATIONS: &[Operation] = &[
    open("/", "Links to what can be read", &[(200, "@html")]),
    open("/healthz", "Whether the process runs", &[(200, "Status")]),
    open("/readyz", "Whether it can work", &[(200, "Status"), (503, "Error")]),
    open("/metrics", "Metrics in the Prometheus text format", &[(200, "@text"), (500, "Error")]),
    open("/api/v1/openapi.json", "This document", &[(200, "Message")]),
    read("/api/v1/fleet", "Agents and proxies: `GetFleetResponse`", &[(200, "Message")]),
    Operation {
        query: PAGE,
        ..read("/api/v1/rollouts", "Rollouts, the newest first: `RolloutServiceListResponse`", &[(200, "Message")])
    },
    read("/api/v1/rollouts/{revision}", "One rollout: `Rollout`", &[(200, "Message"), (404, "Error")]),
    Operation {
        query: PAGE,
        ..read("/api/v1/revisions", "Revisions, the newest first: `ListRevisionsResponse`", &[(200, "Message")])
    },
    read("/api/v1/revisions/{revision}", "One revision with its text: `Revision`", &[(200, "Message"), (404, "Error")]),
    Operation {
        access: Access::Sandbox,
        ..read("/routes", "Sandbox routes of the fleet", &[(200, "SandboxRoutes"), (500, "Error")])
    },
    Operation {
        body: Some("NewSandboxRoute"),
        ..change(
            "post",
            "/routes",
            "Adds a sandbox route",
            &[(201, "Added"), (409, "Error"), (413, "Error"), (500, "Error"), (503, "Error")],
        )
    },
    change("post", "/routes/reload", "Reads the sandbox routes again", &[(200, "Status"), (500, "Error")]),
    change(
        "delete",
        "/routes/{id}",
        "Takes a sandbox route out",
        &[(200, "Status"), (404, "Error"), (500, "Error"), (503, "Error")],
    ),
    change(
        "delete",
        "/sandboxes/{id}",
        "Takes all routes of a sandbox out",
        &[(200, "Deleted"), (404, "Error"), (500, "Error"), (503, "Error")],
    ),
];

/// `GET /api/v1/openapi.json`
pub(super) async fn document() -> Json<Value> {
    Json(made())
}

fn made() -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described(operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sealane authority HTTP API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Health, metrics and the main reads of a fleet, and its sandbox routes. Changes of the config go \
                            over gRPC.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": {
                "type": "http", "scheme": "bearer",
                "description": "A token of the authority; `authority --dev` asks for none",
            } },
            "schemas": schemas(),
        },
    })
}

fn described(operation: &Operation) -> Value {
    let mut answers = Map::new();
    for (status, schema) in operation.answers {
        answers.insert(status.to_string(), response(*status, schema));
    }
    let mut refusal = |status: u16| {
        answers.entry(status.to_string()).or_insert_with(|| response(status, "Error"));
    };
    refusal(403);
    if operation.access != Access::Open {
        [401, 500, 503].into_iter().for_each(&mut refusal);
    }
    let in_path = operation.path.split(['{', '}']).nth(1);
    if operation.body.is_some() || !operation.query.is_empty() || in_path.is_some() {
        refusal(400);
    }
    let words: String = operation.path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let mut out = json!({
        "summary": operation.summary,
        "operationId": format!("{}{}", operation.method, words.trim_end_matches('_')),
        "responses": answers,
    });
    let places = operation.query.iter().map(|&name| (name, "query")).chain(in_path.map(|name| (name, "path")));
    let parameters: Vec<Value> = places.map(|(name, place)| parameter(operation, name, place)).collect();
    if !parameters.is_empty() {
        out["parameters"] = parameters.into();
    }
    if let Some(schema) = operation.body {
        out["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": { "$ref": format!("#/components/schemas/{schema}") } } },
        });
    }
    let role = match operation.access {
        Access::Open => return out,
        Access::Viewer => "viewer",
        Access::Sandbox => "sandbox",
    };
    out["security"] = json!([{ "token": [] }, {}]);
    out["description"] = format!("For tokens with the role `{role}`, or one that may do more.").into();
    out
}

fn parameter(operation: &Operation, name: &str, place: &str) -> Value {
    let number = json!({ "type": "integer", "minimum": 0 });
    let (about, schema) = match name {
        "page_size" => ("Rows of a page, 1000 at most; 0: 50", number),
        "page_token" => ("`next_page_token` of the page before", json!({ "type": "string", "pattern": "^[0-9]*$" })),
        "revision" => ("Number of a revision", number),
        _ if operation.path.starts_with("/sandboxes") => ("A sandbox", json!({ "type": "string", "minLength": 1 })),
        _ => ("A route", json!({ "type": "integer", "minimum": 1 })),
    };
    json!({ "name": name, "in": place, "required": place == "path", "description": about, "schema": schema })
}

fn response(status: u16, schema: &str) -> Value {
    let about = match status {
        200 => "Done",
        201 => "Added; `X-Sealane-Sandbox-Revision` names the signed revision that holds it",
        400 => "The request cannot be read",
        401 => "A bearer token is required",
        403 => "A foreign page, a name that is not served here, or a token that may not",
        404 => "There is none",
        409 => "There is such a route already",
        413 => "The body is too large",
        500 => "The authority failed",
        _ => "Not now",
    };
    let content = match schema {
        "@text" => json!({ "text/plain": { "schema": { "type": "string" } } }),
        "@html" => json!({ "text/html": { "schema": { "type": "string" } } }),
        schema => json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{schema}") } } }),
    };
    json!({ "description": about, "content": content })
}

fn schemas() -> Value {
    let text = json!({ "type": "string" });
    let route = json!({
        "type": "object",
        "required": ["id", "sandbox_id", "pattern", "target_url", "priority"],
        "properties": {
            "id": { "type": "integer" }, "sandbox_id": text, "pattern": text, "target_url": text,
            "priority": { "type": "integer" }, "expires_at": { "type": "string", "format": "date-time" },
        },
    });
    json!({
        "Status": { "type": "object", "required": ["status"], "properties": { "status": text } },
        "Message": { "type": "object", "description": "A message of the gRPC API, named in the summary" },
        "SandboxRoutes": { "type": "array", "items": route },
        "NewSandboxRoute": {
            "type": "object",
            "required": ["sandbox_id", "pattern", "target_url"],
            "additionalProperties": false,
            "properties": {
                "sandbox_id": text, "pattern": text, "target_url": text, "priority": { "type": "integer" },
                "ttl": { "type": "string", "description": "Such as `8h`" },
            },
        },
        "Added": { "type": "object", "required": ["id"], "properties": { "id": { "type": "integer" } } },
        "Deleted": {
            "type": "object",
            "required": ["deleted", "sandbox_id"],
            "properties": { "deleted": { "type": "integer" }, "sandbox_id": text },
        },
        "Error": {
            "type": "object",
            "required": ["error", "category"],
            "properties": { "error": text, "category": text, "detail": text },
        },
    })
}
