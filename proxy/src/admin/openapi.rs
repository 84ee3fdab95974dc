//! The OpenAPI 3.1 document of the admin listener, made from the table that routes it.

use axum::Json;
use serde_json::{Map, Value, json};

use super::api::{Access, Body, OPERATIONS, Operation, Parameter};

/// `GET /api/v2/openapi.json`
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
            "title": "Sealane proxy admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Health, metrics, config and live state of one proxy. Served on its admin address, never on a \
                            listener of the data plane.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": {
                "type": "http", "scheme": "bearer",
                "description": "Asked for where the proxy was started with an admin token",
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
    if operation.access != Access::Open {
        [401, 429].into_iter().for_each(&mut refusal);
    }
    refusal(403);
    if operation.body != Body::None || !operation.parameters.is_empty() {
        refusal(400);
    }
    if operation.body != Body::None {
        [408, 413].into_iter().for_each(&mut refusal);
    }
    if operation.body == Body::Config {
        answers.insert("422".to_owned(), response(422, "Invalid"));
    }
    let mut out = json!({
        "summary": operation.summary,
        "operationId": id(operation),
        "responses": answers,
    });
    if !operation.parameters.is_empty() {
        out["parameters"] = operation.parameters.iter().map(parameter).collect();
    }
    if let Some(body) = body(operation.body) {
        out["requestBody"] = body;
    }
    if operation.access != Access::Open {
        out["security"] = json!([{ "token": [] }, {}]);
    }
    out
}

/// Such as `post_api_v2_config_apply`.
fn id(operation: &Operation) -> String {
    let words: String = operation.path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("{}{}", operation.method, words.trim_end_matches('_'))
}

