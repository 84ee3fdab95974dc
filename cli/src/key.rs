//! `sealane key`: keys of people, the fleet's trust root, and how it changes.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use sealane_model::envelope::Envelope;
use sealane_model::trust::TrustRoot;
use sealane_proto::v1;

use crate::args::{Format, OutputArgs};
use crate::client::{ClientArgs, incomplete};
use crate::duration;
use crate::exit::{Exit, Failure};
use crate::keyfile;
use crate::paint::clean;
use crate::printer::Printer;
use crate::table::Table;

const EXAMPLES: &str = "\
Examples:
  sealane key show                                  whom the fleet trusts, and what that does not protect from
  sealane key rotate                                new keys in place of those that the authority holds
  sealane key generate --out ana.pem                a person's key; ana.pub is for handing around
  sealane key rotate --add-release ana.pub          trusts it; then two signatures: see `key rotate --help`";

const GENERATE_EXAMPLES: &str = "\
Examples:
  sealane key generate --out ana.pem --comment 'Ana, laptop'";

const SHOW_EXAMPLES: &str = "\
Examples:
  sealane key show
  sealane key show -o json
  sealane key show ana.pem                          a key file, without a network
  sealane key show trust.json                       a trust root, without a network";

const ROTATE_EXAMPLES: &str = "\
Examples:
  sealane key rotate                                new keys in place of those that the authority holds
  sealane key rotate --add-release ana.pub          trust it first: one signature is still enough
  sealane revision approve r7 --key ana.pem         it signs what the fleet serves, so that new nodes can take it in
  sealane key rotate --threshold release=2          from now on each revision needs two signatures
  sealane key rotate --plan-floor stages=2,bake=5m,first=5
  sealane key rotate --add-root safe.pub --threshold root=2 --out root-2.json
  sealane sign root-2.json --key safe.pem           where the key is kept
  sealane key rotate --apply root-2.json";

/// A trust root document is small.
const ROOT_BYTES_MAX: u64 = 256 << 10;

/// Arguments of `sealane key`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct KeyArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key for a person, without a network
    #[command(before_help = GENERATE_EXAMPLES)]
    Generate {
        /// The private key's file (0600); the public half goes beside it, ending in .pub
        #[arg(long, value_name = "FILE", default_value = "sealane-key.pem")]
        out: PathBuf,
        /// Whose it is
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        comment: String,
    },
    /// Show the fleet's trust root, or a key or trust file
    #[command(before_help = SHOW_EXAMPLES)]
    Show {
        /// A private or public key, or a trust root [default: ask the authority]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Make the next trust root, signed by this one and by itself
    #[command(before_help = ROTATE_EXAMPLES)]
    Rotate(RotateArgs),
}

