//! `sealane revision`: read what was published, take it elsewhere, and approve what waits.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use sealane_model::bundle::file::BundleFile;
use sealane_model::bundle::{CHUNK_BYTES_MAX, listed_chunks};
use sealane_model::envelope::Envelope;
use sealane_model::ids::Digest;
use sealane_model::release::ClaimedRelease;
use sealane_model::trust::{Role, TrustRoot};
use sealane_proto::v1;
use sealane_proto::v1::Revision;

use crate::args::{Format, OutputArgs};
use crate::client::{ClientArgs, Server, incomplete};
use crate::exit::{Exit, Failure};
use crate::paint::{Paint, clean};
use crate::printer::{Look, Printer};
use crate::table::{Cell, Table};
use crate::{clock, duration, key, keyfile, sign, words};

const EXAMPLES: &str = "\
Examples:
  sealane revision list
  sealane revision show r41
  sealane revision show r41 --config > fleet.yaml   the text as it was published
  sealane revision diff r40 r41";

const LIST_EXAMPLES: &str = "\
Examples:
  sealane revision list
  sealane revision list --limit 5 -o json";

const SHOW_EXAMPLES: &str = "\
Examples:
  sealane revision show                             the newest
  sealane revision show r41 --config > fleet.yaml   the text as it was published";

const DIFF_EXAMPLES: &str = "\
Examples:
  sealane revision diff r40 r41";

const EXPORT_EXAMPLES: &str = "\
Examples:
  sealane revision export r42 --out r42.json
  sealane revision export r42 --dir /srv/www/fleet  bundle.json and blobs/, for any file server";

const VERIFY_EXAMPLES: &str = "\
Examples:
  sealane revision verify r42.json --trust trust.json";

const APPROVE_EXAMPLES: &str = "\
Examples:
  sealane revision approve r42 -m 'looks good'      your word: you are not its author
  sealane revision approve r42 --signature r42.json what `sealane sign` signed elsewhere
  sealane revision approve r42 --key ana.pem        signs here and sends it";

/// Revisions shown unless asked otherwise.
const LIST_DEFAULT: u32 = 20;
/// The authority's largest page.
const PAGE_MAX: u32 = 1000;

/// Arguments of `sealane revision`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct RevisionArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    command: RevisionCommand,
}

