//! `sealane audit`: the hash-chained record of every change.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use sealane_model::audit::{Entry, follow};
use sealane_proto::v1;

use crate::args::{Format, OutputArgs};
use crate::client::{ClientArgs, Server};
use crate::duration;
use crate::exit::{Exit, Failure};
use crate::keyfile;
use crate::printer::Printer;
use crate::table::Table;

const EXAMPLES: &str = "\
Examples:
  sealane audit list
  sealane audit list -o json | jq -r '.entries[].action'
  sealane audit verify             check that nothing was edited or removed
  sealane audit export > audit.jsonl";

const LIST_EXAMPLES: &str = "\
Examples:
  sealane audit list
  sealane audit list --limit 1000 -o json";

const VERIFY_EXAMPLES: &str = "\
Examples:
  sealane audit verify                       the authority checks its own log
  sealane audit verify audit.jsonl           an export, checked here
  sealane audit verify audit.jsonl --head 3f…";

const EXPORT_EXAMPLES: &str = "\
Examples:
  sealane audit export > audit.jsonl
  sealane audit export --out audit.jsonl && sealane audit verify audit.jsonl";

/// Entries shown unless asked otherwise.
const LIST_DEFAULT: u32 = 100;
/// A million entries.
const EXPORT_BYTES_MAX: u64 = 1 << 30;
/// The authority's largest page.
const PAGE_MAX: u32 = 1000;

