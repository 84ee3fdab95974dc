//! A config text as a JSON document that may be shown to people: as written, without what could be a secret.
//!
//! Configs hold no secrets but references to them; what somebody wrote in the wrong place all the same (a credential that a
//! route compares, a password) is left out here too. It does not know whether the text is valid.

use serde_json::{Map, Value as Json};

use super::findings::Findings;
use super::source;
use super::tree::{Node, Value};

/// In place of what is not shown.
pub const HIDDEN: &str = "(hidden)";

/// Keys whose values are not shown, in lower case.
const CREDENTIALS: [&str; 9] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-api-key",
    "password",
    "passwd",
    "secret",
    "token",
    "private_key",
];

/// What `text` says; `null` where it is no YAML and no JSON.
#[must_use]
pub fn shown(text: &str) -> Json {
    let mut findings = Findings::new();
    source::tree(text, &mut findings).map_or(Json::Null, |root| json(&root))
}

fn json(node: &Node<'_>) -> Json {
    match &node.value {
        _ if node.is_null() => Json::Null,
        Value::Scalar { text, quoted } => scalar(text, *quoted),
        Value::List(items) => Json::Array(items.iter().map(json).collect()),
        Value::Map(entries) => {
            let mut map = Map::new();
            for (key, node) in entries {
                let hidden = CREDENTIALS.contains(&key.text.to_ascii_lowercase().as_str());
                let value = if hidden && !node.is_null() { Json::from(HIDDEN) } else { json(node) };
                map.insert(key.text.to_string(), value);
            }
            Json::Object(map)
        }
    }
}

fn scalar(text: &str, quoted: bool) -> Json {
    let has_user = text
        .split_once("://")
        .is_some_and(|(_, rest)| rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@')));
    if has_user || text.contains("-----BEGIN") {
        return Json::from(HIDDEN);
    }
    match text {
        _ if quoted => Json::from(text),
        "true" => Json::from(true),
        "false" => Json::from(false),
        _ => serde_json::from_str::<serde_json::Number>(text).map_or_else(|_| Json::from(text), Json::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_shows_what_is_written_and_no_credentials() {
        let text = "listen: :8080\nroutes:\n  - headers: { Authorization: hunter2, X-Version: v2 }\n    priority: 7\n    \
                    to: \"http://user:hunter2@a/\"\nmiddleware:\n  - id: m\n    stages: [{ type: header_transform, \
                    config: { add: { Cookie: \"${env:SEALANE_SECRET_C}\", X-On: true, X-Quoted: \"7\" } } }]\n";
        let shown = shown(text);
        assert!(!shown.to_string().contains("hunter2"), "{shown}");
        assert_eq!(shown["listen"], ":8080");
        assert_eq!(shown["routes"][0]["headers"], json!({ "Authorization": HIDDEN, "X-Version": "v2" }));
        assert_eq!((&shown["routes"][0]["priority"], &shown["routes"][0]["to"]), (&json!(7), &json!(HIDDEN)));
        let added = &shown["middleware"][0]["stages"][0]["config"]["add"];
        assert_eq!(added, &json!({ "Cookie": HIDDEN, "X-On": true, "X-Quoted": "7" }));
    }

    #[test]
    fn what_is_no_config_shows_nothing() {
        assert_eq!(shown("a: [b"), Json::Null);
        assert_eq!(shown("{\"a\": [1, null]}"), json!({ "a": [1, null] }));
    }
}
