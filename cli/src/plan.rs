//! `sealane plan`: what publishing a file would change, by the authority's own judgement, and a plan file that
//! `publish` then applies exactly.
//!
//! A plan file holds the text and the etag that it was planned against: whoever publishes in between makes it void.

use std::path::{Path, PathBuf};

use clap::Args;
use sealane_model::impact::{self, Shape};
use sealane_model::parse::changes::{self, Change};
use sealane_model::parse::{Reader, parse};
use sealane_proto::v1;
use serde::{Deserialize, Serialize};

use crate::args::{Format, OutputArgs};
use crate::client::{ClientArgs, Server};
use crate::exit::{Exit, Failure};
use crate::explain::ask_admin;
use crate::paint::{Paint, clean};
use crate::printer::{Look, Printer};
use crate::problems::{self, Source};
use crate::{duration, words};

const EXAMPLES: &str = "\
Examples:
  sealane plan fleet.yaml                        what would change, and how it would roll out
  sealane plan fleet.yaml --detailed-exitcode    exit 0: no change, 2: changes, 3: not valid
  sealane plan fleet.yaml --no-sample            without asking the nodes for recent requests
  sealane plan fleet.yaml --sample 127.0.0.1:9090   with recent requests of this proxy instead
  sealane plan fleet.yaml --out change.plan      then: sealane publish change.plan -m 'new pool' --watch";

/// Arguments of `sealane plan`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES)]
pub struct PlanArgs {
    /// The config file, YAML or JSON; `-` is stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Exit 2 when there are changes
    #[arg(long)]
    detailed_exitcode: bool,
    /// Write a plan that `publish` applies exactly, or refuses when someone published meanwhile
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Admin address of a proxy: run its recent requests through both configs, instead of those of the fleet's nodes; as
    /// often as needed
    #[arg(long, value_name = "ADDR")]
    sample: Vec<String>,
    /// Do not ask the nodes for recent requests
    #[arg(long, conflicts_with = "sample")]
    no_sample: bool,
    /// Show the difference of the texts too
    #[arg(long)]
    diff: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// The etag that stands for "nothing was published yet".
const NOTHING_YET: &str = "none";

/// What `plan --out` writes and `publish` takes.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct PlanFile {
    /// Version of this format.
    sealane_plan: u32,
    /// The name of the config file.
    pub(crate) file: String,
    /// What the newest revision was.
    pub(crate) etag: String,
    /// Exactly what is published.
    pub(crate) config_yaml: String,
}

impl PlanFile {
    /// The plan in a text that starts like one; `None`: it is a config.
    ///
    /// # Errors
    /// A plan of another version.
    pub(crate) fn recognise(text: &str) -> Result<Option<Self>, Failure> {
        if !text.trim_start().starts_with("{\"sealane_plan\"") {
            return Ok(None);
        }
        let plan: Self = serde_json::from_str(text).map_err(|error| {
            Failure::new(Exit::Invalid, "the plan file is damaged")
                .because(error)
                .hint("make it again with `sealane plan FILE --out PLAN`")
        })?;
        if plan.sealane_plan != 1 {
            return Err(Failure::new(Exit::Invalid, "the plan file is of another version of sealane"));
        }
        Ok(Some(plan))
    }
}