/// Arguments of `sealane audit`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct AuditArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// List entries, oldest first
    #[command(before_help = LIST_EXAMPLES)]
    List {
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = LIST_DEFAULT, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Check the chain, at the authority or in an export
    #[command(before_help = VERIFY_EXAMPLES)]
    Verify {
        /// What `audit export` wrote; checked here, without a network
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// The export must lead to this head, such as one noted down before
        #[arg(long, value_name = "HASH", requires = "file")]
        head: Option<String>,
    },
    /// Write every entry as a line of JSON
    #[command(before_help = EXPORT_EXAMPLES)]
    Export {
        /// Where to [default: stdout]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// Runs `sealane audit`.
///
/// # Errors
/// As the exit table says; a broken chain is [`Exit::Failed`].
pub async fn run(args: &AuditArgs, printer: &Printer) -> Result<(), Failure> {
    let format = args.output.output;
    if let AuditCommand::Verify { file: Some(file), head } = &args.command {
        return verify_file(file, head.as_deref(), format, printer);
    }
    let server = args.client.connect(printer).await?;
    match &args.command {
        AuditCommand::List { limit } => list(&server, *limit, format, printer).await,
        AuditCommand::Verify { .. } => verify(&server, format, printer).await,
        AuditCommand::Export { out } => export(&server, out.as_deref(), printer).await,
    }
}

async fn list(server: &Server, limit: u32, format: Format, printer: &Printer) -> Result<(), Failure> {
    let mut all = v1::ListAuditResponse::default();
    loop {
        let missing = limit - u32::try_from(all.entries.len()).unwrap_or(u32::MAX).min(limit);
        let request =
            v1::ListAuditRequest { page_size: missing.min(PAGE_MAX), page_token: all.next_page_token.clone() };
        let page = server.call(server.audit().list_audit(request)).await?;
        let empty = page.entries.is_empty();
        all.entries.extend(page.entries);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() || empty || all.entries.len() >= limit as usize {
            break;
        }
    }
    all.entries.truncate(limit as usize);
    let names = || all.entries.iter().map(|entry| entry.sequence.to_string()).collect();
    printer.show(format, "ListAuditResponse", &all, names, |look| {
        let mut table = Table::new(["SEQUENCE", "AT", "ACTOR", "ACTION", "SUBJECT"]);
        if look.wide {
            for column in ["DIGEST", "HASH", "DETAIL"] {
                table.column(column);
            }
        }
        for entry in &all.entries {
            let mut cells = vec![
                entry.sequence.to_string().into(),
                duration::instant(entry.at.as_ref()).into(),
                (&entry.actor).into(),
                (&entry.action).into(),
                (&entry.subject).into(),
            ];
            if look.wide {
                let start = |text: &str| text.get(..12).unwrap_or(text).to_owned();
                cells.extend([start(&entry.digest).into(), start(&entry.hash).into(), (&entry.detail).into()]);
            }
            table.row(cells);
        }
        table.render(look.colour)
    })?;
    if !all.next_page_token.is_empty() && matches!(format, Format::Human | Format::Wide) {
        printer.talk(&format!("there are more than {limit}; --limit N shows more"));
    }
    Ok(())
}

/// Every entry, oldest first, each as it is hashed.
async fn export(server: &Server, out: Option<&Path>, printer: &Printer) -> Result<(), Failure> {
    let cannot = |path: &Path| {
        let text = format!("cannot write `{}`", path.display());
        move |error: std::io::Error| Failure::new(Exit::Failed, text.clone()).because(error)
    };
    let mut file = match out {
        Some(path) => Some((path, std::fs::File::create(path).map_err(cannot(path))?)),
        None => None,
    };
    let (mut page_token, mut count) = (String::new(), 0_u64);
    loop {
        let request = v1::ListAuditRequest { page_size: PAGE_MAX, page_token };
        let page = server.call(server.audit().list_audit(request)).await?;
        let mut text = String::new();
        for one in &page.entries {
            let line = serde_json::to_string(&entry(one))
                .map_err(|error| Failure::new(Exit::Failed, "cannot write an entry").because(error))?;
            text.push_str(&line);
            text.push('\n');
        }
        match &mut file {
            Some((path, file)) => file.write_all(text.as_bytes()).map_err(cannot(path))?,
            None => printer.text(&text)?,
        }
        count += page.entries.len() as u64;
        page_token = page.next_page_token;
        if page_token.is_empty() || page.entries.is_empty() {
            break;
        }
    }
    if let Some((path, _)) = file {
        printer.talk(&format!("{count} entries are in {}", path.display()));
    }
    Ok(())
}

fn entry(one: &v1::AuditEntry) -> Entry {
    let at = one.at.unwrap_or_default();
    Entry {
        sequence: one.sequence,
        at_unix_ms: at.seconds * 1000 + i64::from(at.nanos) / 1_000_000,
        actor: one.actor.clone(),
        action: one.action.clone(),
        subject: one.subject.clone(),
        digest: one.digest.clone(),
        detail: one.detail.clone(),
        hash: one.hash.clone(),
    }
}

/// Follows the chain of an export from its first line.
fn verify_file(path: &Path, head: Option<&str>, format: Format, printer: &Printer) -> Result<(), Failure> {
    let text = keyfile::read(path, EXPORT_BYTES_MAX)?;
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let entry: Entry = serde_json::from_str(line).map_err(|error| {
            let place = format!("`{}` line {} is no entry of an audit log", path.display(), number + 1);
            Failure::new(Exit::Invalid, place).because(error)
        })?;
        entries.push(entry);
    }
    let broken = |at: u64| {
        Failure::new(Exit::Failed, "the audit record does not follow from itself: it was edited or cut")
            .hint(format!("entry {at} is the first that does not follow; compare with a backup"))
    };
    let newest = follow(0, None, &entries).map_err(broken)?.map(|digest| digest.to_string()).unwrap_or_default();
    if head.is_some_and(|head| !newest.eq_ignore_ascii_case(head)) {
        return Err(Failure::new(Exit::Failed, format!("it is whole in itself, but leads to the head {newest}"))
            .hint("entries at its end are missing, or it is the log of another fleet"));
    }
    let value = serde_json::json!({ "intact": true, "entries": entries.len(), "head": newest });
    match format {
        Format::Json | Format::Yaml => printer.value(format, &value),
        Format::Name => printer.data("intact"),
        Format::Human | Format::Wide => printer.text(&format!("intact: {} entries, head {newest}\n", entries.len())),
    }
}

async fn verify(server: &Server, format: Format, printer: &Printer) -> Result<(), Failure> {
    let answer = server.call(server.audit().verify_audit(v1::VerifyAuditRequest {})).await?;
    let word = if answer.intact { "intact" } else { "broken" };
    printer.show(
        format,
        "VerifyAuditResponse",
        &answer,
        || vec![word.into()],
        |_| match answer.intact {
            true => format!("intact: {} entries, head {}\n", answer.entries, crate::paint::clean(&answer.head)),
            false => broken(&answer),
        },
    )?;
    match answer.intact {
        true => Ok(()),
        false if answer.broken_at > 0 => {
            Err(Failure::new(Exit::Failed, "the audit record does not follow from itself: it was edited")
                .hint(format!("entry {} is the first that does not follow; compare with a backup", answer.broken_at)))
        }
        false => Err(Failure::new(Exit::Failed, "the database says something else than its audit record").hint(
            "treat the authority's machine as broken into: `docs/runbooks/key-compromise.md`; compare with a backup",
        )),
    }
}

fn broken(answer: &v1::VerifyAuditResponse) -> String {
    let mut out = match answer.broken_at {
        0 => format!("{} entries follow from each other, but:\n", answer.entries),
        at => format!("broken at entry {at} of {}\n", answer.entries),
    };
    for problem in &answer.problems {
        out.push_str(&format!("  {}\n", crate::paint::clean(problem)));
    }
    out
}