#[derive(Debug, Subcommand)]
enum RevisionCommand {
    /// List revisions, newest first
    #[command(before_help = LIST_EXAMPLES)]
    List {
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = LIST_DEFAULT, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show a revision
    #[command(before_help = SHOW_EXAMPLES)]
    Show {
        /// Such as r42 [default: the newest]
        #[arg(value_name = "REV", value_parser = words::parse_revision)]
        revision: Option<u64>,
        /// Print the config's text, as it was published
        #[arg(long)]
        config: bool,
    },
    /// Write a revision into a file, or a folder for static pull
    #[command(before_help = EXPORT_EXAMPLES)]
    Export(ExportArgs),
    /// Check an exported revision, without a network
    #[command(before_help = VERIFY_EXAMPLES)]
    Verify {
        /// What `revision export` wrote: a file, or a folder
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The trust root (the authority's trust.json) that must vouch for it
        #[arg(long, value_name = "FILE", env = "SEALANE_TRUST")]
        trust: Option<PathBuf>,
    },
    /// Give a signature, or your word, to a revision that waits for it
    #[command(before_help = APPROVE_EXAMPLES)]
    Approve(ApproveArgs),
    /// Show what changed between two revisions
    #[command(before_help = DIFF_EXAMPLES)]
    Diff {
        /// The older
        #[arg(value_name = "A", value_parser = words::parse_revision)]
        from: u64,
        /// The newer
        #[arg(value_name = "B", value_parser = words::parse_revision)]
        to: u64,
    },
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// Such as r42 [default: the newest]
    #[arg(value_name = "REV", value_parser = words::parse_revision)]
    revision: Option<u64>,
    /// One file [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A folder: bundle.json with the documents, blobs/ with the content
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ApproveArgs {
    /// Such as r42
    #[arg(value_name = "REV", value_parser = words::parse_revision)]
    revision: u64,
    /// The exported file that `sealane sign` has signed
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// Sign with this private key here
    #[arg(long, value_name = "FILE", conflicts_with = "signature")]
    key: Option<PathBuf>,
    /// Why; kept in the audit log
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
    /// Check, change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs `sealane revision`.
///
/// # Errors
/// As the exit table says.
pub async fn run(args: &RevisionArgs, printer: &Printer) -> Result<(), Failure> {
    let format = args.output.output;
    match &args.command {
        RevisionCommand::Verify { file, trust } => return verify(file, trust.as_deref(), format, printer),
        RevisionCommand::Approve(wanted) => return approve(&args.client, wanted, format, printer).await,
        _ => {}
    }
    let server = args.client.connect(printer).await?;
    match &args.command {
        RevisionCommand::Verify { .. } | RevisionCommand::Approve(_) => Ok(()), // done above
        RevisionCommand::Export(wanted) => export(&server, wanted, printer).await,
        RevisionCommand::List { limit } => list(&server, *limit, format, printer).await,
        RevisionCommand::Show { revision, config } => {
            show(&server, revision.unwrap_or(0), *config, format, printer).await
        }
        RevisionCommand::Diff { from, to } => diff(&server, *from, *to, format, printer).await,
    }
}

/// Everything of a revision, in one file or in a folder.
async fn export(server: &Server, wanted: &ExportArgs, printer: &Printer) -> Result<(), Failure> {
    let request = v1::ExportRevisionRequest { revision: wanted.revision.unwrap_or(0) };
    let mut stream = server.call(server.config().export_revision(request)).await?;
    let mut head = None;
    let mut chunks = HashMap::new();
    while let Some(message) = stream.message().await.map_err(|status| server.failure(&status))? {
        match message.part {
            Some(v1::export_revision_response::Part::Head(one)) => head = Some(one),
            Some(v1::export_revision_response::Part::Chunk(bytes)) => drop(chunks.insert(Digest::of(&bytes), bytes)),
            None => {}
        }
    }
    let head = head.ok_or_else(|| incomplete("head"))?;
    let file = BundleFile {
        roots: head.roots.into_iter().map(Envelope::from).collect(),
        release: head.release.ok_or_else(|| incomplete("release"))?.into(),
        timestamp: head.timestamp.map(Envelope::from),
        grants: head.grants.into_iter().map(Envelope::from).collect(),
        manifest: head.manifest,
        chunks,
    };
    let (claimed, _) = file
        .claimed()
        .map_err(|error| Failure::new(Exit::Failed, "what the authority sent does not fit together").because(error))?;
    let name = claimed.release().revision.to_string();
    match (&wanted.dir, &wanted.out) {
        (Some(dir), _) => {
            write_folder(dir, file)?;
            printer.talk(&format!("{name} is in {}", dir.display()));
        }
        (None, Some(path)) => {
            std::fs::write(path, file.to_json()).map_err(|error| cannot_write(path, error))?;
            printer.talk(&format!("{name} is in {}", path.display()));
        }
        (None, None) => return printer.text(&file.to_json()),
    }
    Ok(())
}

/// A folder for any file server: `bundle.json` with the documents, `blobs/HEX` with the content. The head comes last, so
/// that whoever reads meanwhile never finds a head without its content.
fn write_folder(dir: &Path, mut file: BundleFile) -> Result<(), Failure> {
    let blobs = dir.join("blobs");
    std::fs::create_dir_all(&blobs).map_err(|error| cannot_write(&blobs, error))?;
    for (digest, bytes) in std::mem::take(&mut file.chunks) {
        let path = blobs.join(digest.to_string());
        if !path.exists() {
            std::fs::write(&path, bytes).map_err(|error| cannot_write(&path, error))?;
        }
    }
    let (path, temporary) = (dir.join("bundle.json"), dir.join(".bundle.json.tmp"));
    std::fs::write(&temporary, file.to_json()).map_err(|error| cannot_write(&temporary, error))?;
    std::fs::rename(&temporary, &path).map_err(|error| cannot_write(&path, error))
}

/// Reads an exported file, or the folder that `--dir` made.
fn read_export(path: &Path) -> Result<BundleFile, Failure> {
    let is_folder = path.is_dir();
    let head = if is_folder { path.join("bundle.json") } else { path.to_owned() };
    let text = keyfile::read(&head, sign::FILE_BYTES_MAX)?;
    let invalid =
        |error| Failure::new(Exit::Invalid, format!("`{}` is no exported revision", head.display())).because(error);
    let mut file = BundleFile::from_json(&text).map_err(invalid)?;
    if is_folder {
        let claimed = ClaimedRelease::read(&file.release).map_err(invalid)?;
        let listed = listed_chunks(&file.manifest, &claimed.release().manifest_digest).map_err(invalid)?;
        for digest in listed {
            let path = path.join("blobs").join(digest.to_string());
            let length = std::fs::metadata(&path).map(|found| found.len()).unwrap_or(0);
            if length > CHUNK_BYTES_MAX as u64 {
                return Err(Failure::new(Exit::Invalid, format!("`{}` is larger than a chunk may be", path.display())));
            }
            if let Ok(bytes) = std::fs::read(&path) {
                file.chunks.insert(digest, bytes);
            }
        }
    }
    Ok(file)
}

/// Offline: signatures, the chain of trust roots, every byte of content.
fn verify(path: &Path, trust: Option<&Path>, format: Format, printer: &Printer) -> Result<(), Failure> {
    let file = read_export(path)?;
    let trusted = match trust {
        Some(trust) => key::read_root(trust)?,
        None => {
            printer.warn("without --trust the file is only checked against the trust root that it brings itself");
            let own = file.roots.first().ok_or_else(|| Failure::new(Exit::Invalid, "it brings no trust root"))?;
            TrustRoot::pinned(own)
                .map_err(|error| Failure::new(Exit::Invalid, "its trust root is not sound").because(error))?
        }
    };
    let (bundle, root) = file
        .verify(&trusted)
        .map_err(|error| Failure::new(Exit::Invalid, format!("`{}` does not verify", path.display())).because(error))?;
    let release = bundle.release().release();
    let (signed_by, due) = root.signers(&file.release, Role::Release);
    let value = serde_json::json!({
        "valid": true,
        "trusted": trust.is_some(),
        "fleet_id": release.fleet.0,
        "revision": release.revision.0,
        "epoch": release.epoch.0,
        "digest": bundle.release().digest().to_string(),
        "root_version": root.document().version,
        "signed_by": signed_by.iter().map(|id| id.0.clone()).collect::<Vec<_>>(),
        "signatures_min": due,
        "author": release.author,
        "message": release.message,
        "resources": bundle.resources().iter().map(|one| serde_json::json!({
            "kind": one.kind, "name": one.name, "bytes": one.content.len(), "digest": Digest::of(&one.content).to_string(),
        })).collect::<Vec<_>>(),
    });
    match format {
        Format::Json | Format::Yaml => printer.value(format, &value),
        Format::Name => printer.data(&release.revision.to_string()),
        Format::Human | Format::Wide => {
            let bytes: usize = bundle.resources().iter().map(|one| one.content.len()).sum();
            printer.text(&format!(
                "{} verifies: fleet {}, epoch {}, signed by {} of {due} keys of trust root {}, {bytes} bytes, digest {}\n",
                release.revision,
                clean(&release.fleet.0),
                release.epoch,
                signed_by.len(),
                root.document().version,
                bundle.release().digest(),
            ))
        }
    }
}

/// Sends a signature, or a word, for a revision that waits.
async fn approve(client: &ClientArgs, wanted: &ApproveArgs, format: Format, printer: &Printer) -> Result<(), Failure> {
    let mut release = match &wanted.signature {
        Some(path) => Some(read_export(path)?.release),
        None => None,
    };
    let server = client.connect(printer).await?;
    if let Some(path) = &wanted.key {
        let key = keyfile::private(path)?;
        let request = v1::ExportRevisionRequest { revision: wanted.revision };
        let mut stream = server.call(server.config().export_revision(request)).await?;
        let first = stream.message().await.map_err(|status| server.failure(&status))?.and_then(|message| message.part);
        let Some(v1::export_revision_response::Part::Head(head)) = first else { return Err(incomplete("head")) };
        let mut envelope: Envelope = head.release.ok_or_else(|| incomplete("release"))?.into();
        let claimed = ClaimedRelease::read(&envelope)
            .map_err(|error| Failure::new(Exit::Failed, "the authority sent no release").because(error))?;
        if claimed.release().revision.0 != wanted.revision {
            return Err(Failure::new(Exit::Failed, "the authority sent another revision than was asked for"));
        }
        envelope.add_signature(&key);
        release = Some(envelope);
    }
    let request = v1::ApproveRequest {
        revision: wanted.revision,
        release: release.map(Into::into),
        message: wanted.message.clone(),
        request_id: words::request_id()?,
        dry_run: wanted.dry_run,
    };
    let answer = server.call(server.config().approve(request)).await?;
    let revision = answer.revision.ok_or_else(|| incomplete("revision"))?;
    let shown = name(&revision);
    // What is rolled out already gets a signature, and does not begin again.
    let begins = revision.waits_for.is_empty() && revision.state == "queued";
    let line = match (revision.waits_for.is_empty(), wanted.dry_run) {
        (true, true) if begins => format!("{shown} would be released"),
        (true, false) if begins => format!("{shown} is released"),
        (true, _) => format!("{shown} has {} of {} signatures", revision.signed_by.len(), revision.signatures_min),
        (false, _) => format!("{shown} still waits: {}", clean(&revision.waits_for.join(", "))),
    };
    printer.show(format, "Revision", &revision, || vec![shown.clone()], |_| line + "\n")?;
    if begins && !wanted.dry_run && matches!(format, Format::Human | Format::Wide) {
        printer.hint(&format!("`sealane rollout watch {shown}` follows it to its verdict"));
    }
    Ok(())
}

fn cannot_write(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot write `{}`", path.display())).because(error)
}

async fn list(server: &Server, limit: u32, format: Format, printer: &Printer) -> Result<(), Failure> {
    let mut all = v1::ListRevisionsResponse::default();
    loop {
        let missing = limit - u32::try_from(all.revisions.len()).unwrap_or(u32::MAX).min(limit);
        let request =
            v1::ListRevisionsRequest { page_size: missing.min(PAGE_MAX), page_token: all.next_page_token.clone() };
        let page = server.call(server.config().list_revisions(request)).await?;
        let empty = page.revisions.is_empty();
        all.revisions.extend(page.revisions);
        all.etag = page.etag;
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() || empty || all.revisions.len() >= limit as usize {
            break;
        }
    }
    all.revisions.truncate(limit as usize);
    let names = || all.revisions.iter().map(name).collect();
    printer.show(format, "ListRevisionsResponse", &all, names, |look| {
        if all.revisions.is_empty() {
            return "no revisions yet\n".into();
        }
        let mut table = Table::new(["REVISION", "STATE", "CREATED", "AUTHOR", "MESSAGE"]);
        if look.wide {
            for column in ["CLASS", "DIGEST", "BYTES", "FILE", "CREATED AT"] {
                table.column(column);
            }
        }
        let now = clock::now();
        for revision in &all.revisions {
            let mut cells: Vec<Cell> = vec![
                name(revision).into(),
                state(revision),
                duration::ago(revision.created_at.as_ref(), now).into(),
                (&revision.author).into(),
                (&revision.message).into(),
            ];
            if look.wide {
                cells.extend([
                    words::class(revision.change_class()).into(),
                    revision.digest.get(..12).unwrap_or(&revision.digest).into(),
                    revision.config_bytes.to_string().into(),
                    (&revision.file).into(),
                    duration::instant(revision.created_at.as_ref()).into(),
                ]);
            }
            table.row(cells);
        }
        table.render(look.colour)
    })
}

async fn show(server: &Server, revision: u64, config: bool, format: Format, printer: &Printer) -> Result<(), Failure> {
    let request = v1::GetRevisionRequest { revision, with_config: config };
    let answer = server.call(server.config().get_revision(request)).await?;
    let etag = answer.etag;
    let revision = answer.revision.ok_or_else(|| incomplete("revision"))?;
    if config && matches!(format, Format::Human | Format::Wide) {
        // Byte for byte, so that it can be published again.
        return printer.text(&revision.config_yaml);
    }
    printer.show(format, "Revision", &revision, || vec![name(&revision)], |look| page(&revision, &etag, look))
}

fn page(revision: &Revision, etag: &str, look: Look) -> String {
    let mut out = format!("{}\n", Paint::Strong.apply(look.colour, &name(revision)));
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            out.push_str(&format!("  {:<13}{}\n", format!("{name}:"), clean(value)));
        }
    };
    field("state", &revision.state.replace('_', " "));
    field("message", &revision.message);
    field("author", &revision.author);
    let created = duration::instant(revision.created_at.as_ref());
    field("created", &format!("{created} ({})", duration::ago(revision.created_at.as_ref(), clock::now())));
    field("class", &words::class(revision.change_class()));
    if revision.content_of > 0 {
        field("content of", &words::revision(revision.content_of));
    }
    if revision.signatures_min > 1 || !revision.waits_for.is_empty() {
        let keys: Vec<&str> = revision.signed_by.iter().map(|id| id.get(..16).unwrap_or(id)).collect();
        field("signed by", &format!("{} of {} ({})", keys.len(), revision.signatures_min, keys.join(" ")));
    }
    if revision.approvals_min > 0 {
        let (count, min) = (revision.approved_by.len(), revision.approvals_min);
        field("approved by", &format!("{count} of {min} {}", revision.approved_by.join(", ")));
    }
    field("waits for", &revision.waits_for.join(", "));
    field("file", &format!("{} ({} bytes)", revision.file, revision.config_bytes));
    field("digest", &revision.digest);
    field("base digest", &revision.base_digest);
    field("epoch", &revision.epoch.to_string());
    field("etag", etag);
    if let Some(plan) = &revision.plan {
        let stages = plan.stages.iter().map(|stage| {
            let bake = duration::show(std::time::Duration::from_millis(stage.bake_ms));
            format!("{} {}% {bake}", stage.name, words::short(stage.fleet_percent))
        });
        field("stages", &stages.collect::<Vec<_>>().join(", "));
        let gates =
            plan.gates.iter().map(|gate| format!("{} {}", gate.metric, words::limit(&gate.metric, gate.threshold)));
        field("gates", &gates.collect::<Vec<_>>().join(", "));
    }
    out
}

async fn diff(server: &Server, from: u64, to: u64, format: Format, printer: &Printer) -> Result<(), Failure> {
    let answer = server.call(server.config().diff_revisions(v1::DiffRevisionsRequest { from, to })).await?;
    let names = || vec![words::revision(from), words::revision(to)];
    if answer.diff.is_empty() && matches!(format, Format::Human | Format::Wide) {
        printer.talk(&format!("r{from} and r{to} have the same content"));
        return Ok(());
    }
    printer.show(format, "DiffRevisionsResponse", &answer, names, |look| {
        if !look.colour {
            return answer.diff.clone();
        }
        answer.diff.lines().map(|line| diff_paint(line).apply(true, &clean(line)) + "\n").collect()
    })
}

fn diff_paint(line: &str) -> Paint {
    match line.as_bytes() {
        [b'+', b'+', b'+', ..] | [b'-', b'-', b'-', ..] => Paint::Strong,
        [b'+', ..] => Paint::Good,
        [b'-', ..] => Paint::Bad,
        [b'@', ..] => Paint::Quiet,
        _ => Paint::Plain,
    }
}

fn name(revision: &Revision) -> String {
    words::revision(revision.revision)
}

fn state(revision: &Revision) -> Cell {
    let paint = match revision.state.as_str() {
        "completed" => Paint::Good,
        "rejected" | "aborted" => Paint::Bad,
        state if state.starts_with("roll") => Paint::Bad,
        "held" | "paused" | "superseded" | "pending" => Paint::Careful,
        _ => Paint::Plain,
    };
    Cell::painted(&revision.state.replace('_', " "), paint)
}
