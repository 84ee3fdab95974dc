//! `sealane authority backup | restore | recover`: the data directory put aside, put back, and made good again. They work
//! on files; no token is asked for.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use sealane_authority::{Keys, RecoverOrder, Recovered};
use sealane_model::envelope::Envelope;
use serde_json::json;

use crate::args::{Format, OutputArgs};
use crate::exit::{Exit, Failure};
use crate::keyfile;
use crate::paint::clean;
use crate::printer::Printer;
use crate::run::failed;
use crate::words;

const BACKUP_EXAMPLES: &str = "\
Examples:
  sealane authority backup /backup/2026-11-21 --data ./authority --with-keys
  sealane authority backup /backup/2026-11-21 --data ./authority --without-keys

It may run meanwhile. With keys the copy is as secret as the directory itself; without them they must be kept elsewhere.";

const RESTORE_EXAMPLES: &str = "\
Examples:
  sealane authority restore /backup/2026-11-21 --data ./authority
  sealane authority recover --raise-epoch --data ./authority      if nodes have seen newer revisions";

const RECOVER_EXAMPLES: &str = "\
Examples:
  sealane authority recover --raise-epoch --data ./authority
  sealane authority recover --raise-epoch --data ./authority --out root.json    root keys are elsewhere:
  sealane sign root.json --key safe.pem
  sealane authority recover --raise-epoch --data ./authority --root root.json";

/// A trust root document is small.
const ROOT_BYTES_MAX: u64 = 256 << 10;

/// What can be done with a data directory.
#[derive(Clone, Debug, Subcommand)]
pub enum AuthorityCommand {
    /// Copy the data directory while the authority runs
    #[command(before_help = BACKUP_EXAMPLES)]
    Backup(BackupArgs),
    /// Put a backup into an empty data directory
    #[command(before_help = RESTORE_EXAMPLES)]
    Restore(RestoreArgs),
    /// Make nodes take new revisions after an old backup was put back
    #[command(before_help = RECOVER_EXAMPLES)]
    Recover(RecoverArgs),
}

/// Arguments of `sealane authority backup`.
#[derive(Args, Clone, Debug)]
pub struct BackupArgs {
    /// A directory that is new or empty
    #[arg(value_name = "DIR")]
    to: PathBuf,
    /// The authority's data directory
    #[arg(long, value_name = "DIR", env = "SEALANE_DATA")]
    data: PathBuf,
    /// With signing keys, the CA's key and the admin token
    #[arg(long, conflicts_with = "without_keys", required_unless_present = "without_keys")]
    with_keys: bool,
    /// Without any private key: keep them elsewhere
    #[arg(long)]
    without_keys: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `sealane authority restore`.
#[derive(Args, Clone, Debug)]
pub struct RestoreArgs {
    /// What `authority backup` wrote
    #[arg(value_name = "DIR")]
    from: PathBuf,
    /// The data directory; new or empty
    #[arg(long, value_name = "DIR", env = "SEALANE_DATA")]
    data: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `sealane authority recover`.
#[derive(Args, Clone, Debug)]
pub struct RecoverArgs {
    /// Begin a new epoch, above everything that nodes have seen
    #[arg(long, required = true)]
    raise_epoch: bool,
    /// The authority's data directory; it must not run
    #[arg(long, value_name = "DIR", env = "SEALANE_DATA")]
    data: PathBuf,
    /// The epoch to begin [default: the next one]
    #[arg(long, value_name = "N")]
    epoch: Option<u32>,
    /// The next trust root, signed where the root keys are
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// Where the trust root that needs signatures is written
    #[arg(long, value_name = "FILE", default_value = "root-next.json", conflicts_with = "root")]
    out: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs one of them.
///
/// # Errors
/// As the exit table says.
pub async fn run(command: &AuthorityCommand, printer: &Printer) -> Result<(), Failure> {
    match command {
        AuthorityCommand::Backup(args) => backup(args, printer).await,
        AuthorityCommand::Restore(args) => restore(args, printer).await,
        AuthorityCommand::Recover(args) => recover(args, printer).await,
    }
}

async fn backup(args: &BackupArgs, printer: &Printer) -> Result<(), Failure> {
    let keys = if args.with_keys { Keys::Included } else { Keys::LeftOut };
    let made =
        sealane_authority::backup(&args.data, &args.to, keys).await.map_err(|error| failed("cannot back up", error))?;
    show(&args.output, printer, &made, &args.to)?;
    if keys == Keys::LeftOut {
        printer.hint(&format!("keep {} elsewhere: nothing can be signed without it", args.data.join("keys").display()));
    }
    Ok(())
}

async fn restore(args: &RestoreArgs, printer: &Printer) -> Result<(), Failure> {
    let restored =
        sealane_authority::restore(&args.from, &args.data).await.map_err(|error| failed("cannot restore", error))?;
    show(&args.output, printer, &restored.backup, &args.data)?;
    let data = args.data.display();
    if restored.needs_keys {
        printer.hint(&format!(
            "the backup has no keys: put them into {} before the start",
            args.data.join("keys").display()
        ));
    }
    printer.hint(&format!(
        "if nodes have seen revisions after {}: `sealane authority recover --raise-epoch --data {data}`",
        words::revision(restored.backup.revision)
    ));
    Ok(())
}

fn show(
    output: &OutputArgs,
    printer: &Printer,
    backup: &sealane_authority::BackedUp,
    place: &Path,
) -> Result<(), Failure> {
    let value = json!({
        "fleet_id": backup.fleet_id, "epoch": backup.epoch, "revision": backup.revision, "files": backup.files,
        "directory": place.display().to_string(),
    });
    match output.output {
        Format::Json | Format::Yaml => printer.value(output.output, &value),
        Format::Name => printer.data(&place.display().to_string()),
        Format::Human | Format::Wide => printer.text(&format!(
            "{}: fleet {}, epoch {}, newest revision {}, {} files\n",
            place.display(),
            clean(&backup.fleet_id),
            backup.epoch,
            words::revision(backup.revision),
            backup.files.len()
        )),
    }
}

async fn recover(args: &RecoverArgs, printer: &Printer) -> Result<(), Failure> {
    let root = match &args.root {
        Some(path) => {
            let text = keyfile::read(path, ROOT_BYTES_MAX)?;
            let root = Envelope::from_json(&text).map_err(|error| {
                Failure::new(Exit::Invalid, format!("`{}` is no signed document", path.display())).because(error)
            })?;
            Some(root)
        }
        None => None,
    };
    let order = RecoverOrder { epoch: args.epoch, root };
    let recovered =
        sealane_authority::recover(&args.data, order).await.map_err(|error| failed("cannot raise the epoch", error))?;
    match recovered {
        Recovered::Raised { epoch } => match args.output.output {
            Format::Json | Format::Yaml => {
                printer.value(args.output.output, &json!({ "epoch": epoch, "raised": true }))
            }
            Format::Name => printer.data(&epoch.to_string()),
            Format::Human | Format::Wide => {
                printer.text(&format!("epoch {epoch} begins; start the authority, then publish\n"))
            }
        },
        Recovered::NeedsRoot { epoch, root } => {
            keyfile::create(&args.out, &root.to_json(), 0o644)?;
            Err(Failure::new(
                Exit::Failed,
                format!(
                    "epoch {epoch} needs the root role, whose keys are elsewhere; the trust root is in {}",
                    args.out.display()
                ),
            )
            .hint(format!(
                "`sealane sign {0} --key KEYFILE` where they are, then this command with `--root {0}`",
                args.out.display()
            )))
        }
    }
}