fn response(status: u16, schema: &str) -> Value {
    let about = match status {
        200 => "Done",
        202 => "Begun",
        400 => "The request cannot be read",
        401 => "A bearer token is required",
        403 => "A foreign page, or a name that is not served here",
        404 => "There is none",
        408 => "The body did not come in time",
        409 => "Not as things stand",
        413 => "The body is too large",
        422 => "The config has problems; all of them are listed",
        429 => "Too often: `Retry-After` says when again",
        _ => "Not now",
    };
    let content = match schema {
        "@text" => json!({
            "text/plain": { "schema": { "type": "string" } },
            "application/openmetrics-text": { "schema": { "type": "string" } },
        }),
        "@lines" => json!({ "application/x-ndjson": { "schema": { "type": "string" } } }),
        schema => json!({ "application/json": { "schema": reference(schema) } }),
    };
    json!({ "description": about, "content": content })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn parameter(it: &Parameter) -> Value {
    let schema = match it.schema.strip_prefix('[').and_then(|schema| schema.strip_suffix(']')) {
        Some(item) => json!({ "type": "array", "items": reference(item) }),
        None => reference(it.schema),
    };
    json!({ "name": it.name, "in": it.place, "required": it.place == "path", "description": it.about, "schema": schema })
}

fn body(body: Body) -> Option<Value> {
    match body {
        Body::None => None,
        Body::Config => Some(json!({
            "required": true,
            "description": "A config as YAML or JSON, or `{\"config\": …}` with its text or the object",
            "content": {
                "application/json": { "schema": reference("Config") },
                "application/yaml": { "schema": { "type": "string" } },
            },
        })),
        Body::Json(schema) => {
            Some(json!({ "required": true, "content": { "application/json": { "schema": reference(schema) } } }))
        }
        Body::OptionalJson(schema) => {
            Some(json!({ "required": false, "content": { "application/json": { "schema": reference(schema) } } }))
        }
    }
}

/// An object with exactly these members, all of them there.
fn object(members: Value) -> Value {
    let required: Vec<Value> =
        members.as_object().map(|map| map.keys().cloned().map(Value::from).collect()).unwrap_or_default();
    json!({ "type": "object", "properties": members, "required": required, "additionalProperties": false })
}

fn list(item: Value) -> Value {
    json!({ "type": "array", "items": item })
}

fn schemas() -> Value {
    let text = || json!({ "type": "string" });
    let maybe_text = || json!({ "type": ["string", "null"] });
    let flag = || json!({ "type": "boolean" });
    let count = || json!({ "type": "integer", "minimum": 0 });
    let maybe_count = || json!({ "type": ["integer", "null"], "minimum": 0 });
    let number = || json!({ "type": "number", "minimum": 0 });
    let sides = || object(json!({ "requests": count(), "errors": count() }));
    let error = || json!({ "error": text(), "category": text(), "error_category": text(), "request_id": text() });
    let mut with_problems = error();
    with_problems["problems"] = list(reference("Problem"));
    let mut any_error = object(error());
    any_error["additionalProperties"] = json!(true);
    let schemas: Vec<(&str, Value)> = vec![
        ("Text", text()),
        ("AbsoluteUrl", json!({ "type": "string", "format": "uri" })),
        ("Flag", json!({ "type": "string", "enum": ["true", "false"] })),
        ("Count", count()),
        ("StatusFilter", json!({ "type": "string", "pattern": "^[1-5]([0-9][0-9]|xx)$" })),
        ("Document", json!({ "type": "object" })),
        ("Error", any_error),
        ("Invalid", object(with_problems)),
        (
            "Problem",
            object(json!({
                "code": text(), "severity": { "type": "string", "enum": ["error", "warning"] }, "message": text(),
                "file": text(), "line": count(), "column": count(), "end_column": count(), "path": text(), "help": text(),
                "suggestion": maybe_text(),
            })),
        ),
        ("Health", object(json!({ "status": text() }))),
        ("NotReady", object(json!({ "status": text(), "reason": text() }))),
        (
            "Config",
            json!({
                "type": "object",
                "description": "`sealane schema` prints the whole; problems of a config are answered with 422",
            }),
        ),
        (
            "Validated",
            object(json!({
                "ok": flag(), "valid": flag(), "version": text(), "warnings": list(reference("Problem")),
            })),
        ),
        (
            "Applied",
            object(json!({
                "applied": flag(), "dry_run": flag(), "version": text(), "previous": maybe_text(),
                "warnings": list(reference("Problem")), "lasts": text(),
            })),
        ),
        (
            "Rollback",
            json!({
                "type": "object", "additionalProperties": false,
                "properties": { "version": {
                    "type": ["string", "null"],
                    "description": "As `versions` of /api/v2/config/current shows it, or its first 8 digits at least; nothing: \
                                    the one before",
                } },
            }),
        ),
        (
            "RolledBack",
            object(json!({
                "rolled_back": flag(), "version": text(), "previous": maybe_text(), "lasts": text(),
            })),
        ),
        (
            "Diff",
            object(json!({
                "identical": flag(), "version": text(), "current_version": text(), "changes": list(reference("Change")),
                "warnings": list(reference("Problem")),
            })),
        ),
        (
            "Change",
            object(json!({
                "kind": { "type": "string", "enum": ["added", "removed", "changed"] }, "what": text(), "id": text(),
                "path": text(), "before": maybe_text(), "after": maybe_text(), "line_before": count(), "line": count(),
            })),
        ),
        (
            "Current",
            object(json!({
                "revision": count(), "label": text(), "digest": text(), "version": maybe_text(), "source": maybe_text(),
                "file": maybe_text(), "since": maybe_text(),
                "versions": list(object(json!({ "version": text(), "source": text(), "since": text() }))),
                "listeners": list(object(json!({ "name": text(), "address": text(), "tls": flag() }))),
                "routes": list(object(json!({ "id": text(), "pool": text() }))),
                "pools": list(object(json!({ "id": text(), "endpoints": list(text()) }))),
                "config": { "type": ["object", "null"] },
            })),
        ),
        (
            "Snapshot",
            object(json!({
                "version": maybe_text(), "created_at": maybe_text(), "source": maybe_text(), "route_count": count(),
                "pool_count": count(),
            })),
        ),
        (
            "Drain",
            object(json!({
                "stage": { "type": "string", "enum": ["serving", "leaving", "draining", "drained"] }, "connections": count(),
            })),
        ),
        (
            "Account",
            object(json!({
                "request": text(), "decision": text(), "status": maybe_count(), "route": maybe_text(),
                "pools": list(object(json!({ "pool": text(), "percent": number() }))),
                "steps": list(object(json!({ "name": text(), "text": text(), "line": count() }))),
                "tried": list(object(json!({ "route": text(), "why": text(), "line": count() }))),
                "tried_left_out": count(), "revision": text(), "then": { "type": ["object", "null"] },
            })),
        ),
        (
            "Samples",
            object(json!({ "requests": list(object(json!({
            "request_id": text(), "method": text(), "host": text(), "path": text(),
            "headers": list(list(maybe_text())), "query": list(list(text())),
        }))) })),
        ),
        (
            "PoolHealth",
            object(json!({
                "pool": text(), "healthy": count(), "total": count(),
                "endpoints": list(object(json!({
                    "address": text(), "state": { "type": "string", "enum": ["healthy", "probed_unhealthy", "ejected"] },
                    "healthy": flag(), "probes_healthy": flag(), "consecutive_failures": count(), "ejected": flag(),
                    "ejected_for_ms": count(), "in_flight": maybe_count(),
                }))),
            })),
        ),
        (
            "Breakers",
            object(json!({ "breakers": list(object(json!({
            "route": text(), "pool": text(), "state": { "type": "string", "enum": ["closed", "open", "half_open"] },
            "open_for_ms": count(), "trying": count(),
            "window": object(json!({ "requests": count(), "failures": count(), "error_percent": number() })),
            "trips": count(), "refused": count(),
        }))) })),
        ),
        (
            "Traffic",
            object(json!({ "routes": list(object(json!({
            "route": text(), "stable_pool": text(), "canary_pool": maybe_text(), "canary_weight": number(),
            "effective_canary_weight": number(), "stable": sides(), "canary": sides(), "cohort": sides(),
            "auto_brake": { "type": ["object", "null"] }, "overload_protection": { "type": ["object", "null"] },
        }))) })),
        ),
        (
            "CacheStats",
            object(json!({
                "entries": count(), "max_entries": count(), "total_bytes": count(), "max_total_bytes": count(),
                "resident_bytes": count(), "hits": count(), "misses": count(), "evictions": count(), "purged": count(),
            })),
        ),
        (
            "Purge",
            json!({
                "description": "Exactly one of these",
                "oneOf": [
                    purge("url", json!({ "type": "string", "format": "uri" })), purge("prefix", text()),
                    purge("host", text()), purge("all", json!({ "const": true })),
                ],
            }),
        ),
        ("Purged", object(json!({ "purged": count() }))),
        ("PurgedDomain", object(json!({ "domain": text(), "purged": count() }))),
    ];
    schemas.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect::<Map<_, _>>().into()
}

fn purge(name: &str, schema: Value) -> Value {
    json!({ "type": "object", "properties": { name: schema }, "required": [name], "additionalProperties": false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_of_the_document_leads_somewhere_and_every_operation_has_a_name_of_its_own() {
        fn references<'v>(value: &'v Value, out: &mut Vec<&'v str>) {
            match value {
                Value::Object(map) => {
                    out.extend(map.get("$ref").and_then(Value::as_str));
                    map.values().for_each(|value| references(value, out));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, out)),
                _ => {}
            }
        }
        let document = made();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 50);
        for reference in found {
            let name = reference.rsplit('/').next().unwrap();
            assert!(document["components"]["schemas"].get(name).is_some(), "{reference}");
        }
        let ids: std::collections::BTreeSet<String> = OPERATIONS.iter().map(id).collect();
        assert_eq!(ids.len(), OPERATIONS.len());
    }
}
