//! Text → [`Config`], or *every* [`Problem`] with its place.
//!
//! YAML and JSON become a tree of text with places; walkers, one per section, turn it into types that are correct and
//! report what is not. A walker goes on after a problem with a default, since a config with an error is thrown away.
//! Nothing here reads files, looks names up or knows the time.
//!
//! Codes of errors:
//!
//! | code | what |
//! |---|---|
//! | `syntax_error`, `tab`, `several_documents`, `unknown_tag`, `bad_key`, `duplicate_key` | the text |
//! | `empty_file`, `too_large`, `too_deep`, `alias_limit`, `alias_cycle`, `too_many_problems` | its bounds |
//! | `unknown_key`, `missing_key`, `conflicting_keys`, `empty_value`, `empty_list`, `wrong_type` | its shape |
//! | `unknown_value`, `out_of_range`, `bad_duration`, `bad_size`, `bad_status`, `unsupported_version` | plain values |
//! | `bad_address`, `bare_ipv6`, `path_in_address`, `userinfo_in_address`, `query_in_address`, `fragment_in_address` | addresses |
//! | `bad_host`, `bad_path`, `bad_url`, `bad_cidr`, `bad_regex`, `bad_replacement`, `bad_id`, `bad_name`, `bad_header_name`, `bad_header_value`, `bad_cookie_name` | other texts |
//! | `duplicate_id`, `duplicate_endpoint`, `duplicate_address`, `missing_reference`, `zero_weights`, `bad_rollout` | how parts fit |
//! | `secret_literal`, `reference_not_allowed`, `not_allowed_in_fleet`, `not_supported_yet` | what may not be said |
//!
//! Codes of warnings: `regex_in_host`, `unreachable_route`, `unused_pool`, `unused_policy`, `no_routes`, `no_gates`,
//! `regions_left_out`, `insecure_skip_verify`, `unknown_method`, `repeated_value`, `zero_weight_share`, `caches_authorised`,
//! `varies_on_credentials`, `long_ttl`, `public_fail_closed`.
//!
//! What each means is the table of [`crate::codes`].

use self::findings::Findings;
use crate::config::Config;
use crate::plan::Plan;
use crate::problem::Problem;

mod address;
mod cache;
pub mod changes;
mod config_tests;
mod duration;
mod endpoint;
mod fields;
mod findings;
pub mod format;
mod header;
mod middleware;
mod native;
mod nearest;
mod path;
mod pattern;
mod policy;
mod pool;
mod read;
mod rollout;
mod route;
mod sandbox;
mod server;
pub mod shown;
mod size;
mod small;
mod source;
mod support;
mod traffic;
mod tree;

pub(crate) use self::duration::text as duration;
pub(crate) use self::sandbox::{SandboxParts, sandbox_id_fault, sandbox_parts};

/// Who reads the file: some keys belong to one of them only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// One proxy on this machine (`run`, `validate`).
    Local,
    /// A fleet revision: `admin:` may not be set.
    Fleet,
}

/// A config and the warnings about it, or all its problems (errors and warnings, in source order).
pub type Parsed = Result<(Config, Vec<Problem>), Vec<Problem>>;

/// Parses YAML or JSON (or a small format of seeds 001 and 002).
pub fn parse(file: &str, text: &str, reader: Reader) -> Parsed {
    let mut findings = Findings::new();
    let root = source::tree(text, &mut findings);
    let config = root.as_ref().and_then(|root| {
        let config = match small::recognise(root) {
            Some(small) => small::config(root, small, &mut findings),
            None => native::config(root, reader, &mut findings),
        };
        findings::check_secrets(root, &mut findings);
        config
    });
    let failed = findings.any_error();
    let problems = findings.into_problems(file, text, root.as_ref());
    match config {
        Some(config) if !failed => Ok((config, problems)),
        _ => Err(problems),
    }
}

#[cfg(test)]
pub(crate) use self::fields::opened;

/// The name nearest to `name`, if one is near.
pub(crate) fn nearest_name<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    nearest::nearest(name, names)
}

/// Parses a file with nothing but `rollout:`, such as an authority's default plan.
///
/// # Errors
/// Every problem.
pub fn parse_plan(file: &str, text: &str) -> Result<Plan, Vec<Problem>> {
    let mut findings = Findings::new();
    let root = source::tree(text, &mut findings);
    let plan = root.as_ref().and_then(|root| native::plan(root, &mut findings));
    let failed = findings.any_error();
    let problems = findings.into_problems(file, text, root.as_ref());
    plan.filter(|_| !failed).ok_or(problems)
}
