//! Every code that a problem of a config can have: what it means, why it is one, how to mend it, an example.
//!
//! `sealane help CODE` and docs/reference/errors.md are both written from [`CODES`], so that they cannot differ. Codes
//! are stable: other programs read them, so one is never renamed and never reused for something else.

use std::fmt::Write as _;

use crate::problem::Severity;

pub use self::refusals::{REFUSALS, Refusal};
pub use self::table::CODES;

mod refusals;
mod table;

/// One code.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// Lower snake case.
    pub code: &'static str,
    /// Whether the config can be used in spite of it.
    pub severity: Severity,
    /// One sentence.
    pub means: &'static str,
    /// Why it is refused, or warned about.
    pub why: &'static str,
    /// What to type instead.
    pub mend: &'static str,
    /// A config or a line that gives it; empty where none is short.
    pub wrong: &'static str,
    /// The same, mended.
    pub right: &'static str,
}

/// The row of a code.
#[must_use]
pub fn find(code: &str) -> Option<&'static Code> {
    CODES.iter().find(|row| row.code == code)
}

/// The row of a refused bundle's code.
#[must_use]
pub fn find_refusal(code: &str) -> Option<&'static Refusal> {
    REFUSALS.iter().find(|row| row.code == code)
}

/// The code nearest to what somebody typed.
#[must_use]
pub fn nearest(code: &str) -> Option<&'static str> {
    crate::parse::nearest_name(code, CODES.iter().map(|row| row.code).chain(REFUSALS.iter().map(|row| row.code)))
}

impl Code {
    /// The page of this code as plain text.
    #[must_use]
    pub fn page(&self) -> String {
        let Self { code, means, why, mend, .. } = self;
        let mut out = format!("{code} ({})\n\n  {means}\n\n  why:  {why}\n  mend: {mend}\n", self.word());
        for (title, example) in [("wrong", self.wrong), ("right", self.right)] {
            if !example.is_empty() {
                write!(out, "\n  {title}:\n").expect("a string takes any text");
                for line in example.lines() {
                    writeln!(out, "    {line}").expect("a string takes any text");
                }
            }
        }
        out
    }

    fn word(&self) -> &'static str {
        match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// The page of the documentation that lists every code.
#[must_use]
pub fn reference() -> String {
    let mut out = String::from(
        "# Codes of problems\n\n\
         What `sealane validate`, `plan`, `publish` and a node may say about a config. `sealane help CODE` prints the same.\n\
         Written from the table in `model/src/codes/table.rs`: run `UPDATE_REFERENCE=1 cargo test -p sealane-model reference` \
         after a change.\n\n\
         An error ends with exit code 3 and nothing is changed; a warning lets the config through.\n\n\
         | code | | what it means |\n|---|---|---|\n",
    );
    let mut rows: Vec<&Code> = CODES.iter().collect();
    rows.sort_by_key(|row| row.code);
    for row in &rows {
        writeln!(out, "| [`{0}`](#{0}) | {1} | {2} |", row.code, row.word(), row.means)
            .expect("a string takes any text");
    }
    for row in rows {
        let Code { code, means, why, mend, .. } = row;
        write!(out, "\n## {code}\n\n{means}. ({})\n\n{why}.\n\n**Mend:** {mend}.\n", row.word())
            .expect("a string takes any text");
        for (title, example) in [("Wrong", row.wrong), ("Right", row.right)] {
            if !example.is_empty() {
                write!(out, "\n{title}:\n\n```text\n{example}\n```\n").expect("a string takes any text");
            }
        }
    }
    out.push_str(
        "\n# Codes of refused bundles\n\nWhat an agent or a proxy refuses is counted by code in its metrics, and shown by \
         `sealane fleet status` and `sealane check`. Nothing changes there, and what runs goes on.\n\n\
         | code | what it means | what to do |\n|---|---|---|\n",
    );
    for row in REFUSALS {
        writeln!(out, "| `{}` | {} | {} |", row.code, row.means, row.next).expect("a string takes any text");
    }
    out
}
