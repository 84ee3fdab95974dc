//! `sealane sign`: a person signs a revision or a trust root, offline, with a key that the authority never sees.
//!
//! What is signed is shown first, after every byte was checked against the statement's digests. It opens no connection.

use std::path::{Path, PathBuf};

use clap::Args;
use sealane_model::bundle::file::BundleFile;
use sealane_model::envelope::{Envelope, PayloadType};
use sealane_model::keys::SigningKey;

use crate::exit::{Exit, Failure};
use crate::key;
use crate::keyfile;
use crate::paint::clean;
use crate::printer::Printer;

const EXAMPLES: &str = "\
Examples:
  sealane revision export r42 --out r42.json        where there is a network
  sealane sign r42.json --key ana.pem               where the key is
  sealane revision approve r42 --signature r42.json where there is a network again
  sealane sign root-2.json --key safe.pem           a trust root made by `sealane key rotate`";

/// A bundle of 256 MiB, in base64, and some.
pub(crate) const FILE_BYTES_MAX: u64 = 400 << 20;

/// Arguments of `sealane sign`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES)]
pub struct SignArgs {
    /// A revision from `sealane revision export`, or a trust root from `sealane key rotate`
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The private key (PEM), as `sealane key generate` makes it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Refuse what is of another fleet, or signed by a key that this trust root does not name
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// Where the signed document goes [default: the file itself]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Show what would be signed, sign nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs `sealane sign`.
///
/// # Errors
/// [`Exit::Invalid`] when the file does not fit together, [`Exit::NotAllowed`] when `--trust` speaks against it.
pub fn run(args: &SignArgs, printer: &Printer) -> Result<(), Failure> {
    let text = keyfile::read(&args.file, FILE_BYTES_MAX)?;
    let key = keyfile::private(&args.key)?;
    let signed = if BundleFile::looks_like(&text) {
        sign_bundle(args, &text, &key, printer)?
    } else {
        sign_root(args, &text, &key, printer)?
    };
    if args.dry_run {
        return Ok(());
    }
    let path = args.out.as_ref().unwrap_or(&args.file);
    replace(path, &signed)?;
    printer.talk(&format!("signed by {} into {}", &key.public().id().0[..16], path.display()));
    Ok(())
}

fn sign_bundle(args: &SignArgs, text: &str, key: &SigningKey, printer: &Printer) -> Result<String, Failure> {
    let invalid =
        |error| Failure::new(Exit::Invalid, format!("`{}` does not fit together", args.file.display())).because(error);
    let mut file = BundleFile::from_json(text).map_err(invalid)?;
    let (claimed, content) = file.claimed().map_err(invalid)?;
    let release = claimed.release();
    if let Some(path) = &args.trust {
        let root = newest(&key::read_root(path)?, &file)?;
        if release.fleet != *root.fleet() {
            let text = format!("it is of fleet {}, not {}", release.fleet.0, root.fleet().0);
            return Err(Failure::new(Exit::NotAllowed, text));
        }
        let id = key.public().id();
        let role = root.document().roles.iter().find(|one| one.role == sealane_model::trust::Role::Release);
        if !role.is_some_and(|role| role.key_ids.contains(&id)) {
            return Err(Failure::new(Exit::NotAllowed, "the trust root does not let this key sign releases")
                .hint("`sealane key rotate --add-release FILE` adds it"));
        }
    }
    let bytes: usize = content.iter().map(|resource| resource.content.len()).sum();
    let mut lines = vec![
        format!("revision  {} (epoch {}) of fleet {}", release.revision, release.epoch, clean(&release.fleet.0)),
        format!("digest    {}", claimed.digest()),
        format!("author    {}", clean(&release.author)),
        format!("message   {}", clean(&release.message)),
        format!(
            "content   {} bytes: {}",
            bytes,
            content.iter().map(|one| clean(&one.name)).collect::<Vec<_>>().join(", ")
        ),
    ];
    let stages =
        release.plan.stages.iter().map(|stage| {
            format!("{} {} % {}", clean(&stage.name), stage.fleet_percent, crate::duration::show(stage.bake))
        });
    lines.push(format!("stages    {}", stages.collect::<Vec<_>>().join(", ")));
    lines.push(format!("signed by {} so far", file.release.signatures.len()));
    printer.talk(&lines.join("\n"));
    file.release.add_signature(key);
    Ok(file.to_json())
}

/// The newest root that the file brings and the trusted one vouches for.
fn newest(
    trusted: &sealane_model::trust::TrustRoot,
    file: &BundleFile,
) -> Result<sealane_model::trust::TrustRoot, Failure> {
    let held = [trusted.clone()];
    let chain = sealane_model::trust::chain::follow(&held, file.roots.iter().cloned());
    let chain = chain.map_err(|error| {
        Failure::new(Exit::NotAllowed, "its trust roots do not follow from the one you trust").because(error)
    })?;
    Ok(chain.last().unwrap_or(trusted).clone())
}

fn sign_root(args: &SignArgs, text: &str, key: &SigningKey, printer: &Printer) -> Result<String, Failure> {
    let what = args.file.display();
    let mut envelope = Envelope::from_json(text).map_err(|error| {
        Failure::new(Exit::Invalid, format!("`{what}` is neither an exported revision nor a trust root")).because(error)
    })?;
    if envelope.payload_type != PayloadType::Root.as_str() {
        let text =
            format!("`{what}` is a document of type {}, which people do not sign", clean(&envelope.payload_type));
        return Err(Failure::new(Exit::Invalid, text));
    }
    let document = sealane_model::trust::RootDocument::claimed(&envelope)
        .map_err(|error| Failure::new(Exit::Invalid, format!("`{what}` is no sound trust root")).because(error))?;
    let id = key.public().id();
    if let Some(path) = &args.trust {
        let root = key::read_root(path)?;
        if *root.fleet() != document.fleet || document.version != root.document().version + 1 {
            return Err(Failure::new(Exit::NotAllowed, "it does not follow the trust root that you trust"));
        }
    }
    let mut lines = vec![format!("trust root version {} of fleet {}", document.version, clean(&document.fleet.0))];
    for role in &document.roles {
        let ids: Vec<&str> = role.key_ids.iter().map(|id| &id.0[..16]).collect();
        lines.push(format!("{:<10}{} of: {}", role.role.as_str(), role.threshold, ids.join(" ")));
    }
    lines.push(format!("signed by {} so far; your key is {}", envelope.signatures.len(), &id.0[..16]));
    printer.talk(&lines.join("\n"));
    envelope.add_signature(key);
    Ok(envelope.to_json())
}

/// Writes beside it and renames, so that a cut-off write leaves the file as it was.
fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let cannot =
        |error: std::io::Error| Failure::new(Exit::Failed, format!("cannot write `{}`", path.display())).because(error);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    std::fs::write(&temporary, text).map_err(cannot)?;
    std::fs::rename(&temporary, path).map_err(cannot)
}
