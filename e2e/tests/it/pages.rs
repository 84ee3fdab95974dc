//! README, tutorials and how-to pages, followed to the letter; and every other command of the docs, as far as it can be checked without
//! being run.

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use sealane_e2e::page::{self, Network};
use tokio::sync::Mutex;

use crate::program;

/// One page at a time where they share this machine's ports.
static PORTS: Mutex<()> = Mutex::const_new(());

async fn follow(test: &str, name: &str) {
    follow_with(test, name, &[], &[]).await;
}

async fn follow_with(test: &str, name: &str, more: &[(&str, &Path)], folders: &[(&str, &Path)]) {
    let _alone;
    match page::own_network(&format!("pages::{test}")).await {
        Network::Followed => return,
        Network::Own => {}
        Network::Shared(why) => {
            _alone = PORTS.lock().await;
            if let Some(port) = taken(&read(name)) {
                page::skipped(format_args!("{name}: {why}, and port {port} is taken"));
                return;
            }
        }
    }
    if let Some(needed) = ["bash", "curl"].into_iter().find(|needed| !installed(needed)) {
        page::skipped(format_args!("{name}: {needed} is not installed"));
        return;
    }
    let mut programs = vec![("sealane", program())];
    if !installed("grpcurl") {
        programs.push(("grpcurl", Path::new(env!("CARGO_BIN_EXE_grpcurl-stand-in"))));
    }
    programs.extend(more);
    page::follow(name, &read(name), &programs, folders).await;
}

fn installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').any(|folder| Path::new(folder).join(program).is_file())
}

