//! A page of the docs, followed to the letter: its files are written, its commands run in order in an empty directory, and
//! what it says they print is looked for in what they print.
//!
//! A fence's first word is its language; what follows it is for us, and no reader sees it:
//!
//! | fence | what happens |
//! |---|---|
//! | `yaml NAME`, `json NAME`, `sh NAME.sh` | is written to that file |
//! | `sh` | runs in the working terminal, whose variables and directory stay, and must succeed; `sh exit=8`: must end so |
//! | `sh terminal` | runs in a terminal of its own until the page ends or stops it |
//! | `sh terminals` | each line in a terminal of its own, in order: one that ends has done its work, one that fails is typed again |
//! | `sh needs=a,b` | is left out with a printed reason where these programs are not installed |
//! | `sh elsewhere REASON` | is left out, and the reason is printed |
//! | `text` | its lines are in what the command before printed, in this order, times aside |
//! | `text terminal` | its lines come up in one of the terminals |
//! | `text picture` | is no output |
//!
//! What a reader does by hand stands in comments: `<!-- wait: COMMAND -->` until it succeeds, `<!-- do: COMMAND -->`,
//! `<!-- open: COMMAND -->` in a terminal of its own, `<!-- stop: 2 -->` presses Ctrl-C in the second terminal, `<!-- start: 2 -->` types the same there again.

mod follow;
mod network;
mod read;

pub use follow::follow;
pub use network::{Network, own_network};
pub use read::{Block, Step, blocks, steps};

/// Says what is left out and why, to whoever runs the tests.
#[expect(clippy::print_stderr, reason = "a test that does less than its name says so")]
pub fn skipped(what: std::fmt::Arguments<'_>) {
    eprintln!("skipped: {what}");
}
