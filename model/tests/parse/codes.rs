//! Every code that can be said has a page.

use std::path::{Path, PathBuf};

use sealane_model::codes::{self, CODES};
use sealane_model::parse::{Reader, parse};
use sealane_model::problem::Severity;

/// Sources below `folder`, tests left out.
fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("sources are there") {
        let path = entry.expect("sources can be listed").path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            out.push(path);
        }
    }
}

#[test]
fn every_code_that_a_walker_can_report_has_a_page() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/parse"), &mut files);
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../proxy/src/snapshot"), &mut files);
    // A call with a code: `.error(node, "code", …`, `error_at(span, "code", …`, `error("code", …`.
    let call = regex::Regex::new(
        r#"(?s)\b(?:error|warning|error_at|Wrong::new)\(\s*(?:[^"();]|\([^()]*\))*?"([a-z][a-z0-9_]*)"\s*,"#,
    )
    .expect("a pattern");
    let mut seen = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source is text");
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        for found in call.captures_iter(text) {
            seen += 1;
            assert!(
                codes::find(&found[1]).is_some(),
                "`{}` of {} has no row in model/src/codes/table.rs",
                &found[1],
                file.display()
            );
        }
    }
    assert!(seen > 60, "the pattern finds the calls: {seen}");
}

#[test]
fn codes_are_unique_and_their_pages_complete() {
    let mut names: Vec<_> = CODES.iter().map(|row| row.code).collect();
    names.sort_unstable();
    names.windows(2).for_each(|pair| assert_ne!(pair[0], pair[1]));
    for row in CODES {
        for text in [row.means, row.why, row.mend] {
            assert!(!text.is_empty() && !text.ends_with('.'), "{}: {text}", row.code);
        }
    }
}

#[test]
fn a_wrong_example_that_is_a_whole_file_gives_its_code_and_the_right_one_does_not() {
    let mut whole = 0;
    for row in CODES.iter().filter(|row| row.wrong.contains("routes:") || row.code == "tab") {
        let codes_of = |text: &str| match parse("f.yaml", text, Reader::Local) {
            Ok((_, problems)) | Err(problems) => problems.into_iter().map(|p| p.code).collect::<Vec<_>>(),
        };
        assert!(codes_of(row.wrong).iter().any(|code| code == row.code), "{}: {:?}", row.code, codes_of(row.wrong));
        assert!(!codes_of(row.right).iter().any(|code| code == row.code), "{}: {:?}", row.code, codes_of(row.right));
        whole += 1;
        if row.severity == Severity::Warning {
            assert!(parse("f.yaml", row.wrong, Reader::Local).is_ok(), "{}", row.code);
        }
    }
    assert!(whole > 5, "{whole}");
}

#[test]
fn the_reference_of_codes_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/errors.md");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, codes::reference()).expect("the page can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == codes::reference(), "run `UPDATE_REFERENCE=1 cargo test -p sealane-model reference`");
}
