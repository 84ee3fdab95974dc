//! `${env:NAME}` and `${file:/path}` in the few values that may hold them: the secrets of this machine.
//!
//! A config may name secrets, not choose what is read: only variables that begin with [`PREFIX`] unless the process was
//! told otherwise, and only files below the one directory that it was told, without links out of it.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use crate::settings::Settings;

/// Variables that any config may name.
const PREFIX: &str = "SEALANE_SECRET_";
/// Of one secret.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Puts secrets in the place of references to them.
///
/// # Errors
/// Which reference cannot be followed, and why; never a secret.
pub(crate) fn reveal(text: &str, settings: &Settings) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        out.push_str(&rest[..at]);
        let reference = &rest[at + 2..];
        let (reference, after) = reference.split_once('}').ok_or("a reference to a secret has no end")?;
        let secret = match reference.split_once(':') {
            Some(("env", name)) => variable(name, settings)?,
            Some(("file", path)) => file(path, settings)?,
            _ => return Err(format!("`${{{reference}}}` is no reference to a secret")),
        };
        if secret.chars().any(char::is_control) {
            return Err(format!("the secret `${{{reference}}}` holds a control character"));
        }
        out.push_str(&secret);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn variable(name: &str, settings: &Settings) -> Result<String, String> {
    if !name.starts_with(PREFIX) && !settings.allow_env {
        return Err(format!("the variable `{name}` does not begin with `{PREFIX}`, and `--allow-env` is not set"));
    }
    std::env::var(name).map_err(|_| format!("the variable `{name}` is not set, or is no text"))
}

fn file(path: &str, settings: &Settings) -> Result<String, String> {
    let Some(directory) = &settings.secrets_dir else {
        return Err(format!("no secret is read from `{path}`: `--secrets-dir` is not set"));
    };
    let unreadable = |cause: std::io::Error| format!("cannot read the secret `{path}`: {cause}");
    let directory = fs::canonicalize(directory)
        .map_err(|cause| format!("cannot use the secrets directory `{}`: {cause}", directory.display()))?;
    let found = fs::canonicalize(directory.join(Path::new(path))).map_err(unreadable)?;
    if !found.starts_with(&directory) {
        return Err(format!("the secret `{path}` is not below `{}`", directory.display()));
    }
    let mut text = String::new();
    let read = fs::File::open(&found).and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text));
    read.map_err(unreadable)?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(format!("the secret `{path}` is larger than {SECRET_BYTES_MAX} bytes"));
    }
    // Files usually end in a line feed.
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_from_below_their_directory_only() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("secrets");
        fs::create_dir(&below).unwrap();
        fs::write(below.join("key"), "s3cret\n").unwrap();
        fs::write(root.path().join("outside"), "no").unwrap();
        std::os::unix::fs::symlink(root.path().join("outside"), below.join("link")).unwrap();
        let settings = Settings { secrets_dir: Some(below.clone()), ..Settings::default() };
        let inside = below.join("key");
        assert_eq!(reveal("Bearer ${file:key}.", &settings).as_deref(), Ok("Bearer s3cret."));
        assert_eq!(reveal(&format!("${{file:{}}}", inside.display()), &settings).as_deref(), Ok("s3cret"));
        assert_eq!(reveal("plain", &Settings::default()).as_deref(), Ok("plain"));
        let check = |text: &str, settings: &Settings| assert!(reveal(text, settings).is_err(), "{text}");
        check("${file:key}", &Settings::default());
        check("${file:../outside}", &settings);
        check("${file:link}", &settings);
        check("${file:/etc/passwd}", &settings);
        check("${file:absent}", &settings);
        check("${env:PATH}", &settings);
        check("${env:SEALANE_SECRET_THAT_NOBODY_SET}", &settings);
        check("${file:key", &settings);
        check("${what}", &settings);
        let allowed = Settings { allow_env: true, ..Settings::default() };
        assert!(reveal("${env:PATH}", &allowed).is_ok());
    }
}
