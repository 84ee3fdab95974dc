//! What policies let through and what not.

use super::*;

const BEFORE: &str =
    "routes:\n  - { id: pay, host: pay.example.com, to: http://a:1 }\n  - { path_prefix: /x/, to: http://b:1 }\n";
const AFTER: &str =
    "routes:\n  - { id: pay, host: pay.example.com, to: http://c:1 }\n  - { path_prefix: /y/, to: http://b:1 }\n";

const HOSTS: &str = r#"package sealane.hosts

# Only the payments team touches its host.
deny contains msg if {
    "pay.example.com" in input.diff.hosts
    not startswith(input.author, "pay-")
    msg := sprintf("%s may not touch pay.example.com", [input.author])
}
"#;

const SIZE: &str = r#"package sealane.size

deny contains {"msg": "too many routes go at once"} if count(input.diff.routes.removed) > 5

require_approvals := 2 if input.class == "expedited"
"#;

fn proposal() -> Proposal {
    Proposal {
        text: AFTER.to_owned(),
        file: "fleet.yaml".to_owned(),
        previous: Some(BEFORE.to_owned()),
        author: "bob (publisher)".to_owned(),
        role: "publisher",
        class: "standard",
        message: "why".to_owned(),
        time: "2026-11-21T10:00:00Z".to_owned(),
    }
}

fn with(files: &[(&str, &str)], proposal: &Proposal) -> Result<Judgement, PolicyError> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    judge(Some(folder.path()), proposal)
}

#[test]
fn a_denial_names_its_rule_and_what_it_says() {
    let files = [("hosts.rego", HOSTS), ("size.rego", SIZE), ("README.md", "no policy")];
    let denied = with(&files, &proposal()).unwrap();
    let messages: Vec<&str> = denied.denials.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(messages, ["sealane.hosts.deny: bob (publisher) may not touch pay.example.com"]);
    assert_eq!(denied.denials[0].code, "policy_denied");
    let allowed = Proposal { author: "pay-ana (publisher)".to_owned(), ..proposal() };
    assert_eq!(with(&files, &allowed).unwrap(), Judgement::default());
    let other = Proposal { text: BEFORE.replace("/x/", "/z/"), ..proposal() };
    assert_eq!(with(&files, &other).unwrap(), Judgement::default(), "the host is not touched");
    assert_eq!(judge(None, &proposal()).unwrap(), Judgement::default());
}

#[test]
fn the_most_careful_policy_says_how_many_people_must_approve() {
    let expedited = Proposal { class: "expedited", ..proposal() };
    assert_eq!(with(&[("size.rego", SIZE)], &expedited).unwrap().approvals_min, 2);
}

#[test]
fn what_cannot_be_judged_is_an_error() {
    let refused = |files: &[(&str, &str)]| with(files, &proposal()).unwrap_err().to_string();
    let broken = refused(&[("a.rego", "package sealane.a\ndeny contains msg if { input.x == \n")]);
    assert!(broken.starts_with("policy `a.rego` does not compile"), "{broken}");
    let typo = refused(&[("a.rego", "package sealane.a\ndenny contains \"x\" if true\n")]);
    assert!(typo.contains("neither `deny` nor `require_approvals`"), "{typo}");
    let word = refused(&[("a.rego", "package sealane.a\ndeny := \"no\"\n")]);
    assert!(word.contains("no set of messages"), "{word}");
    let number = refused(&[("a.rego", "package sealane.a\nrequire_approvals := \"two\"\n")]);
    assert!(number.contains("no number"), "{number}");
    let endless = "package sealane.a\ndeny contains msg if {\n  some a in numbers.range(1, 4000)\n  some b in numbers.range(1, 4000)\n  some c in numbers.range(1, 4000)\n  a * b * c == -1\n  msg := \"never\"\n}\n";
    let slow = refused(&[("a.rego", endless)]);
    assert!(slow.contains("cannot be evaluated"), "{slow}");
    let gone = judge(Some(Path::new("/nonexistent/policies")), &proposal()).unwrap_err();
    assert!(gone.to_string().contains("cannot read"), "{gone}");
}

#[test]
fn a_change_is_told_by_name() {
    let (before, after) = (document(BEFORE), document(AFTER));
    let diff = change::diff(Some(&before), &after, BEFORE, AFTER);
    assert_eq!(diff["routes"], json!({ "added": ["*/y/"], "removed": ["*/x/"], "changed": ["pay"] }));
    assert_eq!(diff["hosts"], json!(["*", "pay.example.com"]));
    assert_eq!((&diff["lines_added"], &diff["lines_removed"]), (&json!(2), &json!(2)));
    assert_eq!(diff["sections"], json!(["routes"]));
    let first = change::diff(None, &after, "", AFTER);
    assert_eq!(first["routes"]["added"], json!(["*/y/", "pay"]));
}
