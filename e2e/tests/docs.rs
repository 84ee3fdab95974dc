//! The pages against the code: every test that a page names is there, every link leads somewhere, every item that a link
//! names is in the file that it leads to, every error category has its row, and every alert its runbook.
//!
//! It reads files and runs nothing. A test is named `crate::file::name`, the file without `src/` or `tests/`; an item is
//! a link to its file whose text is its path.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

// Pages with tables of tests. The first two have ids, and every row of theirs needs a test.
const REQUIREMENTS: &str = "REQUIREMENTS";
const INVARIANTS: &str = "INVARIANTS";
const FAILURES: &str = "FAILURES";
const ATTACKS: &str = "ATTACKS";
const CRATES: [&str; 8] = ["model", "proto", "node", "authority", "agent", "proxy", "cli", "e2e"];

#[test]
fn every_test_that_a_page_names_exists() {
    let tests = Tests::find();
    let mut wrong = Vec::new();
    for page in pages() {
        let spans = code_spans(&without_links(&read(&page)));
        let named = spans.iter().filter(|span| is_path(span) && !tests.0.contains_key(*span));
        wrong.extend(named.filter_map(|test| tests.fault(test)).map(|why| format!("{}: {why}", shown(&page))));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_row_has_an_id_and_a_test() {
    let tests = Tests::find();
    let mut wrong = Vec::new();
    for page in [REQUIREMENTS, INVARIANTS, FAILURES, ATTACKS] {
        let mut ids = BTreeSet::new();
        for row in rows(&read(&docs().join(format!("{page}.md")))) {
            let Some(column) = row.header.iter().position(|cell| cell == "Test") else { continue };
            let (id, named) = (&row.cells[0], code_spans(&row.cells[column]));
            let no_tests = named.iter().filter(|name| !is_path(name) || tests.0.contains_key(*name));
            wrong.extend(no_tests.map(|name| format!("{page}, {id}: `{name}` is no test")));
            if page != FAILURES && named.is_empty() {
                wrong.push(format!("{page}, {id}: no test shows it"));
            }
            if !is_id(page, id) || !ids.insert(id.clone()) {
                wrong.push(format!("{page}, {id}: not an id of that page, or twice there"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_link_leads_somewhere_and_every_linked_item_is_there() {
    let mut wrong = Vec::new();
    let mut links = 0;
    for page in pages() {
        for (text, target) in links_of(&read(&page)) {
            links += 1;
            if let Err(why) = follow(&page, &text, &target) {
                wrong.push(format!("{}: [{text}]({target}): {why}", shown(&page)));
            }
        }
    }
    assert!(links > 50, "the pages have links: {links}");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_error_category_has_its_row() {
    let code = read(&root().join("proxy/src/error.rs"));
    let table = code.split_once("categories! {\n").expect("the table of categories").1;
    let table = table.split_once("\n}").expect("its end").0;
    let page = rows(&read(&docs().join("FAILURES.md")));
    for line in table.lines() {
        let words: Vec<&str> = line.split(',').map(|word| word.trim().trim_matches('"')).collect();
        let (status, name) = (words[1], words[3]);
        let row = page.iter().find(|row| row.cells[0] == format!("`{name}`"));
        let row = row.unwrap_or_else(|| panic!("docs/FAILURES.md has no row for `{name}`"));
        assert_eq!(row.cells[1].split(' ').next(), Some(status), "status of `{name}` in docs/FAILURES.md");
    }
}

#[test]
fn every_alert_links_a_runbook_that_names_it() {
    let alerts = read(&root().join("deploy/monitoring/alerts.yaml"));
    let mut seen = 0;
    for alert in alerts.split("- alert: ").skip(1) {
        seen += 1;
        let name = alert.lines().next().unwrap_or_default().trim();
        let runbook = alert.lines().find_map(|line| line.trim().strip_prefix("runbook: "));
        let runbook = runbook.unwrap_or_else(|| panic!("{name} links no runbook"));
        let page = read(&root().join(runbook));
        assert!(page.contains(&format!("`{name}`")), "{runbook} names {name}");
        for part in ["## What it means", "## Look at first", "## Likely causes", "## Mend", "## Prevent"] {
            assert!(page.contains(part), "{runbook} has {part}");
        }
    }
    assert!(seen > 10, "the rules have alerts: {seen}");
}

/// What somebody who is new, on call, or about to decide looks for, and a phrase by which each page is known.
const PROMISED: [(&str, &str); 27] = [
    ("tutorials/first-proxy.md", "# Your first proxy"),
    ("tutorials/first-rollout.md", "# Your first rollout"),
    ("how-to/install.md", "--platform linux/arm64"),
    ("how-to/canary.md", "canary_weight"),
    ("how-to/cohort.md", "cohort_routing"),
    ("how-to/cache.md", "stale_while_revalidate"),
    ("how-to/sandbox.md", "X-ALB-Sandbox"),
    ("how-to/rotate-keys.md", "sealane key rotate"),
    ("how-to/two-person-approval.md", "sealane revision approve"),
    ("how-to/run-without-the-authority.md", "sealane agent rollback"),
    ("how-to/recover-the-authority.md", "--raise-epoch"),
    ("how-to/upgrade.md", "sealane fleet cordon"),
    ("how-to/kubernetes.md", "Losing the authority drops no request"),
    ("how-to/ext-authz.md", "ext_authz"),
    ("reference/config.md", "## config"),
    ("reference/cli.md", "## Exit codes"),
    ("reference/grpc.md", "## ConfigService"),
    ("reference/metrics.md", "`proxy_requests_total`"),
    ("reference/errors.md", "missing_reference"),
    ("explanation/snapshots.md", "snapshot"),
    ("explanation/trust.md", "threshold"),
    ("explanation/gates-and-statistics.md", "min_requests"),
    ("explanation/failure-modes.md", "authority"),
    ("explanation/threat-model.md", "# Threat model"),
    ("explanation/comparison.md", "## What it is not"),
    ("security-checklist.md", "- [ ]"),
    ("production-readiness.md", "- [ ]"),
];

#[test]
fn every_promised_page_is_there_and_found_from_the_contents() {
    let contents = read(&docs().join("README.md"));
    for (page, phrase) in PROMISED {
        assert!(read(&docs().join(page)).contains(phrase), "{page} has `{phrase}`");
        assert!(contents.contains(&format!("({page})")), "docs/README.md leads to {page}");
    }
    assert!(read(&root().join("README.md")).lines().count() < 120, "the README stays short");
}

#[test]
fn every_command_of_the_performance_page_is_there() {
    let page = read(&docs().join("PERFORMANCE.md"));
    let mut seen = 0;
    for command in page.split(['`', '\n']).filter(|span| span.starts_with("cargo ")) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let after = |flag: &str| words.iter().skip_while(|word| **word != flag).nth(1).copied();
        let package = after("-p").unwrap_or_else(|| panic!("`{command}` names its package"));
        let folder = root().join(package.strip_prefix("sealane-").expect("one of ours"));
        let manifest = read(&folder.join("Cargo.toml"));
        if let Some(name) = after("--bin") {
            assert!(manifest.contains(&format!("[[bin]]\nname = \"{name}\"")), "`{command}`: no such program");
        }
        if let Some(name) = after("--test") {
            assert!(folder.join(format!("tests/{name}.rs")).exists(), "`{command}`: no such test");
        }
        if words[1] == "bench" {
            assert!(manifest.contains("[[bench]]"), "`{command}`: no benches");
        }
        seen += 1;
    }
    assert!(seen >= 6, "the page has commands: {seen}");
    assert!(page.contains("requests of 100 B a second"), "what goes through is published");
}

#[test]
fn every_verb_of_a_makefile_has_its_command() {
    let page = read(&root().join("CONTRIBUTING.md"));
    let verbs = page.split_once("## Verbs").expect("the verbs").1;
    for verb in
        ["build", "run", "format", "unit", "e2e", "smoke test", "coverage", "release", "docker", "clean", "tidy", "bin"]
    {
        let row = verbs
            .lines()
            .find(|line| line.starts_with('|') && line.split('|').nth(1).is_some_and(|cell| cell.contains(verb)));
        assert!(row.is_some_and(|row| row.contains("`cargo ") || row.contains("`deploy/")), "{verb} has a command");
    }
    let ci = read(&root().join(".ci/run"));
    for command in ["cargo fmt --all --check", "cargo clippy --workspace --all-targets --locked -- -D warnings"] {
        assert!(ci.contains(command), "CI runs {command}");
    }
}

/// `S0-28` of requirements, `R12` of invariants, anything of failures.
fn is_id(page: &str, id: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match page {
        REQUIREMENTS => {
            matches!(id.split_once('-'), Some(("S0" | "S1" | "S2" | "S3" | "S4", number)) if is_number(number))
        }
        INVARIANTS => id.strip_prefix(|letter: char| letter.is_ascii_uppercase()).is_some_and(is_number),
        _ => true,
    }
}

/// The tests of every crate, by file (`proxy::it::slow`).
struct Tests(BTreeMap<String, BTreeSet<String>>);

impl Tests {
    fn find() -> Self {
        let mut tests = BTreeMap::new();
        for name in CRATES {
            for folder in ["src", "tests"].map(|folder| root().join(name).join(folder)) {
                for file in files(&folder, "rs") {
                    let module = module(name, file.strip_prefix(&folder).expect("it is below"));
                    tests.entry(module).or_insert_with(BTreeSet::new).extend(tests_of(&read(&file)));
                }
            }
        }
        Self(tests)
    }

    /// Why there is no such test; `None`: there is.
    fn fault(&self, path: &str) -> Option<String> {
        let Some((file, name)) = path.rsplit_once("::") else { return Some(format!("`{path}` is no test's path")) };
        if self.0.get(file).is_some_and(|names| names.contains(name)) {
            return None;
        }
        let elsewhere: Vec<&str> =
            self.0.iter().filter(|(_, names)| names.contains(name)).map(|(file, _)| file.as_str()).collect();
        Some(match elsewhere.as_slice() {
            [] => format!("there is no test `{name}`"),
            files => format!("`{name}` is in {}, not in {file}", files.join(", ")),
        })
    }
}

/// Names of the test functions in a file, those that are left out by `#[ignore]` not among them.
fn tests_of(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    let (mut is_test, mut is_ignored) = (false, false);
    for line in code.lines().map(str::trim_start) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if line.starts_with("#[ignore") {
            is_ignored = true;
        } else if let Some(rest) = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn ")) {
            if is_test && !is_ignored {
                names.push(rest.split(['(', '<']).next().unwrap_or_default().to_owned());
            }
            (is_test, is_ignored) = (false, false);
        }
    }
    names
}

/// A row of a table, with the cells of its header.
struct Row {
    header: Vec<String>,
    cells: Vec<String>,
}

/// The rows of every table of a page.
fn rows(page: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut header: Option<Vec<String>> = None;
    for line in page.lines() {
        if !line.starts_with('|') {
            header = None;
            continue;
        }
        let cells: Vec<String> =
            line.trim().trim_matches('|').split(" | ").map(|cell| cell.trim_matches(['|', ' ']).to_owned()).collect();
        match &header {
            None => header = Some(cells),
            Some(_) if line.starts_with("|-") => {}
            Some(header) => {
                assert_eq!(cells.len(), header.len(), "as many cells as the header has: {line}");
                rows.push(Row { header: header.clone(), cells });
            }
        }
    }
    rows
}

/// Whether a code span is the path of a test, of a file of tests, or of an item.
fn is_path(span: &str) -> bool {
    let begins = span.split_once("::").is_some_and(|(first, _)| CRATES.contains(&first));
    begins && span.chars().all(|letter| letter.is_ascii_alphanumeric() || "_:".contains(letter))
}

/// A page without its links and code blocks: what is named in its prose and tables.
fn without_links(page: &str) -> String {
    let mut text: String = page.split("```").step_by(2).collect();
    for (words, target) in links_of(page) {
        text = text.replace(&format!("[{words}]({target})"), "");
    }
    text
}

fn code_spans(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Text and target of every link, code blocks left out.
fn links_of(page: &str) -> Vec<(String, String)> {
    let mut links = Vec::new();
    let mut is_code = false;
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        let mut rest = if is_code { "" } else { line };
        while let Some((before, after)) = rest.split_once("](") {
            let Some((target, after)) = after.split_once(')') else { break };
            let text = before.rsplit_once('[').map_or("", |(_, text)| text);
            links.push((text.to_owned(), target.to_owned()));
            rest = after;
        }
    }
    links
}

fn follow(page: &Path, text: &str, target: &str) -> Result<(), String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return Ok(());
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let folder = page.parent().expect("a page is in a folder");
    let file = if path.is_empty() { page.to_owned() } else { folder.join(path) };
    let file = file.canonicalize().map_err(|_| "there is no such file".to_owned())?;
    if !file.starts_with(root()) {
        return Err("it leaves the repository".to_owned());
    }
    if !anchor.is_empty() && !read(&file).lines().any(|line| line.starts_with('#') && slug(line) == anchor) {
        return Err("that page has no such heading".to_owned());
    }
    let item = text.trim_matches('`');
    if item.contains("::") && file.extension().is_some_and(|extension| extension == "rs") {
        return has_item(&file, item);
    }
    Ok(())
}

/// A heading as a link's anchor.
fn slug(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    words
        .chars()
        .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter))
        .collect::<String>()
        .replace(' ', "-")
}

fn has_item(file: &Path, item: &str) -> Result<(), String> {
    let inside = file.strip_prefix(root()).expect("it was checked");
    let mut parts = inside.components();
    let name = parts.next().map(|part| part.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
    let module = module(&name, parts.as_path().strip_prefix("src").map_err(|_| "it is no source file".to_owned())?);
    if item == module {
        return Ok(());
    }
    let Some(path) = item.strip_prefix(&format!("{module}::")) else {
        return Err(format!("the file is `{module}`"));
    };
    let code = read(file);
    for name in path.split("::") {
        let is_defined = code.lines().any(|line| defines(line, name));
        if !is_defined {
            return Err(format!("`{name}` is not defined there"));
        }
    }
    Ok(())
}

/// Whether a line begins the item `name`.
fn defines(line: &str, name: &str) -> bool {
    ["fn", "struct", "enum", "trait", "impl", "const", "static", "type", "mod"].iter().any(|keyword| {
        line.split_once(&format!("{keyword} {name}"))
            .is_some_and(|(_, after)| !after.starts_with(|letter: char| letter.is_alphanumeric() || letter == '_'))
    })
}

/// `proxy` and `exchange/retry.rs` → `proxy::exchange::retry`; `lib.rs` is the crate itself.
fn module(name: &str, file: &Path) -> String {
    let mut path = name.to_owned();
    for part in file.with_extension("").components() {
        path.push_str("::");
        path.push_str(&part.as_os_str().to_string_lossy());
    }
    path.strip_suffix("::lib").unwrap_or(&path).to_owned()
}

/// Every page.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].iter().map(|name| root().join(name)).collect();
    pages.extend(files(&docs(), "md"));
    pages
}

/// Files with an extension, in a folder and those below.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("a folder that lists").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|one| one == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("the crate is in the repository").canonicalize().expect("it is there")
}

fn docs() -> PathBuf {
    root().join("docs")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", shown(path)))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