/// Runs `sealane plan`.
///
/// # Errors
/// [`Exit::Changes`] under `--detailed-exitcode`, [`Exit::Invalid`] for a file with problems, else as the exit table says.
pub async fn run(args: &PlanArgs, printer: &Printer) -> Result<(), Failure> {
    let source = Source::read(&args.file)?;
    let server = args.client.connect(printer).await?;
    let without_sample = args.no_sample || !args.sample.is_empty();
    let request = v1::PlanRequest { config_yaml: source.text.clone(), file: source.name.clone(), without_sample };
    let mut answer = server.call(server.config().plan(request)).await?;
    if answer.valid && !args.sample.is_empty() {
        answer.impact = Some(impact_of(&server, &source, &args.sample).await?);
    }
    let answer = answer;
    let format = args.output.output;
    let changed = !answer.diff.is_empty();
    if matches!(format, Format::Human | Format::Wide) {
        problems::talk(&answer.problems, &source, printer);
    }
    let names = || answer.changes.iter().map(|change| format!("{} {}", change.what, change.id)).collect();
    if answer.valid || !matches!(format, Format::Human | Format::Wide) {
        printer.show(format, "PlanResponse", &answer, names, |look| page(&answer, &source, args.diff, look))?;
    }
    if !answer.valid {
        return Err(Failure::new(Exit::Invalid, format!("{}: {}", source.shown, problems::count(&answer.problems))));
    }
    if let Some(out) = &args.out {
        write(out, &source, &answer)?;
        let shown = out.display();
        printer.talk(&format!("wrote the plan to {shown}"));
        printer.hint(&format!("`sealane publish {shown} -m MESSAGE --watch` applies exactly this"));
    } else if changed && matches!(format, Format::Human | Format::Wide) {
        printer.hint(&format!("`sealane publish {} -m MESSAGE --watch`", source.shown));
    }
    if args.detailed_exitcode && changed {
        return Err(Failure::quiet(Exit::Changes));
    }
    Ok(())
}

/// Asks proxies for recent requests and runs them through what was published last and through the file.
async fn impact_of(server: &Server, source: &Source, proxies: &[String]) -> Result<v1::Impact, Failure> {
    #[derive(Deserialize)]
    struct Sampled {
        requests: Vec<Shape>,
    }
    let mut shapes = Vec::new();
    for admin in proxies {
        let body = ask_admin(admin, "/api/v2/samples").await?;
        let sampled: Sampled = serde_json::from_slice(&body).map_err(|error| {
            Failure::new(Exit::Failed, format!("{admin} is no admin address of a proxy")).because(error)
        })?;
        shapes.extend(sampled.requests);
    }
    let request = v1::GetRevisionRequest { revision: 0, with_config: true };
    let newest = match server.raw(server.config().get_revision(request)).await {
        Ok(newest) => newest.revision.map(|revision| revision.config_yaml).unwrap_or_default(),
        Err(status) => return Err(server.failure(&status)),
    };
    let read = |text: &str| parse("config", text, Reader::Fleet).ok().map(|(config, _)| config);
    let (Some(before), Some(after)) = (read(&newest), read(&source.text)) else {
        return Err(Failure::new(Exit::Failed, "the newest revision cannot be read by this version of sealane"));
    };
    let found = impact::impact(&before, &after, &shapes);
    let moves = found.moves.into_iter().map(|it| v1::ImpactMove {
        from: it.from,
        to: it.to,
        requests: it.requests,
        example: it.example,
    });
    Ok(v1::Impact {
        requests: found.requests,
        different: found.different,
        moves: moves.collect(),
        unknown_headers: found.unknown_headers,
        nodes_asked: u32::try_from(proxies.len()).unwrap_or(u32::MAX),
        nodes_answered: u32::try_from(proxies.len()).unwrap_or(u32::MAX),
    })
}

fn impact_text(impact: &v1::Impact) -> String {
    let of = format!("{} of {} answered", impact.nodes_answered, words::nodes(impact.nodes_asked));
    if impact.requests == 0 {
        return format!("impact\n  not known: {of}, and no recent request is remembered; send some, and plan again\n");
    }
    let percent = 100.0 * impact.different as f64 / impact.requests as f64;
    let mut out = format!(
        "impact\n  {} of {} recent requests ({percent:.1} %) would be decided differently ({of})\n",
        impact.different, impact.requests
    );
    for it in impact.moves.iter().take(20) {
        out.push_str(&format!(
            "  {:>6}  {} becomes {}, such as {}\n",
            it.requests,
            clean(&it.from),
            clean(&it.to),
            clean(&it.example)
        ));
    }
    if impact.moves.len() > 20 {
        out.push_str(&format!("  and {} more\n", impact.moves.len() - 20));
    }
    for name in &impact.unknown_headers {
        out.push_str(&format!("  not known: who sends `{}`, which only the new config compares\n", clean(name)));
    }
    out
}

fn write(out: &Path, source: &Source, answer: &v1::PlanResponse) -> Result<(), Failure> {
    let etag = if answer.etag.is_empty() { NOTHING_YET.to_owned() } else { answer.etag.clone() };
    let plan = PlanFile { sealane_plan: 1, file: source.name.clone(), etag, config_yaml: source.text.clone() };
    let text = serde_json::to_string(&plan).unwrap_or_default() + "\n";
    std::fs::write(out, text)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot write `{}`", out.display())).because(error))
}

