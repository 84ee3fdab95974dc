//! The schema knows what the parser knows, and samples and docs are valid against it.

use std::path::Path;

use serde_json::Value;

use super::{OBJECTS, schema};
use crate::parse::{Reader, opened, parse, parse_plan};

/// Files that, together, open every mapping.
const ALL: [&str; 4] = [
    include_str!("../../../deploy/samples/full.yaml"),
    include_str!("../../../deploy/samples/seed-001.yaml"),
    include_str!("../../../deploy/samples/seed-002.yaml"),
    "
routes: [{ rewrite: {}, policy: { retries: { per_client: {} }, hedge: {}, rate_limit: {}, circuit_breaker: {} }, to: { address: \"a:1\" } }]
pools: [{ id: a, endpoints: [\"a:1\"], balancer: consistent_hash, hash: { header: a }, outlier_detection: {}, fail_open: {} }]
middleware: { a: { stages: [{}, { type: auth, config: { jwt: {} } }, { type: header_transform, config: { request: {}, response: {} } },
  { type: request_id, config: {} }, { type: access_log, config: {} }, { type: cors, config: {} }, { type: compression, config: {} }, { type: redirect, config: {} }] } }
plugins: { a: {} }
traffic_management: [{ cohort_routing: {}, auto_brake: {}, overload_protection: {} }]
cache: { store: { pre_compress: {} }, rules: [{}] }
listeners: [{}]
tls: { certificates: [{}], mtls: {} }
sandboxes: { routes: [{}] }
admin: {}
rollout: { stages: [{}], waves: [{}], health_gates: [{}], compare: {}, auto_rollback: {} }
tests: [{ request: {}, expect: {} }]
",
];

/// What walkers open with fewer keys, once they know more: covered by an object that has all of them.
const NARROWER: [&str; 3] = ["this stage", "this plugin", "a policy"];

#[test]
fn every_key_that_the_parser_knows_is_in_the_schema_and_no_other() {
    opened::take();
    for text in ALL {
        // What the values mean is not asked here.
        let _ = parse("f.yaml", text, Reader::Local);
    }
    let _ = parse_plan("f.yaml", "rollout: {}");
    let opened = opened::take();
    let keys = |object: &super::Object| {
        let mut keys: Vec<_> = object.keys.iter().map(|key| key.name).collect();
        keys.sort_unstable();
        keys
    };
    for (what, known) in &opened {
        let found = OBJECTS.iter().any(|object| object.what == what && keys(object) == *known);
        assert!(
            found || NARROWER.contains(&what.as_str()),
            "{what} has the keys {known:?}: add them to model/src/schema/objects.rs"
        );
    }
    for object in OBJECTS {
        let known = opened.contains(&(object.what.to_owned(), keys(object)));
        assert!(known, "no walker opens {} with exactly {:?}", object.what, keys(object));
    }
}

#[test]
fn every_key_has_a_description_and_a_default_that_is_valid() {
    let schema = schema();
    for object in OBJECTS {
        for key in object.keys {
            assert!(!key.about.is_empty(), "{} {}", object.name, key.name);
            let part = &schema["$defs"][object.name]["properties"][key.name];
            if let Some(default) = part.get("default") {
                assert_eq!(check(&schema, part, default), Ok(()), "{} {}", object.name, key.name);
            }
        }
        for required in object.required {
            assert!(object.keys.iter().any(|key| key.name == *required), "{} {required}", object.name);
        }
    }
}

#[test]
fn every_sample_is_valid_against_the_schema() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples");
    let mut samples = 0;
    for entry in std::fs::read_dir(folder).expect("samples are there") {
        let path = entry.expect("samples can be listed").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            samples += 1;
            valid(&path.display().to_string(), &std::fs::read_to_string(&path).expect("a sample is text"));
        }
    }
    assert!(samples >= 5, "{samples}");
}

/// A block that is not a config, or not a whole one, says so: ```` ```yaml fragment ````. (Any other word is the name of the file that a reader writes.)
#[test]
fn every_yaml_block_of_the_docs_parses_and_is_valid_against_the_schema() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec![root.join("README.md")];
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("docs are there") {
            let path = entry.expect("docs can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap_or_default();
        for (index, block) in text.split("\n```yaml").skip(1).enumerate() {
            let (words, block) = block.split_once('\n').unwrap_or_default();
            let block = block.split("\n```").next().unwrap_or_default();
            if words.trim() == "fragment" {
                continue;
            }
            let name = format!("block {} of {}", index + 1, page.display());
            valid(&name, block);
            // A whole one is a config that a reader can use, without a warning that the page does not speak of.
            if block.contains("routes:") {
                let (_, warnings) =
                    parse("f.yaml", block, Reader::Local).unwrap_or_else(|bad| panic!("{name}: {bad:?}"));
                let spoken_of = warnings.iter().all(|warning| text.contains(&format!("`{}`", warning.code)));
                assert!(spoken_of, "{name}: {warnings:?}");
            }
        }
    }
}

#[test]
fn the_schema_refuses_what_the_parser_refuses() {
    let schema = schema();
    for text in [
        "listen: :8080\nroutes: [{ pth: /, to: \"http://a\" }]",
        "routes: [{ path: /, to: \"http://a\", require_mtls: yes please }]",
        "routes: [{ to: \"http://a\", policy: { timeout: 3 } }]",
        "routes: [{ to: \"http://a\", policy: { timeout: 1d } }]",
        "pools: { a: { endpoints: [\"a:1\"], balancer: best } }",
        "limits: { max_headers: 0 }",
        "tests: [{ name: a }]",
        "rollout: { stages: [{ name: a, fleet_percent: 101 }] }",
    ] {
        let value: Value = serde_saphyr::from_str(text).expect("YAML");
        assert!(check(&schema, &schema, &value).is_err(), "{text}");
    }
}

#[track_caller]
fn valid(name: &str, text: &str) {
    let value: Value = serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let schema = schema();
    // The native format first: its complaint is the useful one.
    let small = value.get("port").is_some();
    let part = if small { &schema } else { &schema["$defs"]["config"] };
    if let Err(problem) = check(&schema, part, &value) {
        panic!("{name}: {problem}");
    }
}

/// As much of JSON Schema as [`schema`] uses. Anything else in it fails, so that nothing goes unchecked.
fn check(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let shown = || value.to_string().chars().take(80).collect::<String>();
    for (keyword, wanted) in schema.as_object().expect("a schema is an object") {
        let good = match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" | "default" | "additionalProperties" => true,
            "patternProperties" => wanted == &serde_json::json!({ "^x-": {} }),
            "$ref" => {
                let name = wanted.as_str().and_then(|name| name.strip_prefix("#/$defs/")).expect("a local reference");
                let target = root["$defs"].get(name).unwrap_or_else(|| panic!("no definition {name}"));
                check(root, target, value)?;
                true
            }
            "type" => match wanted {
                Value::Array(kinds) => kinds.iter().any(|kind| is(value, kind)),
                kind => is(value, kind),
            },
            "enum" => wanted.as_array().is_some_and(|words| words.contains(value)),
            "anyOf" => {
                let parts = wanted.as_array().expect("a list");
                let first = parts.iter().map(|part| check(root, part, value)).collect::<Vec<_>>();
                if first.iter().all(Result::is_err) {
                    return Err(first.into_iter().filter_map(Result::err).max_by_key(String::len).unwrap_or_default());
                }
                true
            }
            "minimum" => value.as_f64().is_none_or(|number| number >= wanted.as_f64().expect("a number")),
            "maximum" => value.as_f64().is_none_or(|number| number <= wanted.as_f64().expect("a number")),
            "pattern" => {
                // The regex crate has no look-ahead; what it guards is asked here.
                let pattern = wanted.as_str().expect("text").replace("(?=.)", "");
                value.as_str().is_none_or(|text| {
                    !text.is_empty() && regex::Regex::new(&pattern).expect("a pattern").is_match(text)
                })
            }
            "required" => {
                let names = wanted.as_array().expect("a list").iter().filter_map(Value::as_str);
                names.into_iter().all(|name| value.get(name).is_some())
            }
            "items" => {
                value.as_array().into_iter().flatten().try_for_each(|item| check(root, wanted, item))?;
                true
            }
            "properties" | "x-secret" => true,
            other => panic!("the test does not know `{other}`"),
        };
        if !good {
            return Err(format!("{} does not meet {keyword}: {wanted}", shown()));
        }
    }
    if let Value::Object(entries) = value {
        for (name, value) in entries.iter().filter(|(name, _)| !name.starts_with("x-")) {
            if let Some(part) = schema.get("properties").and_then(|known| known.get(name)) {
                check(root, part, value).map_err(|problem| format!("{name}: {problem}"))?;
            } else {
                match schema.get("additionalProperties") {
                    Some(Value::Bool(false)) => return Err(format!("no key {name}")),
                    Some(part) => check(root, part, value).map_err(|problem| format!("{name}: {problem}"))?,
                    None => {}
                }
            }
        }
    }
    Ok(())
}

fn is(value: &Value, kind: &Value) -> bool {
    match kind.as_str().expect("a kind") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("no kind {other}"),
    }
}
