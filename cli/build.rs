//! What `sealane version` says of an optimised build: the commit and its time, of the repository that it is built in, unless
//! whoever builds says so by `SEALANE_BUILD_COMMIT` and `SEALANE_BUILD_TIME`. The commit's time and not this moment, so that
//! the same commit gives the same bytes. Builds for development say nothing: they would be linked anew with each commit.

use std::path::Path;
use std::process::Command;

const COMMIT: &str = "SEALANE_BUILD_COMMIT";
const TIME: &str = "SEALANE_BUILD_TIME";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for variable in [COMMIT, TIME] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let is_told = std::env::var_os(COMMIT).is_some();
    let is_optimised = std::env::var_os("PROFILE").is_some_and(|profile| profile == "release");
    if is_told || !is_optimised {
        return;
    }
    let Some((commit, time)) = of_the_repository() else { return };
    println!("cargo:rustc-env={COMMIT}={commit}");
    println!("cargo:rustc-env={TIME}={time}");
}

/// Commit and time; `None` where this source is in no repository of its own, or git is not there.
fn of_the_repository() -> Option<(String, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != source.canonicalize().ok()? {
        return None;
    }
    println!("cargo:rerun-if-changed={}", source.join(git(&["rev-parse", "--git-path", "logs/HEAD"])?).display());
    // Whatever the program is made of: an edit makes the commit a `dirty` one, and all of this is built anew then anyway.
    for made_of in ["Cargo.lock", "model", "proto", "node", "authority", "agent", "proxy", "cli"] {
        println!("cargo:rerun-if-changed={}", source.join(made_of).display());
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let edits = git(&["--no-optional-locks", "status", "--porcelain", "--untracked-files=no"])?;
    let time = git(&["show", "--no-patch", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", "--format=%cd", "HEAD"])?;
    let commit = if edits.is_empty() { commit } else { format!("{commit}-dirty") };
    Some((commit, time))
}

fn git(args: &[&str]) -> Option<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let said = Command::new("git").args(args).current_dir(source).env("TZ", "UTC").output().ok()?;
    let text = String::from_utf8(said.stdout).ok()?;
    said.status.success().then(|| text.trim().to_owned())
}
