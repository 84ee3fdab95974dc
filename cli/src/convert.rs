//! `sealane convert`: a file in a small format, or in JSON, as YAML in the native format.
//!
//! What the native format cannot say is refused in one sentence; the small formats keep running as they are.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use sealane_model::config::{Config, HostHeader, PathMatch, Pool, Route, TargetPath};
use sealane_model::parse::format::format;
use sealane_model::parse::{Reader, parse};
use serde_json::Value;

use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::problems::{self, Source};

const EXAMPLES: &str = "\
Examples:
  sealane convert config.yml > sealane.yaml    from `port` + `endpoints` or `port` + `backends`
  sealane convert fleet.json > fleet.yaml      from JSON";

/// Arguments of `sealane convert`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES)]
pub struct ConvertArgs {
    /// The file to convert; `-` is stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Runs `sealane convert`.
///
/// # Errors
/// [`Exit::Invalid`] when the file is not valid, or says what the native format cannot.
pub fn run(args: &ConvertArgs, printer: &Printer) -> Result<(), Failure> {
    let source = Source::read(&args.file)?;
    let (config, _) = parse(&source.shown, &source.text, Reader::Local).map_err(|found| {
        printer.talk_text(&problems::pictures(&found, &source.text, printer.talks_in_colour()));
        Failure::new(Exit::Invalid, format!("{} was not converted", source.shown))
    })?;
    let value: Option<Value> = serde_saphyr::from_str(&source.text).ok();
    let small = value.as_ref().is_some_and(|value| value.get("port").is_some());
    let text = if small {
        native(&config).map_err(|why| Failure::new(Exit::Invalid, format!("{}: {why}", source.shown)))?
    } else if source.text.trim_start().starts_with('{') {
        let value = value.ok_or_else(|| Failure::new(Exit::Invalid, format!("{} is no JSON", source.shown)))?;
        serde_saphyr::to_string(&value)
            .map_err(|error| Failure::new(Exit::Failed, "cannot write YAML").because(error))?
    } else {
        printer.talk(&format!("{} is in the native format already", source.shown));
        format(&source.shown, &source.text).unwrap_or_else(|_| source.text.clone())
    };
    // What was written must mean what was read.
    if let Err(found) = parse("converted", &text, Reader::Local) {
        printer.talk_text(&problems::pictures(&found, &text, printer.talks_in_colour()));
        return Err(Failure::new(Exit::Failed, "the converted file would not be valid"));
    }
    printer.text(&text)
}

/// The native text of a config that came from a small format.
fn native(config: &Config) -> Result<String, String> {
    let mut out = String::from("version: 1\n");
    let listeners: Vec<String> = config.listeners.iter().map(|listener| format!("\"{}\"", listener.address)).collect();
    writeln!(out, "listen: [{}]\nroutes:", listeners.join(", ")).expect("a string takes any text");
    for route in &config.routes {
        let pool = config.pools.get(route.pool).ok_or("a route has no pool")?;
        write_route(&mut out, route, pool)?;
    }
    out.push_str("pools:\n");
    for (index, pool) in config.pools.iter().enumerate() {
        write_pool(&mut out, index, pool)?;
    }
    let metrics = &config.metrics;
    if metrics.on_data_plane {
        writeln!(out, "metrics: {{ on_data_plane: true, path_names: {} }}", metrics.path_names)
            .expect("a string takes any text");
    }
    Ok(out)
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

fn name(index: usize) -> String {
    format!("pool-{}", index + 1)
}

fn write_route(out: &mut String, route: &Route, pool: &Pool) -> Result<(), String> {
    let id = quoted(&route.id.0);
    writeln!(out, "  - id: {id}").expect("a string takes any text");
    match &route.path {
        PathMatch::Exact(path) => writeln!(out, "    path: {}", quoted(path)),
        PathMatch::Prefix(path) => writeln!(out, "    path_prefix: {}", quoted(path)),
        PathMatch::Regex(pattern) => writeln!(out, "    path_regex: {}", quoted(pattern.as_str())),
        PathMatch::Any => Ok(()),
    }
    .expect("a string takes any text");
    let mut paths: Vec<&str> = pool
        .endpoints
        .iter()
        .map(|endpoint| match &endpoint.path {
            TargetPath::Keep => "",
            TargetPath::Replace(path) | TargetPath::Prepend(path) => path,
        })
        .collect();
    paths.dedup();
    match paths.as_slice() {
        [] | [""] => {}
        [path] => writeln!(out, "    rewrite: {{ path: {} }}", quoted(path)).expect("a string takes any text"),
        _ => {
            return Err(format!(
                "the URLs of {id} have different paths, and a native route has one for all its endpoints; \
                 this file runs as it is"
            ));
        }
    }
    let index = route.pool;
    writeln!(out, "    pool: {}", name(index)).expect("a string takes any text");
    Ok(())
}

fn write_pool(out: &mut String, index: usize, pool: &Pool) -> Result<(), String> {
    let endpoints: Vec<String> = pool
        .endpoints
        .iter()
        .map(|endpoint| {
            quoted(&format!("{}://{}:{}", scheme(endpoint), bracketed(&endpoint.host.to_string()), endpoint.port))
        })
        .collect();
    writeln!(out, "  - id: {}\n    endpoints: [{}]", name(index), endpoints.join(", "))
        .expect("a string takes any text");
    if pool.host_header == HostHeader::Endpoint {
        out.push_str("    host_header: endpoint\n");
    }
    if let Some(active) = &pool.health.active {
        let mut paths: Vec<&String> = active.endpoint_paths.iter().collect();
        paths.dedup();
        let path = match paths.as_slice() {
            [] => active.path.clone(),
            [one] => Some((*one).clone()),
            _ => {
                return Err(
                    "the URLs have different health paths, and a native pool has one; this file runs as it is".into()
                );
            }
        };
        let path = path.map_or_else(String::new, |path| format!("path: {}, ", quoted(&path)));
        writeln!(
            out,
            "    health: {{ active: {{ {path}interval: {}s, timeout: {}s, fail_threshold: {}, success_threshold: {} }} }}",
            active.interval.as_secs(),
            active.timeout.as_secs(),
            active.fail_threshold,
            active.success_threshold
        )
        .expect("a string takes any text");
    }
    if pool.fail_open.requests_per_second == 0.0 {
        out.push_str("    fail_open: { requests_per_second: 0 }\n");
    }
    Ok(())
}

fn scheme(endpoint: &sealane_model::config::Endpoint) -> &'static str {
    match endpoint.scheme {
        sealane_model::config::Scheme::Http => "http",
        sealane_model::config::Scheme::Https => "https",
        sealane_model::config::Scheme::H2c => "h2c",
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_becomes_a_native_one_that_is_valid() {
        let one = "port: 8080\nendpoints:\n  - from: /a\n    pool: [\"http://x:1/b\", \"http://y:2/b\"]\n  - from: /\n    pool: [\"http://z:3\"]\n";
        let two = "port: 8080\nbackends: [\"http://x:1/health\", \"http://y:2/health\"]\n";
        for text in [one, two] {
            let (config, _) = parse("f.yaml", text, Reader::Local).unwrap();
            let native = native(&config).unwrap();
            let (again, warnings) =
                parse("g.yaml", &native, Reader::Local).unwrap_or_else(|p| panic!("{native}\n{p:#?}"));
            assert_eq!(warnings, [], "{native}");
            assert_eq!(again.routes.len(), config.routes.len());
            assert_eq!(again.pools.len(), config.pools.len());
            assert_eq!(again.metrics, config.metrics);
        }
    }

    #[test]
    fn what_the_native_format_cannot_say_is_refused() {
        let text = "port: 8080\nendpoints:\n  - from: /a\n    pool: [\"http://x:1/b\", \"http://y:2/c\"]\n";
        let (config, _) = parse("f.yaml", text, Reader::Local).unwrap();
        assert!(native(&config).unwrap_err().contains("different paths"));
    }
}
