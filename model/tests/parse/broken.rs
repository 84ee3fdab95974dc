//! Files as people break them: each message says what is wrong, where, and what to do next. The pictures are kept in
//! `broken.txt`, so that a change of words is seen; `UPDATE_REFERENCE=1` writes them again.

use std::path::Path;

use sealane_model::parse::{Reader, parse};
use sealane_model::problem::{Severity, render};

/// Between a file and its pictures, and between one file and the next.
const PICTURES: &str = "----\n";
const NEXT: &str = "====\n";

#[test]
fn every_broken_file_is_told_what_where_and_what_to_do() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parse/broken.txt");
    let golden = std::fs::read_to_string(&path).expect("the file of broken files");
    let mut written = String::new();
    let mut files = 0;
    for part in golden.split_terminator(NEXT) {
        let (name, rest) = part.split_once('\n').expect("a name");
        let (text, _) = rest.split_once(PICTURES).unwrap_or((rest, ""));
        files += 1;
        let problems = parse("f.yaml", text, Reader::Local).err().unwrap_or_else(|| panic!("{name} is a good file"));
        for problem in problems.iter().filter(|problem| problem.severity == Severity::Error) {
            assert!(problem.line > 0 && problem.column > 0, "{name}: where? {problem:?}");
            assert!(!problem.help.is_empty(), "{name}: what to do? {problem:?}");
        }
        written.push_str(&format!("{name}\n{text}{PICTURES}{}{NEXT}", render(&problems, text, false)));
    }
    assert!(files >= 30, "{files}");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, &written).expect("the file can be written");
    }
    let golden = std::fs::read_to_string(&path).expect("the file of broken files");
    for (is, was) in written.split(NEXT).zip(golden.split(NEXT)) {
        assert_eq!(is, was, "UPDATE_REFERENCE=1 takes the new words");
    }
}
