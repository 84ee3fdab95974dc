//! The config file's JSON Schema (2020-12): every key with its description, default and range, for editors and for CI.
//!
//! Written from the table of objects in `schema/objects.rs`. A test keeps that table and the parser's own lists of keys
//! equal: it parses files that use everything and compares what each walker knows. A schema sees shapes and values;
//! references, weights and whether a route can match remain the parser's business.

use serde_json::{Map, Value, json};

use self::objects::OBJECTS;

mod objects;
#[cfg(test)]
mod tests;

/// A mapping with known keys.
pub(crate) struct Object {
    /// As the parser's messages call it, such as "a route".
    what: &'static str,
    /// Its name in `$defs`.
    name: &'static str,
    keys: &'static [Key],
    required: &'static [&'static str],
}

/// A key of an object.
struct Key {
    name: &'static str,
    kind: Kind,
    about: &'static str,
    /// As JSON; empty: no default, the key is simply absent.
    default: &'static str,
}

/// What stands at a key.
pub(crate) enum Kind {
    Boolean,
    /// Any scalar: YAML's numbers and booleans are text here.
    Text,
    /// As [`Self::Text`]; may hold `${env:…}` and `${file:…}`, which the node resolves.
    Secret,
    Duration,
    Size,
    /// Bytes per second.
    Rate,
    /// A whole number of at least and at most.
    Integer(u64, u64),
    /// A whole number that fits into 32 bits, negative ones too.
    Signed,
    /// A number of at least and at most.
    Number(f64, f64),
    OneOf(&'static [&'static str]),
    /// By its name in `$defs`.
    Object(&'static str),
    List(&'static Self),
    /// A mapping with free keys.
    Map(&'static Self),
    Any(&'static [Self]),
    /// This text must match.
    Pattern(&'static str),
    /// `null` has a meaning.
    Null,
}

/// The schema of a config file.
#[must_use]
pub fn schema() -> Value {
    let definitions: Map<String, Value> =
        OBJECTS.iter().map(|object| (object.name.to_owned(), object.schema())).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://sealane.dev/schema/config-1.json",
        "title": "Sealane config",
        "description": "One proxy's or one fleet's desired state. `sealane validate FILE` also checks what a schema cannot.",
        "anyOf": [
            { "$ref": "#/$defs/config" },
            { "$ref": "#/$defs/small_endpoints" },
            { "$ref": "#/$defs/small_backends" },
        ],
        "$defs": definitions,
    })
}

/// An object of the schema by its name.
pub(crate) fn object(name: &str) -> Option<&'static Object> {
    OBJECTS.iter().find(|object| object.name == name)
}

impl Object {
    /// The object that stands at `key`, or in a list or mapping there.
    pub(crate) fn below(&self, key: &str) -> Option<&'static Self> {
        self.keys.iter().find(|known| known.name == key).and_then(|known| object(known.kind.object()?))
    }

    /// The place of a key among the keys, in the order of the reference.
    pub(crate) fn place(&self, key: &str) -> Option<usize> {
        self.keys.iter().position(|known| known.name == key)
    }

    /// What stands at a key.
    pub(crate) fn kind(&self, key: &str) -> Option<&'static Kind> {
        self.keys.iter().find(|known| known.name == key).map(|known| &known.kind)
    }

    /// Keys with their defaults, as JSON.
    pub(crate) fn defaults(&self) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
        self.keys.iter().filter(|key| !key.default.is_empty()).map(|key| (key.name, key.default))
    }

    /// Keys at which an object stands directly, with its name.
    pub(crate) fn objects(&self) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
        self.keys.iter().filter_map(|key| match key.kind {
            Kind::Object(name) => Some((key.name, name)),
            _ => None,
        })
    }
}

impl Object {
    fn schema(&self) -> Value {
        let properties: Map<String, Value> = self.keys.iter().map(|key| (key.name.to_owned(), key.schema())).collect();
        let mut schema = json!({
            "title": self.what,
            "type": "object",
            "properties": properties,
            "patternProperties": { "^x-": {} },
            "additionalProperties": false,
        });
        if !self.required.is_empty() {
            schema["required"] = json!(self.required);
        }
        schema
    }
}

impl Key {
    fn schema(&self) -> Value {
        let mut schema = self.kind.schema();
        schema["description"] = json!(self.about);
        if !self.default.is_empty() {
            schema["default"] = serde_json::from_str(self.default).expect("a test reads every default");
        }
        schema
    }
}

impl Kind {
    /// The name of the object that stands here, directly, in a list or in a mapping.
    fn object(&self) -> Option<&'static str> {
        match self {
            Self::Object(name) => Some(name),
            Self::List(inner) | Self::Map(inner) => inner.object(),
            Self::Any(kinds) => kinds.iter().find_map(Self::object),
            _ => None,
        }
    }

    fn schema(&self) -> Value {
        let pattern = |pattern: &str| json!({ "type": "string", "pattern": pattern });
        match self {
            Self::Boolean => json!({ "type": "boolean" }),
            Self::Text => json!({ "type": ["string", "number", "boolean"] }),
            Self::Secret => json!({ "type": ["string", "number", "boolean"], "x-secret": true }),
            Self::Duration => pattern("^(?=.)([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$"),
            Self::Size => pattern("^[0-9]+(B|KB|MB|GB|KiB|MiB|GiB)$"),
            Self::Rate => pattern("^[0-9]+(B|KB|MB|GB|KiB|MiB|GiB)(/s)?$"),
            Self::Integer(least, u64::MAX) => json!({ "type": "integer", "minimum": least }),
            Self::Integer(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
            Self::Signed => json!({ "type": "integer", "minimum": i32::MIN, "maximum": i32::MAX }),
            Self::Number(least, most) => json!({ "type": "number", "minimum": least, "maximum": most }),
            Self::OneOf(words) => json!({ "enum": words }),
            Self::Object(name) => json!({ "$ref": format!("#/$defs/{name}") }),
            Self::List(items) => json!({ "type": "array", "items": items.schema() }),
            Self::Map(values) => json!({ "type": "object", "additionalProperties": values.schema() }),
            Self::Any(kinds) => json!({ "anyOf": kinds.iter().map(Self::schema).collect::<Vec<_>>() }),
            Self::Pattern(text) => pattern(text),
            Self::Null => json!({ "type": "null" }),
        }
    }
}