fn page(answer: &v1::PlanResponse, source: &Source, with_diff: bool, look: Look) -> String {
    if answer.diff.is_empty() {
        return format!("{} is what was published last: no change\n", source.shown);
    }
    let found: Vec<Change> = answer.changes.iter().map(of_wire).collect();
    let mut out = String::new();
    if found.is_empty() {
        out.push_str("only layout and comments differ: proxies would do the same\n");
    } else {
        let count = |kind: &str| found.iter().filter(|it| it.kind == kind && it.path.is_empty()).count();
        let things: std::collections::BTreeSet<_> =
            found.iter().filter(|it| !it.path.is_empty()).map(|it| (&it.what, &it.id)).collect();
        let summary = format!("{} added, {} changed, {} removed", count("added"), things.len(), count("removed"));
        out.push_str(&format!("{}\n", Paint::Strong.apply(look.colour, &summary)));
        for line in changes::text(&found, &source.shown).lines() {
            let paint = match line.trim_start().as_bytes().first() {
                Some(b'+') => Paint::Good,
                Some(b'-') => Paint::Bad,
                _ => Paint::Plain,
            };
            out.push_str(&format!("{}\n", paint.apply(look.colour, &clean(line))));
        }
    }
    if !answer.stages.is_empty() {
        out.push_str("rollout\n");
    }
    let many_waves = answer.stages.windows(2).any(|pair| pair[0].wave != pair[1].wave);
    for stage in &answer.stages {
        let wave = if many_waves { format!("{} / ", stage.wave) } else { String::new() };
        let bake = stage
            .bake
            .as_ref()
            .map_or_else(String::new, |bake| format!(", holds {}", duration::show(duration::of_wire(Some(bake)))));
        let nodes = match stage.nodes.as_slice() {
            [] => String::new(),
            nodes if nodes.len() <= 5 => format!(": {}", nodes.join(", ")),
            nodes => format!(": {} and {} more", nodes[..5].join(", "), nodes.len() - 5),
        };
        let line = format!(
            "  {wave}{:<10} {:>5} %  {}{bake}{nodes}",
            stage.name,
            words::short(stage.fleet_percent),
            words::proxies(stage.proxies)
        );
        out.push_str(&format!("{}\n", clean(&line)));
    }
    if let Some(least) = &answer.duration_least {
        let least = duration::show(duration::of_wire(Some(least)));
        out.push_str(&format!("  at least {least} until it counts as good\n"));
    }
    if let Some(impact) = &answer.impact {
        out.push_str(&impact_text(impact));
    }
    if with_diff {
        out.push_str(&answer.diff);
    }
    out
}

fn of_wire(change: &v1::ConfigChange) -> Change {
    Change {
        kind: change.kind.clone(),
        what: change.what.clone(),
        id: change.id.clone(),
        path: change.path.clone(),
        before: change.before.clone(),
        after: change.after.clone(),
        line_before: change.line_before,
        line: change.line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_file_comes_back_as_it_was_and_a_config_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.plan");
        let source = Source { shown: "f.yaml".into(), name: "f.yaml".into(), text: "routes: []\n".into() };
        write(&path, &source, &v1::PlanResponse { etag: "e7".into(), ..v1::PlanResponse::default() }).unwrap();
        let plan = PlanFile::recognise(&std::fs::read_to_string(&path).unwrap()).unwrap().unwrap();
        assert_eq!(
            (plan.file.as_str(), plan.etag.as_str(), plan.config_yaml.as_str()),
            ("f.yaml", "e7", "routes: []\n")
        );
        write(&path, &source, &v1::PlanResponse::default()).unwrap();
        let plan = PlanFile::recognise(&std::fs::read_to_string(&path).unwrap()).unwrap().unwrap();
        assert_eq!(plan.etag, NOTHING_YET, "nothing was published: that is what must still hold");
        assert!(PlanFile::recognise("routes: []").unwrap().is_none());
        assert!(PlanFile::recognise("{\"sealane_plan\": 2}").is_err());
    }
}
