//! A page as text → its blocks → its steps.

/// A fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The line of its first fence, from 1.
    pub line: usize,
    /// `sh`, `yaml`, `text`; empty where nothing is said.
    pub language: String,
    /// What stands behind the language.
    pub words: Vec<String>,
    /// Without the fences.
    pub text: String,
}

/// A step of a page, with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A file to write.
    File { name: String, text: String },
    /// Commands to run to their end, the code of the last one, and lines that they print.
    Run { script: String, exit: i32, needs: Vec<String>, shows: Vec<String> },
    /// Commands that run on in terminals of their own.
    Terminals { scripts: Vec<String> },
    /// Lines that come up in a terminal.
    Said { lines: Vec<String> },
    /// A command that is run until it succeeds.
    Wait { script: String },
    /// Ctrl-C in terminals, by number from 1.
    Stop { terminals: Vec<usize> },
    /// The same commands again in terminals that were stopped.
    Start { terminals: Vec<usize> },
    /// What is not run here, and why.
    Elsewhere { script: String, reason: String },
}

/// Every fenced block.
#[must_use]
pub fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in page.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(head)) => {
                let mut words = head.split_whitespace().map(str::to_owned);
                let language = words.next().unwrap_or_default();
                open = Some(Block { line: index + 1, language, words: words.collect(), text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// What a reader does, with the line that says so.
///
/// # Panics
/// At what this module's table does not know.
#[must_use]
pub fn steps(page: &str) -> Vec<(usize, Step)> {
    let mut found = comments(page);
    found.extend(blocks(page).into_iter().filter_map(|block| Some((block.line, step(block)?))));
    found.sort_by_key(|(line, _)| *line);
    let mut steps: Vec<(usize, Step)> = Vec::new();
    for (line, step) in found {
        match (step, steps.last_mut()) {
            // What a command prints stands below it.
            (Step::Run { script, shows, .. }, Some((_, Step::Run { shows: of_the_last, .. }))) if script.is_empty() => {
                of_the_last.extend(shows);
            }
            (Step::Run { script, .. }, _) if script.is_empty() => panic!("line {line}: printed by what?"),
            (step, _) => steps.push((line, step)),
        }
    }
    steps
}

fn step(block: Block) -> Option<Step> {
    let Block { line, language, words, text } = block;
    let lines = || text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let run = |exit, needs| Step::Run { script: text.clone(), exit, needs, shows: Vec::new() };
    Some(match (language.as_str(), words.as_slice()) {
        ("sh", []) => run(0, Vec::new()),
        ("sh", ["terminal"]) => Step::Terminals { scripts: vec![text] },
        ("sh", ["terminals"]) => Step::Terminals { scripts: lines() },
        ("sh", ["elsewhere", reason @ ..]) if !reason.is_empty() => {
            Step::Elsewhere { script: text, reason: reason.join(" ") }
        }
        ("sh", [word]) if word.starts_with("exit=") => {
            run(word["exit=".len()..].parse().unwrap_or_else(|_| panic!("line {line}: {word}")), Vec::new())
        }
        ("sh", [word]) if word.starts_with("needs=") => {
            run(0, word["needs=".len()..].split(',').map(str::to_owned).collect())
        }
        ("yaml" | "json" | "sh", [name]) if name.contains('.') => Step::File { name: (*name).to_owned(), text },
        ("text", []) => Step::Run { script: String::new(), exit: 0, needs: Vec::new(), shows: lines() },
        ("text", ["terminal"]) => Step::Said { lines: lines() },
        ("text", ["picture"]) | ("yaml" | "toml" | "json" | "rust", _) => return None,
        _ => panic!("line {line}: what is a fence `{language} {words:?}`?"),
    })
}

fn comments(page: &str) -> Vec<(usize, Step)> {
    let comment = |line: &str| Some(line.strip_prefix("<!-- ")?.strip_suffix(" -->")?.to_owned());
    let numbers = |text: &str| text.split_whitespace().map(|word| word.parse().expect("a terminal's number")).collect();
    let step = |text: &str| {
        let (what, rest) = text.split_once(": ")?;
        Some(match what {
            "wait" => Step::Wait { script: rest.to_owned() },
            "open" => Step::Terminals { scripts: vec![rest.to_owned()] },
            "do" => Step::Run { script: rest.to_owned(), exit: 0, needs: Vec::new(), shows: Vec::new() },
            "stop" => Step::Stop { terminals: numbers(rest) },
            "start" => Step::Start { terminals: numbers(rest) },
            _ => return None,
        })
    };
    let lines = page.lines().enumerate();
    lines.filter_map(|(index, line)| Some((index + 1, step(&comment(line.trim())?)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_a_reader_would() {
        let page = "Write this:\n\n```yaml a.yaml\nlisten: :1\n```\n\n```sh terminal\nsealane run a.yaml\n```\n\
                    <!-- wait: true -->\n```sh exit=8\nfalse\n```\n\nIt says\n\n```text\nno\n\nnever\n```\n<!-- stop: 1 -->\n";
        let all: Vec<Step> = steps(page).into_iter().map(|(_, step)| step).collect();
        let shows = vec!["no".to_owned(), "never".to_owned()];
        assert_eq!(
            all,
            [
                Step::File { name: "a.yaml".into(), text: "listen: :1\n".into() },
                Step::Terminals { scripts: vec!["sealane run a.yaml\n".into()] },
                Step::Wait { script: "true".into() },
                Step::Run { script: "false\n".into(), exit: 8, needs: Vec::new(), shows },
                Step::Stop { terminals: vec![1] },
            ]
        );
    }
}
