//! Config keys, from the JSON Schema.

use std::fmt::Write as _;

use serde_json::Value;

use super::cell;

pub(super) fn page() -> String {
    let schema = sealane_model::schema::schema();
    let objects = schema["$defs"].as_object().unwrap();
    let mut page = "# Config keys\n\nWritten from the JSON Schema that `sealane schema` prints. A file is one \
                    [config](#config); the two small formats are [`small_endpoints`](#small_endpoints) and \
                    [`small_backends`](#small_backends), and an authority's default plan is a [`plan`](#plan). Keys that start with \
                    `x-` are ignored everywhere, every other unknown key is an error. A value marked *secret* may hold \
                    `${env:NAME}` and `${file:/path}`, which each node resolves by itself.\n"
        .to_owned();
    for (name, object) in objects {
        let required: Vec<&str> =
            object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let _ = write!(page, "\n## {name}\n\nStands for {}.\n\n", object["title"].as_str().unwrap());
        page.push_str("| Key | Type | Default | |\n|---|---|---|---|\n");
        for (key, value) in object["properties"].as_object().unwrap() {
            let default = match (value.get("default"), required.contains(&key.as_str())) {
                (_, true) => "required".to_owned(),
                (Some(Value::String(text)), _) => format!("`{text}`"),
                (Some(other), _) => format!("`{other}`"),
                (None, _) => String::new(),
            };
            let about = value["description"].as_str().unwrap();
            let _ = writeln!(page, "| `{key}` | {} | {} | {} |", cell(&kind(value)), cell(&default), cell(about));
        }
    }
    page
}

fn kind(value: &Value) -> String {
    if let Some(name) = value["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return format!("[{name}](#{name})");
    }
    let many = |key: &str| value[key].as_array();
    if let Some(any) = many("anyOf") {
        let mut kinds: Vec<String> = any.iter().map(kind).collect();
        kinds.dedup();
        return kinds.join(" or ");
    }
    if let Some(words) = many("enum") {
        return words.iter().map(|word| format!("`{}`", word.as_str().unwrap())).collect::<Vec<_>>().join(", ");
    }
    let range = |what: &str| match (value.get("minimum"), value.get("maximum")) {
        (Some(least), Some(most)) if least == most => format!("`{least}`"),
        (Some(least), Some(most)) => format!("{what}, {least} to {most}"),
        (Some(least), None) => format!("{what}, {least} or more"),
        _ => what.to_owned(),
    };
    match &value["type"] {
        Value::Array(_) if value["x-secret"] == true => "text, *secret*".to_owned(),
        Value::Array(_) => "text".to_owned(),
        one => match one.as_str().unwrap() {
            "array" => format!("list of {}", one_of(&value["items"])),
            "object" => format!("mapping to {}", one_of(&value["additionalProperties"])),
            "boolean" => "`true` or `false`".to_owned(),
            "integer" => range("whole number"),
            "number" => range("number"),
            "null" => "`null`".to_owned(),
            _ => text(value["pattern"].as_str().unwrap_or_default()),
        },
    }
}

/// In brackets where it is a choice.
fn one_of(value: &Value) -> String {
    let kind = kind(value);
    if kind.contains(" or ") { format!("({kind})") } else { kind }
}

fn text(pattern: &str) -> String {
    match pattern {
        "" => "text".to_owned(),
        pattern if pattern.contains("[0-9]+ms") => "duration, such as `1h30m` or `500ms`".to_owned(),
        pattern if pattern.contains("(/s)?") => "size a second, such as `1KB`".to_owned(),
        pattern if pattern.contains("KiB|MiB") => "size, such as `64KB`".to_owned(),
        pattern => format!("text that matches `{pattern}`"),
    }
}
