//! `rollout:` → the plan that travels with a release.

use std::collections::HashMap;

use super::fields::Fields;
use super::findings::Findings;
use super::read::{self, shown};
use super::tree::{Node, Value};
use crate::plan::{DETECT_MAX, DETECT_MIN, GatePlan, OnAuthorityLoss, OnNoData, Plan, StagePlan, Wave};

const KEYS: &[&str] = &[
    "stages",
    "health_gates",
    "min_requests",
    "on_no_data",
    "progress_deadline",
    "final_bake",
    "waves",
    "cold_start_gate",
    "on_authority_loss",
    "max_absent_percent",
    "slo",
    "compare",
    "auto_rollback",
];

/// Most stages, gates or waves of one plan; nobody follows more.
const ITEMS_MAX: usize = 50;

/// The plan; what is not written is as in [`Plan::default`].
pub(super) fn plan(node: &Node<'_>, findings: &mut Findings) -> Option<Plan> {
    let default = Plan::default();
    let fields = Fields::open(node, "`rollout`", KEYS, findings)?;
    let progress_deadline = fields.duration("progress_deadline", default.progress_deadline, findings);
    let no_data = &[("hold", OnNoData::Hold), ("proceed", OnNoData::Proceed), ("rollback", OnNoData::Rollback)];
    let loss = &[
        ("hold", OnAuthorityLoss::Hold),
        ("continue", OnAuthorityLoss::Continue),
        ("rollback", OnAuthorityLoss::Rollback),
    ];
    let requests_min = fields.get("min_requests").and_then(|node| read::integer(node, 0..=u64::MAX, findings));
    let cold_start_gate = fields.boolean("cold_start_gate", default.cold_start_gate, findings);
    let compare = fields.get("compare").map_or((None, None), |node| compare(node, findings));
    Some(Plan {
        stages: fields.get("stages").map_or(default.stages, |node| stages(node, progress_deadline, findings)),
        gates: fields.get("health_gates").map_or(default.gates, |node| gates(node, findings)),
        requests_min: requests_min.unwrap_or(default.requests_min),
        on_no_data: fields.one_of("on_no_data", no_data, default.on_no_data, findings),
        progress_deadline,
        final_bake: fields.duration_or_zero("final_bake", default.final_bake, findings),
        waves: fields.get("waves").map_or(default.waves, |node| waves(node, findings)),
        cold_start_gate,
        on_authority_loss: fields.one_of("on_authority_loss", loss, default.on_authority_loss, findings),
        absent_max_percent: fields.percent("max_absent_percent", default.absent_max_percent, findings),
        slo_percent: fields.get("slo").and_then(|node| slo(node, findings)).unwrap_or(default.slo_percent),
        compare_alpha: compare.0.unwrap_or(default.compare_alpha),
        compare_detect: compare.1,
        burn_rate_max: fields.get("auto_rollback").and_then(|node| burn_rate(node, findings)),
    })
}

/// A list that has between one and [`ITEMS_MAX`] items.
fn items<'n, 't>(node: &'n Node<'t>, what: &str, findings: &mut Findings) -> &'n [Node<'t>] {
    let items = read::list(node, what, findings).unwrap_or_default();
    if items.len() > ITEMS_MAX {
        findings.error(node, "bad_rollout", format!("a rollout has at most {ITEMS_MAX} {what}"));
        return &[];
    }
    items
}