/// A port of the page, or one that a role takes by itself, that somebody has.
fn taken(page: &str) -> Option<u16> {
    let named = page.split(':').skip(1).filter_map(|after| {
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok().filter(|port| *port > 1024)
    });
    let own = [7443, 7444, 7480, 7481, 8080, 8081, 8082, 8083, 9090];
    named.chain(own).find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_err())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_can_be_followed_to_the_letter() {
    follow("the_readme_can_be_followed_to_the_letter", "README.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_tutorial_can_be_followed_to_the_letter() {
    follow("the_first_tutorial_can_be_followed_to_the_letter", "docs/tutorials/first-proxy.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_tutorial_can_be_followed_to_the_letter() {
    follow("the_second_tutorial_can_be_followed_to_the_letter", "docs/tutorials/first-rollout.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_admin_api_can_be_followed_to_the_letter() {
    follow("the_page_admin_api_can_be_followed_to_the_letter", "docs/how-to/admin-api.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_ask_the_fleet_can_be_followed_to_the_letter() {
    follow("the_page_ask_the_fleet_can_be_followed_to_the_letter", "docs/how-to/ask-the-fleet.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_cache_can_be_followed_to_the_letter() {
    follow("the_page_cache_can_be_followed_to_the_letter", "docs/how-to/cache.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_canary_can_be_followed_to_the_letter() {
    follow("the_page_canary_can_be_followed_to_the_letter", "docs/how-to/canary.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_cohort_can_be_followed_to_the_letter() {
    follow("the_page_cohort_can_be_followed_to_the_letter", "docs/how-to/cohort.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_ext_authz_can_be_followed_to_the_letter() {
    follow("the_page_ext_authz_can_be_followed_to_the_letter", "docs/how-to/ext-authz.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_plan_a_change_can_be_followed_to_the_letter() {
    follow("the_page_plan_a_change_can_be_followed_to_the_letter", "docs/how-to/plan-a-change.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_proxies_elsewhere_can_be_followed_to_the_letter() {
    follow("the_page_proxies_elsewhere_can_be_followed_to_the_letter", "docs/how-to/proxies-elsewhere.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_recover_the_authority_can_be_followed_to_the_letter() {
    follow("the_page_recover_the_authority_can_be_followed_to_the_letter", "docs/how-to/recover-the-authority.md")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_rotate_keys_can_be_followed_to_the_letter() {
    follow("the_page_rotate_keys_can_be_followed_to_the_letter", "docs/how-to/rotate-keys.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_run_without_the_authority_can_be_followed_to_the_letter() {
    follow(
        "the_page_run_without_the_authority_can_be_followed_to_the_letter",
        "docs/how-to/run-without-the-authority.md",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_sandbox_can_be_followed_to_the_letter() {
    follow("the_page_sandbox_can_be_followed_to_the_letter", "docs/how-to/sandbox.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_two_person_approval_can_be_followed_to_the_letter() {
    follow("the_page_two_person_approval_can_be_followed_to_the_letter", "docs/how-to/two-person-approval.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_upgrade_can_be_followed_to_the_letter() {
    follow("the_page_upgrade_can_be_followed_to_the_letter", "docs/how-to/upgrade.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_zero_downtime_restart_can_be_followed_to_the_letter() {
    follow("the_page_zero_downtime_restart_can_be_followed_to_the_letter", "docs/how-to/zero-downtime-restart.md")
        .await;
}

/// With a stand-in for Docker, which makes of the Compose file what Docker would, as far as namespaces go.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_compose_can_be_followed_to_the_letter() {
    let test = "the_page_compose_can_be_followed_to_the_letter";
    if let Some(needed) = ["ip", "nsenter", "unshare"].into_iter().find(|needed| !installed(needed)) {
        page::skipped(format_args!("docs/how-to/compose.md: {needed} is not installed"));
        return;
    }
    match page::own_network(&format!("pages::{test}")).await {
        Network::Followed => return,
        Network::Own => {}
        Network::Shared(why) => return page::skipped(format_args!("docs/how-to/compose.md: {why}")),
    }
    let docker = Path::new(env!("CARGO_BIN_EXE_docker-stand-in"));
    follow_with(test, "docs/how-to/compose.md", &[("docker", docker)], &[("deploy", &root().join("deploy"))]).await;
}

/// How-to pages whose commands need what a test cannot have, and what shows that they are true all the same.
const NOT_FOLLOWED: [(&str, &str); 3] = [
    ("install", "it builds releases and installs them as root; `manifests` packs one and checks what is in it"),
    ("kubernetes", "it needs a cluster; `manifests` reads what is rendered, `nodes` rehearses pods"),
    ("embed", "it is a program in Rust: the examples that it links are built with every test"),
];

#[test]
fn every_how_to_page_is_followed_or_says_why_not() {
    let followed = include_str!("pages.rs");
    let folder = root().join("docs/how-to");
    for page in pages().iter().filter_map(|page| page.strip_prefix(&folder).ok()) {
        let name = page.with_extension("").display().to_string();
        let is_followed = followed.contains(&format!("\"docs/how-to/{name}.md\""));
        let is_left_out = NOT_FOLLOWED.iter().any(|(left_out, _)| *left_out == name);
        assert!(is_followed != is_left_out, "docs/how-to/{name}.md is followed by a test, or stands in `NOT_FOLLOWED`");
        // Whatever is not run in a page that is followed has its reason in the fence: `steps` refuses one without.
        let _ = page::steps(&read(&format!("docs/how-to/{name}.md")));
    }
}

#[test]
fn every_command_of_the_docs_is_one_that_the_program_knows() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for page in pages() {
        let name = page.strip_prefix(root()).unwrap_or(&page).display().to_string();
        let text = std::fs::read_to_string(&page).expect("a page");
        for (line, command) in commands(&text) {
            seen += 1;
            let words = words(&command);
            let parsed = sealane_cli::args::command().try_get_matches_from(words.iter().map(String::as_str));
            let Err(error) = parsed else { continue };
            // Prose names a command and leaves out what its reader knows.
            let is_short = line == 0
                && [ErrorKind::MissingRequiredArgument, ErrorKind::MissingSubcommand, ErrorKind::InvalidValue]
                    .contains(&error.kind());
            if error.use_stderr() && !is_short {
                wrong.push(format!("{name}:{line}: {command}\n{error}"));
            }
        }
    }
    assert!(seen > 80, "the docs have commands: {seen}");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Every `sealane …` of the blocks in `sh` and of code spans that name arguments, with its line.
fn commands(page: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for block in page::blocks(page).into_iter().filter(|block| block.language == "sh") {
        let joined = block.text.replace("\\\n", " ");
        for line in joined.lines() {
            // Where a command can begin: at the start, in a pipe or a list, in `$(…)`, after `do`.
            let starts = line.match_indices("sealane ").filter(|(at, _)| {
                let before = line[..*at].trim_end();
                ["", "|", "&&", ";", "$(", "do", "--", "--release --"]
                    .iter()
                    .any(|end| before.is_empty() || (!end.is_empty() && before.ends_with(end)))
                    || before.ends_with("exec authority")
                    || before.ends_with("sealane-authority-0 --")
            });
            found.extend(starts.map(|(at, _)| (block.line, line[at..].to_owned())));
        }
    }
    let prose: String = page.split("\n```").step_by(2).collect::<Vec<_>>().join("\n");
    let spans = prose.split('`').skip(1).step_by(2).filter(|span| span.starts_with("sealane ") && span.contains(" "));
    // A span may leave out what its reader knows: only flags and subcommands are looked at.
    found.extend(
        spans
            .filter(|span| !span.contains('…'))
            .map(|span| (0, span.to_owned()))
            .filter(|(_, span)| !span.split(' ').any(|word| word.chars().all(|letter| letter.is_ascii_uppercase()))),
    );
    found
}

/// A command line's words up to its end, quotes taken off, variables replaced by something.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        let last = words.last_mut().expect("one at least");
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (None, '\'' | '"') => quote = Some(letter),
            (None | Some('"'), '$') => {
                while letters.next_if(|letter| letter.is_ascii_alphanumeric() || *letter == '_').is_some() {}
                last.push('1');
            }
            (Some(_), letter) => last.push(letter),
            (None, '|' | '&' | ';' | '>' | '<' | '#' | ')') => break,
            (None, letter) if letter.is_whitespace() => words.push(String::new()),
            (None, letter) => last.push(letter),
        }
    }
    words.retain(|word| !word.is_empty());
    // `2>`: the number belongs to what was cut off.
    if line.contains("2>") && words.last().is_some_and(|word| word == "2") {
        words.pop();
    }
    words
}

fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md")];
    let mut open = vec![root().join("docs")];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).expect("a page")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}