#[derive(Debug, Args)]
struct RotateArgs {
    /// Trust this person's key for releases (a .pub file)
    #[arg(long, value_name = "FILE")]
    add_release: Vec<PathBuf>,
    /// Trust this key for trust roots (a .pub file)
    #[arg(long, value_name = "FILE")]
    add_root: Vec<PathBuf>,
    /// Trust a key no more; its id, or how that begins
    #[arg(long, value_name = "ID")]
    remove: Vec<String>,
    /// How many keys of a role must sign, such as release=2
    #[arg(long, value_name = "ROLE=N", value_parser = parse_threshold)]
    threshold: Vec<(String, u32)>,
    /// The least care that agents insist on: stages=N,bake=DURATION,first=PERCENT,classes=standard+expedited; `none` for none
    #[arg(long, value_name = "RULES", value_parser = parse_floor)]
    plan_floor: Option<v1::PlanFloor>,
    /// New keys in place of those that the authority holds [default: when nothing else changes]
    #[arg(long)]
    replace: bool,
    /// Write the new root to this file when more signatures are needed
    #[arg(long, value_name = "FILE", conflicts_with = "apply")]
    out: Option<PathBuf>,
    /// Hand in a root that `sealane sign` has signed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["add_release", "add_root", "remove", "threshold", "plan_floor", "replace"])]
    apply: Option<PathBuf>,
    /// In force at once although people have not signed what the fleet serves: for a key that was stolen
    #[arg(long)]
    even_if_unsigned: bool,
    /// Say what would happen, change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs `sealane key`.
///
/// # Errors
/// As the exit table says.
pub async fn run(args: &KeyArgs, printer: &Printer) -> Result<(), Failure> {
    let format = args.output.output;
    match &args.command {
        KeyCommand::Generate { out, comment } => generate(out, comment, printer),
        KeyCommand::Show { file: Some(file) } => show_file(file, format, printer),
        KeyCommand::Show { file: None } => {
            let server = args.client.connect(printer).await?;
            let trust = server.call(server.trust().get_trust(v1::GetTrustRequest {})).await?;
            show(&trust, format, printer)
        }
        KeyCommand::Rotate(wanted) => rotate(wanted, &args.client, format, printer).await,
    }
}

fn generate(out: &Path, comment: &str, printer: &Printer) -> Result<(), Failure> {
    if comment.contains(char::is_control) || comment.chars().count() > 200 {
        return Err(Failure::usage("--comment is one line of at most 200 characters"));
    }
    let public_path = keyfile::public_path(out);
    if public_path == out {
        return Err(Failure::usage("--out ends in .pub, which is the public half's name"));
    }
    let key = keyfile::generate()?;
    let line = keyfile::public_line(&key.public(), comment);
    keyfile::create(out, &key.to_pem(), 0o600)?;
    keyfile::create(&public_path, &format!("{line}\n"), 0o644)?;
    printer.talk(&format!(
        "private key in {} (keep it to yourself), public key in {}",
        out.display(),
        public_path.display()
    ));
    printer.data(&key.public().id().0)
}

fn show_file(path: &Path, format: Format, printer: &Printer) -> Result<(), Failure> {
    let text = keyfile::read(path, ROOT_BYTES_MAX)?;
    if text.trim_start().starts_with('{') {
        let root = root_of(path, &text)?;
        return show(&trust_of(&root), format, printer);
    }
    let named = keyfile::public(path)?;
    let id = named.key.id().0;
    let line = keyfile::public_line(&named.key, &named.comment);
    match format {
        Format::Json | Format::Yaml => printer.value(format, &serde_json::json!({ "key_id": id, "public_key": line })),
        Format::Name => printer.data(&id),
        Format::Human | Format::Wide => printer.text(&format!("{id}\n{line}\n")),
    }
}

/// A trust root in a file that meets its own threshold.
pub(crate) fn root_of(path: &Path, text: &str) -> Result<TrustRoot, Failure> {
    let refused = |error| {
        Failure::new(Exit::Invalid, format!("`{}` is no trust root that can be trusted", path.display())).because(error)
    };
    TrustRoot::pinned(&Envelope::from_json(text).map_err(refused)?).map_err(refused)
}

/// A trust root in a file.
pub(crate) fn read_root(path: &Path) -> Result<TrustRoot, Failure> {
    root_of(path, &keyfile::read(path, ROOT_BYTES_MAX)?)
}

fn trust_of(root: &TrustRoot) -> v1::GetTrustResponse {
    let document = root.document();
    let key = |one: &sealane_model::trust::RootKey| {
        let id = one.key.id();
        let roles = document.roles.iter().filter(|role| role.key_ids.contains(&id));
        v1::TrustedKey {
            public_key: one.key.to_bytes().to_vec(),
            roles: roles.map(|role| role.role.as_str().to_owned()).collect(),
            offline: one.offline,
            comment: one.comment.clone(),
            held: false,
            key_id: id.0,
        }
    };
    let floor = &document.plan_floor;
    v1::GetTrustResponse {
        fleet_id: root.fleet().0.clone(),
        version: document.version,
        keys: document.keys.iter().map(key).collect(),
        roles: document
            .roles
            .iter()
            .map(|role| v1::TrustRole {
                name: role.role.as_str().into(),
                key_ids: role.key_ids.iter().map(|id| id.0.clone()).collect(),
                threshold: role.threshold,
            })
            .collect(),
        plan_floor: Some(v1::PlanFloor {
            stages_min: floor.stages_min,
            bake_ms_min: u64::try_from(floor.bake_min.as_millis()).unwrap_or(u64::MAX),
            first_percent_max: floor.first_share_max_bp.map_or(0.0, |bp| f64::from(bp) / 100.0),
            change_classes: floor.change_classes.iter().map(|class| v1::ChangeClass::from(*class).into()).collect(),
        }),
        epoch_max: document.epoch_max.map_or(0, |epoch| epoch.0),
        roots: vec![root.envelope().into()],
        ..Default::default()
    }
}

fn show(trust: &v1::GetTrustResponse, format: Format, printer: &Printer) -> Result<(), Failure> {
    let names = || trust.keys.iter().map(|key| key.key_id.clone()).collect();
    printer.show(format, "GetTrustResponse", trust, names, |look| {
        let mut out = format!("fleet {}, trust root version {}\n\n", clean(&trust.fleet_id), trust.version);
        let mut table = Table::new(["KEY", "ROLES", "HELD BY", "COMMENT"]);
        for key in &trust.keys {
            let holder = match (key.held, key.offline) {
                (true, _) => "the authority",
                (false, true) => "somebody else",
                (false, false) => "-",
            };
            let id = if look.wide { key.key_id.as_str() } else { key.key_id.get(..16).unwrap_or(&key.key_id) };
            table.row([id.into(), key.roles.join(" ").as_str().into(), holder.into(), (&key.comment).into()]);
        }
        out.push_str(&table.render(look.colour));
        out.push('\n');
        for role in &trust.roles {
            out.push_str(&format!(
                "{:<10} {} of {} keys must sign\n",
                clean(&role.name),
                role.threshold,
                role.key_ids.len()
            ));
        }
        out.push_str(&format!("{:<10} {}\n", "plan floor", floor_words(trust.plan_floor.as_ref())));
        if trust.approvals_min > 0 {
            out.push_str(&format!("{:<10} {} beside the author\n", "approvals", trust.approvals_min));
        }
        if !trust.lacking.is_empty() {
            out.push_str("\nAgents that start anew wait for signatures (`sealane revision approve REV --key FILE`):\n");
            for sentence in &trust.lacking {
                out.push_str(&format!("  - {}\n", clean(sentence)));
            }
        }
        if !trust.unprotected.is_empty() {
            out.push_str("\nThis does not protect from:\n");
            for sentence in &trust.unprotected {
                out.push_str(&format!("  - {}\n", clean(sentence)));
            }
        }
        out
    })
}

fn floor_words(floor: Option<&v1::PlanFloor>) -> String {
    let Some(floor) = floor else { return "none".into() };
    let mut words = Vec::new();
    if floor.stages_min > 0 {
        words.push(format!("at least {} stages before 100 %", floor.stages_min));
    }
    if floor.bake_ms_min > 0 {
        let bake = duration::show(std::time::Duration::from_millis(floor.bake_ms_min));
        words.push(format!("each bakes at least {bake}"));
    }
    if floor.first_percent_max > 0.0 {
        words.push(format!("the first takes at most {} %", floor.first_percent_max));
    }
    if !floor.change_classes.is_empty() {
        let classes: Vec<String> = floor.change_classes().map(crate::words::class).collect();
        words.push(format!("only {}", classes.join(", ")));
    }
    if words.is_empty() { "none".into() } else { words.join("; ") }
}

async fn rotate(wanted: &RotateArgs, client: &ClientArgs, format: Format, printer: &Printer) -> Result<(), Failure> {
    if let Some(path) = &wanted.apply {
        let text = keyfile::read(path, ROOT_BYTES_MAX)?;
        let root = Envelope::from_json(&text).map_err(|error| {
            Failure::new(Exit::Invalid, format!("`{}` is no signed document", path.display())).because(error)
        })?;
        if wanted.dry_run {
            printer.talk(&format!("would hand in {}", path.display()));
            return Ok(());
        }
        let server = client.connect(printer).await?;
        let request = v1::PutRootRequest { root: Some(root.into()), even_if_unsigned: wanted.even_if_unsigned };
        let answer = server.call(server.trust().put_root(request)).await?;
        let line = format!("trust root version {} is in force\n", answer.version);
        return printer.show(format, "PutRootResponse", &answer, || vec![answer.version.to_string()], |_| line);
    }
    let mut add = Vec::new();
    for (path, role) in
        wanted.add_release.iter().map(|path| (path, "release")).chain(wanted.add_root.iter().map(|path| (path, "root")))
    {
        let named = keyfile::public(path)?;
        let roles = vec![role.to_owned()];
        add.push(v1::NewKey { public_key: named.key.to_bytes().to_vec(), roles, comment: named.comment });
    }
    let changes =
        !add.is_empty() || !wanted.remove.is_empty() || !wanted.threshold.is_empty() || wanted.plan_floor.is_some();
    let threshold = |(role, threshold): &(String, u32)| v1::RoleThreshold { role: role.clone(), threshold: *threshold };
    let request = v1::RotateRootRequest {
        replace_held_keys: wanted.replace || !changes,
        add,
        remove: wanted.remove.clone(),
        thresholds: wanted.threshold.iter().map(threshold).collect(),
        plan_floor: wanted.plan_floor.clone(),
        even_if_unsigned: wanted.even_if_unsigned,
        dry_run: wanted.dry_run,
    };
    let server = client.connect(printer).await?;
    let answer = server.call(server.trust().rotate_root(request)).await?;
    let root: Envelope = answer.root.clone().ok_or_else(|| incomplete("root"))?.into();
    let waits = !answer.applied && !answer.missing.is_empty();
    let line = match (waits, wanted.dry_run) {
        (true, true) => format!("trust root version {} would wait: {}\n", answer.version, answer.missing.join("; ")),
        (true, false) => format!("trust root version {} waits: {}\n", answer.version, answer.missing.join("; ")),
        (false, true) => format!("trust root version {} would be in force\n", answer.version),
        (false, false) => format!("trust root version {} is in force\n", answer.version),
    };
    printer.show(format, "RotateRootResponse", &answer, || vec![answer.version.to_string()], |_| line)?;
    if waits && !wanted.dry_run {
        let path = wanted.out.clone().unwrap_or_else(|| format!("root-{}.json", answer.version).into());
        keyfile::create(&path, &root.to_json(), 0o644)?;
        printer.talk(&format!("written to {}", path.display()));
        printer.hint(&format!(
            "`sealane sign {0} --key KEYFILE` where the keys are, then `sealane key rotate --apply {0}`",
            path.display()
        ));
    }
    Ok(())
}

fn parse_threshold(text: &str) -> Result<(String, u32), String> {
    let refused = || format!("`{text}` is not a role and a number such as release=2");
    let (role, number) = text.split_once('=').ok_or_else(refused)?;
    if !["root", "release", "timestamp"].contains(&role) {
        return Err(format!("`{role}` is none of root, release, timestamp"));
    }
    Ok((role.to_owned(), number.parse().ok().filter(|number| *number > 0).ok_or_else(refused)?))
}

fn parse_floor(text: &str) -> Result<v1::PlanFloor, String> {
    let mut floor = v1::PlanFloor::default();
    if text == "none" {
        return Ok(floor);
    }
    for rule in text.split(',') {
        let refused = || format!("`{rule}` is none of stages=N, bake=DURATION, first=PERCENT, classes=CLASS+CLASS");
        let (name, value) = rule.split_once('=').ok_or_else(refused)?;
        match name.trim() {
            "stages" => floor.stages_min = value.parse().map_err(|_| refused())?,
            "bake" => floor.bake_ms_min = u64::try_from(duration::parse(value)?.as_millis()).unwrap_or(u64::MAX),
            "first" => {
                let percent: f64 = value.trim_end_matches('%').parse().map_err(|_| refused())?;
                if !(0.01..=100.0).contains(&percent) {
                    return Err(format!("`{value}` is not a share from 0.01 to 100"));
                }
                floor.first_percent_max = percent;
            }
            "classes" => {
                for word in value.split('+') {
                    let class = match word {
                        "standard" => v1::ChangeClass::Standard,
                        "expedited" => v1::ChangeClass::Expedited,
                        "sandbox" => v1::ChangeClass::Sandbox,
                        "revert" => v1::ChangeClass::Revert,
                        _ => return Err(format!("`{word}` is none of standard, expedited, sandbox, revert")),
                    };
                    floor.change_classes.push(class.into());
                }
            }
            _ => return Err(refused()),
        }
    }
    Ok(floor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_floor_is_read_and_nonsense_is_named() {
        let floor = parse_floor("stages=2,bake=5m,first=5%,classes=standard+revert").unwrap();
        assert_eq!((floor.stages_min, floor.bake_ms_min, floor.first_percent_max), (2, 300_000, 5.0));
        assert_eq!(floor.change_classes, [1, 4]);
        assert_eq!(parse_floor("none").unwrap(), v1::PlanFloor::default());
        for nonsense in ["", "stages", "stages=x", "first=0", "first=101", "classes=fast", "bake=5"] {
            assert!(parse_floor(nonsense).is_err(), "{nonsense}");
        }
        assert_eq!(parse_threshold("release=2"), Ok(("release".into(), 2)));
        for nonsense in ["release", "release=0", "boss=1"] {
            assert!(parse_threshold(nonsense).is_err(), "{nonsense}");
        }
    }
}