fn stages(node: &Node<'_>, deadline: std::time::Duration, findings: &mut Findings) -> Vec<StagePlan> {
    let items = items(node, "stages", findings);
    if items.is_empty() {
        if matches!(&node.value, Value::List(items) if items.is_empty()) {
            findings
                .error(node, "bad_rollout", "a rollout needs at least one stage")
                .help("`stages: [{ name: all, fleet_percent: 100 }]` goes to everyone at once");
        }
        return Vec::new();
    }
    let mut stages = Vec::new();
    let mut names: HashMap<&str, u32> = HashMap::new();
    let mut before = 0.0;
    for (index, item) in items.iter().enumerate() {
        let last = index + 1 == items.len();
        let Some(fields) = Fields::open(item, "a stage", &["name", "fleet_percent", "bake_time"], findings) else {
            continue;
        };
        let name = fields.require_text("name", "such as `canary`", findings);
        if let Some(name) = name
            && let Some(line) = names.insert(name, item.span.line)
        {
            findings
                .error(item, "duplicate_id", format!("two stages are called `{}`", shown(name)))
                .help(format!("the first one is on line {line}"));
        }
        let percent_node = fields.require("fleet_percent", "the share of the fleet, at most 100", findings);
        let percent = percent_node.and_then(|node| read::percent(node, findings));
        if let (Some(node), Some(percent)) = (percent_node, percent) {
            if percent <= before {
                let message = if index == 0 {
                    "the share of the first stage must be above 0".to_owned()
                } else {
                    format!("the share must rise from stage to stage: {percent} follows {before}")
                };
                findings.error(node, "bad_rollout", message).help("each stage holds the proxies of the ones before it");
            } else if last && percent < 100.0 {
                findings
                    .error(node, "bad_rollout", format!("the last stage must reach 100, found {percent}"))
                    .help("add a stage with `fleet_percent: 100`");
            }
            before = percent;
        }
        if !last && fields.key("bake_time").is_none() {
            fields.require("bake_time", "how long it must hold; `0s` goes on at once", findings);
        }
        let bake = fields.duration_or_zero("bake_time", std::time::Duration::ZERO, findings);
        if let (true, Some(node)) = (bake >= deadline, fields.get("bake_time")) {
            findings
                .error(node, "bad_rollout", "the bake is not shorter than `progress_deadline`, so it can never pass")
                .help("raise `progress_deadline`, which is `1h` when it is not written");
        }
        if let (Some(name), Some(fleet_percent)) = (name, percent) {
            stages.push(StagePlan { name: name.to_owned(), fleet_percent, bake });
        }
    }
    stages
}

fn gates(node: &Node<'_>, findings: &mut Findings) -> Vec<GatePlan> {
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    enum Metric {
        ErrorRate,
        Latency(u8),
        RejectedNodes,
    }
    const METRICS: &[(&str, Metric)] = &[
        ("error_rate", Metric::ErrorRate),
        ("p50_latency", Metric::Latency(50)),
        ("p95_latency", Metric::Latency(95)),
        ("p99_latency", Metric::Latency(99)),
        ("rejected_nodes", Metric::RejectedNodes),
    ];
    let items = items(node, "gates", findings);
    if matches!(&node.value, Value::List(items) if items.is_empty()) {
        findings
            .warning(node, "no_gates", "without gates only the bake and refusals judge a stage")
            .help("remove `health_gates` to get the default ones");
    }
    let mut seen: HashMap<Metric, u32> = HashMap::new();
    let mut gates = Vec::new();
    for item in items {
        let Some(fields) = Fields::open(item, "a gate", &["metric", "threshold"], findings) else { continue };
        let metric_node = fields.require("metric", "such as `error_rate`", findings);
        let metric = metric_node.and_then(|node| read::one_of(node, METRICS, findings));
        let threshold = fields.require("threshold", "the most that passes", findings);
        let (Some(metric), Some(metric_node), Some(threshold)) = (metric, metric_node, threshold) else { continue };
        if let Some(line) = seen.insert(metric, item.span.line) {
            findings
                .error(metric_node, "duplicate_id", "two gates judge the same metric")
                .help(format!("the first one is on line {line}"));
        }
        gates.extend(match metric {
            Metric::ErrorRate => error_rate(threshold, findings).map(GatePlan::ErrorRate),
            Metric::Latency(percentile) => {
                read::duration_above_zero(threshold, findings).map(|max| GatePlan::Latency { percentile, max })
            }
            Metric::RejectedNodes => read::integer(threshold, 0..=u64::MAX, findings).map(GatePlan::RejectedNodes),
        });
    }
    gates
}

/// A share from 0 to 1.
fn error_rate(node: &Node<'_>, findings: &mut Findings) -> Option<f64> {
    let value = read::text(node, "a share from 0 to 1", findings)?;
    let percent = value.strip_suffix('%').unwrap_or(value).trim_end().parse::<f64>();
    if let Ok(percent) = percent
        && (value.ends_with('%') || percent > 1.0)
        && (0.0..=100.0).contains(&percent)
    {
        // Rounded, so that 3.4 % is 0.034 and not 0.034000000000000002.
        let share = (percent * 1e6).round() / 1e8;
        findings
            .error(node, "out_of_range", "an error rate is a share from 0 to 1")
            .help(format!("for {percent} % write `{share}`"))
            .suggest(share.to_string());
        return None;
    }
    read::number(node, 0.0..=1.0, findings)
}

