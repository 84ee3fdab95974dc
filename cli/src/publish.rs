//! `sealane publish`: hands a config to the authority and, if asked, follows it to its verdict.
//!
//! The file is not judged here: the authority's list of problems is the truth, printed with the lines of this file.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use sealane_proto::v1;
use tonic::{Code, Status};

use crate::args::{Format, OutputArgs};
use crate::client::{self, ClientArgs, Server, incomplete};
use crate::exit::{Exit, Failure};
use crate::plan::PlanFile;
use crate::printer::Printer;
use crate::problems::{self, Source};
use crate::rollout::{Follow, follow};
use crate::words;

const EXAMPLES: &str = "\
Examples:
  sealane publish fleet.yaml -m 'raise limit'            sign, publish, return
  sealane publish fleet.yaml -m 'raise limit' --watch    and follow it to its verdict
  sealane publish fleet.yaml -m 'new pool' --hold        prepare everywhere, wait for `promote`
  sealane publish fleet.yaml -m test --dry-run           everything but the publish
  cat fleet.yaml | sealane publish - -m 'from a pipe'";

/// Arguments of `sealane publish`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES)]
pub struct PublishArgs {
    /// The config file, YAML or JSON, or what `sealane plan --out` wrote; `-` is stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What changes and why; kept with the revision
    #[arg(short, long, value_name = "TEXT")]
    message: String,
    /// Follow the rollout to its verdict
    #[arg(long)]
    watch: bool,
    /// Prepare on every proxy, then wait for `sealane rollout promote`
    #[arg(long)]
    hold: bool,
    /// Go on during a freeze: needs a token of role incident, and is kept in the audit log
    #[arg(long)]
    override_freeze: bool,
    /// How careful the rollout is
    #[arg(long, value_name = "CLASS", value_enum, default_value_t)]
    class: Class,
    /// Everything but the publish
    #[arg(long, conflicts_with = "watch")]
    dry_run: bool,
    /// Publish only if this is still the newest state; given by `revision show` and by each publish
    #[arg(long, value_name = "ETAG", default_value = "", hide_default_value = true)]
    etag: String,
    /// Stop a rollout under way, its canaries going back first, instead of queueing behind it
    #[arg(long)]
    supersede: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// How careful the rollout is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Class {
    /// All stages, all gates
    #[default]
    Standard,
    /// Shorter bakes, same guards
    Expedited,
    /// Straight to all; only sandbox routes may differ
    Sandbox,
}

/// Runs `sealane publish`.
///
/// # Errors
/// As the exit table says.
pub async fn run(args: &PublishArgs, printer: &Printer) -> Result<(), Failure> {
    let mut source = Source::read(&args.file)?;
    let mut etag = args.etag.clone();
    if let Some(plan) = PlanFile::recognise(&source.text)? {
        if !etag.is_empty() && etag != plan.etag {
            return Err(Failure::usage("`--etag` and the plan name different revisions").hint("leave `--etag` out"));
        }
        etag = plan.etag;
        source = Source { shown: source.shown, name: plan.file, text: plan.config_yaml };
    }
    let server = args.client.connect(printer).await?;
    let format = args.output.output;
    let request = v1::PublishRequest {
        config_yaml: source.text.clone(),
        file: source.name.clone(),
        message: args.message.clone(),
        etag,
        request_id: words::request_id()?,
        change_class: match args.class {
            Class::Standard => v1::ChangeClass::Standard,
            Class::Expedited => v1::ChangeClass::Expedited,
            Class::Sandbox => v1::ChangeClass::Sandbox,
        }
        .into(),
        hold: args.hold,
        override_freeze: args.override_freeze,
        dry_run: args.dry_run,
        supersede: args.supersede,
    };
    let answer = match send(&server, request).await {
        Ok(answer) => answer,
        Err(status) if status.code() == Code::InvalidArgument => {
            return Err(refused(&server, &status, &source, format, printer).await);
        }
        Err(status) => return Err(server.failure(&status)),
    };
    let revision = answer.revision.ok_or_else(|| incomplete("revision"))?;
    problems::talk(&answer.problems, &source, printer);
    let name = words::revision(revision.revision);
    if !revision.waits_for.is_empty() && !args.dry_run {
        let line = format!("{name} waits: {}\n", crate::paint::clean(&revision.waits_for.join(", ")));
        printer.show(format, "Revision", &revision, || vec![name.clone()], |_| line)?;
        if matches!(format, Format::Human | Format::Wide) {
            printer.hint(&format!(
                "`sealane revision approve {name}` by somebody else, or with `--key FILE`; `sealane revision export {name} \
                 --out FILE` and `sealane sign FILE` sign elsewhere"
            ));
        }
        // With --watch this is the end of what can be seen: it is not over.
        return if args.watch { Err(Failure::quiet(Exit::Unfinished)) } else { Ok(()) };
    }
    if args.watch {
        if format == Format::Human || format == Format::Wide {
            printer.talk(&format!("published {name}"));
        }
        let wanted =
            Follow { revision: revision.revision, text: Some((&source.shown, &source.text)), hold_is_done: args.hold };
        return follow(&server, wanted, format, printer).await;
    }
    let line = match (args.dry_run, revision.digest.get(..12)) {
        (true, _) => format!("{name} would be published"),
        (false, Some(digest)) => format!("published {name} ({digest})"),
        (false, None) => format!("published {name}"),
    };
    printer.show(format, "Revision", &revision, || vec![name.clone()], |_| line + "\n")?;
    if !args.dry_run && matches!(format, Format::Human | Format::Wide) {
        printer.hint(&format!("`sealane rollout watch {name}` follows it to its verdict"));
    }
    Ok(())
}

/// Sends once more, under the same request id, if the connection broke: the authority answers a repeated id as it did
/// the first time, so that a revision is never published twice.
async fn send(server: &Server, request: v1::PublishRequest) -> Result<v1::PublishResponse, Status> {
    match server.raw(server.config().publish(request.clone())).await {
        Err(status) if client::broke(&status) => server.raw(server.config().publish(request)).await,
        answer => answer,
    }
}

/// Prints why a config was refused, each problem with its line: the details are what `Validate` answers.
async fn refused(server: &Server, status: &Status, source: &Source, format: Format, printer: &Printer) -> Failure {
    let request = v1::ValidateRequest { config_yaml: source.text.clone(), file: source.name.clone() };
    let list = match server.raw(server.config().validate(request)).await {
        Ok(answer) if !answer.valid => answer.problems,
        _ => client::violations(status),
    };
    if list.is_empty() {
        return server.failure(status);
    }
    let printed = match format {
        Format::Json | Format::Yaml => printer.value(format, &problems::values(&list, source)),
        Format::Human | Format::Wide | Format::Name => {
            problems::talk(&list, source, printer);
            Ok(())
        }
    };
    if let Err(failure) = printed {
        return failure;
    }
    Failure::new(Exit::Invalid, format!("{} was not published: {}", source.shown, problems::count(&list)))
}
