//! The Rego interpreter, with its limits. The only place that knows it.

use std::num::NonZeroU32;
use std::time::Duration;

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};

use super::{PolicyError, Source};

/// One policy may take this long on one config.
const TIME_MAX: Duration = Duration::from_secs(2);
/// Messages of one policy that are passed on.
const MESSAGES_MAX: usize = 50;
/// Longest message, in characters.
const MESSAGE_MAX: usize = 500;
/// More people than anybody has.
const APPROVALS_MAX: u64 = 100;

/// An engine with every policy in it, and their packages.
pub(super) fn compile(sources: &[Source]) -> Result<(Engine, Vec<String>), PolicyError> {
    let mut engine = Engine::new();
    let check_interval = NonZeroU32::new(256).expect("256 is not 0");
    engine.set_execution_timer_config(ExecutionTimerConfig { limit: TIME_MAX, check_interval });
    let mut packages: Vec<String> = Vec::new();
    for source in sources {
        let compile = |error: &dyn std::fmt::Display| PolicyError::Compile {
            file: source.file.clone(),
            why: first_lines(&error.to_string()),
        };
        let package = engine.add_policy(source.file.clone(), source.rego.clone()).map_err(|error| compile(&error))?;
        let below = package == "data.sealane" || package.starts_with("data.sealane.");
        if below && !says(&source.rego) {
            return Err(PolicyError::Silent { file: source.file.clone() });
        }
        if below && !packages.contains(&package) {
            packages.push(package);
        }
    }
    // Some mistakes show only when something is asked.
    engine.set_input(Value::new_object());
    for package in &packages {
        let asked = engine.clone().eval_query(format!("{package}.deny"), false);
        if let Err(error) = asked
            && error.to_string().contains("error:")
            && sources.len() == 1
        {
            let why = first_lines(&error.to_string());
            return Err(PolicyError::Compile { file: sources[0].file.clone(), why });
        }
    }
    Ok((engine, packages))
}

/// Messages by package, and the largest number of approvals that any asks for.
pub(super) fn evaluate(
    sources: &[Source],
    input: &serde_json::Value,
    approvals_min: &mut u32,
) -> Result<Vec<(String, String)>, PolicyError> {
    let (mut engine, packages) = compile(sources)?;
    let failed = |package: &str, error: &dyn std::fmt::Display| PolicyError::Evaluate {
        package: package.trim_start_matches("data.").to_owned(),
        why: first_lines(&error.to_string()),
    };
    engine.set_input_json(&input.to_string()).map_err(|error| failed("input", &error))?;
    let mut messages = Vec::new();
    for package in packages {
        let name = package.trim_start_matches("data.").to_owned();
        let mut ask = |rule: &str| -> Result<Value, PolicyError> {
            let answers = engine.eval_query(format!("{package}.{rule}"), false);
            let answers = answers.map_err(|error| failed(&package, &error))?;
            let first = answers.result.into_iter().next().and_then(|one| one.expressions.into_iter().next());
            Ok(first.map_or(Value::Undefined, |one| one.value))
        };
        let wrong = |rule, expected| PolicyError::Result { package: name.clone(), rule, expected };
        let denied: Vec<Value> = match ask("deny")? {
            Value::Undefined => Vec::new(),
            Value::Set(set) => set.iter().cloned().collect(),
            Value::Array(list) => list.iter().cloned().collect(),
            _ => return Err(wrong("deny", "set of messages")),
        };
        for value in denied.into_iter().take(MESSAGES_MAX) {
            let text = match &value {
                Value::String(text) => text.to_string(),
                Value::Object(fields) => match fields.get(&Value::from("msg")) {
                    Some(Value::String(text)) => text.to_string(),
                    _ => return Err(wrong("deny", "set of messages, or of objects with `msg`")),
                },
                _ => return Err(wrong("deny", "set of messages")),
            };
            messages.push((name.clone(), text.chars().take(MESSAGE_MAX).collect()));
        }
        match ask("require_approvals")? {
            Value::Undefined => {}
            value => {
                let number = value.as_u64().ok().filter(|number| *number <= APPROVALS_MAX);
                let number = number.ok_or_else(|| wrong("require_approvals", "number from 0 to 100"))?;
                *approvals_min = (*approvals_min).max(u32::try_from(number).unwrap_or(u32::MAX));
            }
        }
    }
    Ok(messages)
}

/// A rule whose name was mistyped would let everything through.
fn says(rego: &str) -> bool {
    let code = rego.lines().map(|line| line.split('#').next().unwrap_or_default());
    code.into_iter().any(|line| {
        let line = line.trim_start().trim_start_matches("default ");
        let word: String = line.chars().take_while(|one| one.is_alphanumeric() || *one == '_').collect();
        ["deny", "require_approvals"].contains(&word.as_str())
    })
}

fn first_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).take(8).collect();
    lines.join(" ").chars().take(MESSAGE_MAX).collect()
}