fn waves(node: &Node<'_>, findings: &mut Findings) -> Vec<Wave> {
    let items = items(node, "waves", findings);
    if matches!(&node.value, Value::List(items) if items.is_empty()) {
        findings
            .error(node, "bad_rollout", "a rollout needs at least one wave")
            .help("remove `waves` to go to all regions at once");
    }
    let (mut names, mut regions) = (HashMap::new(), HashMap::new());
    let mut rest_line = None;
    let mut waves = Vec::new();
    for item in items {
        let Some(fields) = Fields::open(item, "a wave", &["name", "regions"], findings) else { continue };
        let name = fields.require_text("name", "such as `first`", findings);
        if let Some(line) = name.and_then(|name| names.insert(name, item.span.line)) {
            findings
                .error(item, "duplicate_id", "two waves have the same name")
                .help(format!("the first one is on line {line}"));
        }
        if let Some(line) = rest_line {
            findings
                .error(item, "bad_rollout", "no region is left for this wave")
                .help(format!("the `*` on line {line} takes every region that no earlier wave names; put it last"));
        }
        let Some(node) = fields.require("regions", "a list of regions; `\"*\"` is the rest", findings) else {
            continue;
        };
        let named = read::texts(node, "regions", findings);
        if matches!(&node.value, Value::List(items) if items.is_empty()) {
            findings.error(node, "empty_list", "a wave needs at least one region");
        }
        for (item, region) in &named {
            if *region == "*" {
                rest_line = Some(item.span.line);
            } else if let Some(line) = regions.insert(*region, item.span.line) {
                findings
                    .error(*item, "duplicate_id", format!("the region `{}` is in two waves", shown(region)))
                    .help(format!("the first time on line {line}"));
            }
        }
        if let Some(name) = name {
            let regions = named.iter().map(|(_, region)| (*region).to_owned()).collect();
            waves.push(Wave { name: name.to_owned(), regions });
        }
    }
    if !items.is_empty() && rest_line.is_none() {
        findings
            .warning(node, "regions_left_out", "regions that no wave names never get this release")
            .help("end with a wave of `regions: [\"*\"]`");
    }
    waves
}

fn slo(node: &Node<'_>, findings: &mut Findings) -> Option<f64> {
    let percent = read::percent(node, findings)?;
    if percent <= 0.0 || percent >= 100.0 {
        findings
            .error(node, "out_of_range", "an objective lies between 0 and 100, both excluded")
            .help("write a percentage of good requests such as `99.9`");
        return None;
    }
    Some(percent)
}

/// The test of canary against control: α, and what a stage must be able to see.
fn compare(node: &Node<'_>, findings: &mut Findings) -> (Option<f64>, Option<f64>) {
    let Some(fields) = Fields::open(node, "`compare`", &["alpha", "detect"], findings) else { return (None, None) };
    let alpha = fields.get("alpha").and_then(|node| {
        let alpha = read::number(node, 0.0..=0.5, findings)?;
        if alpha == 0.0 {
            findings.error(node, "out_of_range", "`alpha` must be above 0");
            return None;
        }
        Some(alpha)
    });
    let detect = fields.get("detect").and_then(|node| {
        let ratio = multiple(node, "such as `3x`", findings)?;
        if !(DETECT_MIN..=DETECT_MAX).contains(&ratio) {
            findings
                .error(node, "out_of_range", format!("`detect` lies between {DETECT_MIN}x and {DETECT_MAX}x"))
                .help("`3x`: no stage passes before it has enough traffic to see three times control's failures");
            return None;
        }
        Some(ratio)
    });
    (alpha, detect)
}

/// `10x`: times the rate that uses up the error budget exactly.
fn burn_rate(node: &Node<'_>, findings: &mut Findings) -> Option<f64> {
    let fields = Fields::open(node, "`auto_rollback`", &["error_budget_burn_rate"], findings)?;
    let node = fields.require("error_budget_burn_rate", "such as `10x`", findings)?;
    multiple(node, "such as `10x`", findings)
}

/// A number above 0 and `x`.
fn multiple(node: &Node<'_>, example: &str, findings: &mut Findings) -> Option<f64> {
    let value = read::text(node, &format!("a multiple {example}"), findings)?;
    let plain = |text: &str| {
        let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        text.parse::<f64>().ok().filter(|rate| good && *rate > 0.0)
    };
    if let Some(rate) = value.strip_suffix('x').and_then(plain) {
        return Some(rate);
    }
    let bare = value.trim_end_matches(['x', 'X', '×', ' ']);
    let found = findings.error(node, "wrong_type", format!("`{}` is not a multiple", shown(value)));
    if plain(bare).is_some() {
        found.help(format!("write `{bare}x`")).suggest(format!("{bare}x"));
    } else {
        found.help(format!("write a number above 0 and `x`, {example}"));
    }
    None
}
