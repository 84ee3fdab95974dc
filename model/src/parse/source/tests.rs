use super::*;
use crate::problem::Problem;

fn problems(text: &str) -> Vec<Problem> {
    let mut findings = Findings::new();
    let root = tree(text, &mut findings);
    findings.into_problems("f", text, root.as_ref())
}

fn check(text: &str, expected: &[(&str, u32, u32)]) {
    let found: Vec<_> = problems(text).into_iter().map(|p| (p.code, p.line, p.column)).collect();
    let expected: Vec<_> = expected.iter().map(|(code, line, column)| ((*code).to_owned(), *line, *column)).collect();
    assert_eq!(found, expected, "{text:?}");
}

#[test]
fn refuses_what_strict_yaml_refuses() {
    check("", &[("empty_file", 0, 0)]);
    check("# only a comment\n", &[("empty_file", 0, 0)]);
    check("---\n", &[("empty_file", 0, 0)]);
    check("a: 1\nb: 2\na: 3\n", &[("duplicate_key", 3, 1)]);
    check("{\"a\": 1, \"a\": 2}", &[("duplicate_key", 1, 10)]);
    check("a: 1\n---\nb: 2\n", &[("several_documents", 2, 1)]);
    check("a:\n\tb: 1\n", &[("tab", 2, 1)]);
    check("a:\n  - b\n \t- c\n", &[("tab", 3, 2)]);
    check("[a]: 1\n", &[("bad_key", 1, 1)]);
    check("a: !thing 1\n", &[("unknown_tag", 1, 11)]);
    check("a: *b\n", &[("syntax_error", 1, 4)]);
    check("a: &b [*b]\n", &[("alias_cycle", 1, 8)]);
    check("a: [1, 2\n", &[("syntax_error", 1, 4)]);
}

#[test]
fn a_large_mapping_still_finds_its_duplicate() {
    let mut text: String = (0..100).map(|n| format!("k{n}: 1\n")).collect();
    check(&text, &[]);
    text.push_str("k7: 2\n");
    check(&text, &[("duplicate_key", 101, 1)]);
}

#[test]
fn a_bom_and_line_ends_of_any_kind_are_fine() {
    check("\u{feff}a: 1\nb: 2\n", &[]);
    check("a: 1\r\nb: 2\r\n", &[]);
    check("\u{feff}a: 1\r\na: 2\r\n", &[("duplicate_key", 2, 1)]);
}

#[test]
fn json_may_be_indented_with_tabs() {
    check("{\n\t\"a\": [\n\t\t1,\n\t\t\"x\\\"\ty\"\n\t]\n}\n", &[]);
    check("{\n\t\"a\": 1,\n\t\"a\": 2\n}\n", &[("duplicate_key", 3, 2)]);
    check("{\n\t\"a\": [1,\n\t\"b\": }\n", &[("syntax_error", 2, 7)]);
    let mut findings = Findings::new();
    let root = tree("{\t\"a\": \"x\ty\"}", &mut findings).unwrap();
    assert_eq!(root.get("a").and_then(Node::scalar), Some("x\ty"));
}

#[test]
fn nesting_is_bounded_in_blocks_flows_and_through_aliases() {
    let flow = |depth: usize| format!("a: {}{}", "[".repeat(depth), "]".repeat(depth));
    check(&flow(DEPTH_MAX - 1), &[]);
    assert_eq!(problems(&flow(DEPTH_MAX))[0].code, "too_deep");
    assert_eq!(problems(&flow(100_000))[0].code, "too_deep");
    let block: String = (0..200).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert_eq!(problems(&block)[0].code, "too_deep");
    let mut chain = String::from("x0: &x0 [1]\n");
    for n in 1..100 {
        chain.push_str(&format!("x{n}: &x{n} [*x{}]\n", n - 1));
    }
    assert_eq!(problems(&chain)[0].code, "too_deep");
}

#[test]
fn aliases_cannot_unfold_to_gigabytes() {
    let mut laughs = String::from("x0: &x0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for n in 1..10 {
        let many = vec![format!("*x{}", n - 1); 9].join(", ");
        laughs.push_str(&format!("x{n}: &x{n} [{many}]\n"));
    }
    assert_eq!(problems(&laughs)[0].code, "alias_limit");
    let long = format!("a: &a {}\nb: [{}]\n", "y".repeat(1 << 20), vec!["*a"; 100].join(", "));
    assert_eq!(problems(&long)[0].code, "alias_limit");
}

#[test]
fn merge_keys_take_what_is_not_written() {
    let mut findings = Findings::new();
    let text = "x-base: &base { a: 1, b: 2 }\nall:\n  <<: *base\n  b: 3\n";
    let root = tree(text, &mut findings).unwrap();
    let all = root.get("all").unwrap();
    assert_eq!(all.get("a").and_then(Node::scalar), Some("1"));
    assert_eq!(all.get("b").and_then(Node::scalar), Some("3"));
    check("a: { <<: 3 }\n", &[("wrong_type", 1, 10)]);
}

#[test]
fn a_file_that_is_too_large_is_not_looked_at() {
    assert_eq!(problems(&" ".repeat(TEXT_BYTES_MAX + 1))[0].code, "too_large");
}

#[test]
fn an_unquoted_ipv6_address_is_named_in_the_help() {
    let problem = &problems("listen: [::1]:8080\n")[0];
    assert_eq!((problem.code.as_str(), problem.line), ("syntax_error", 1));
    assert!(problem.help.contains("\"[::1]:8080\""), "{problem:?}");
}

#[test]
fn every_scalar_keeps_its_text() {
    let mut findings = Findings::new();
    let text = "a: 1.20\nb: \"1.20\"\nc: on\nd: 0x10\ne: !!str 5\nf: ~\n";
    let root = tree(text, &mut findings).unwrap();
    let check = |key: &str, expected: &str, expected_quoted: bool| match &root.get(key).unwrap().value {
        Value::Scalar { text, quoted } => assert_eq!((&**text, *quoted), (expected, expected_quoted), "{key}"),
        other => panic!("{key}: {other:?}"),
    };
    check("a", "1.20", false);
    check("b", "1.20", true);
    check("c", "on", false);
    check("d", "0x10", false);
    check("e", "5", true);
    assert!(root.get("f").unwrap().is_null());
}

#[test]
fn the_cause_of_a_syntax_error_is_named_where_it_is() {
    let check = |text: &str, (line, column): (u32, u32), message: &str, help: &str| {
        let problem = &problems(text)[0];
        assert_eq!((problem.code.as_str(), problem.line, problem.column), ("syntax_error", line, column), "{text:?}");
        assert!(problem.message.contains(message) && problem.help.contains(help), "{text:?}\n{problem:?}");
    };
    check("a: 1\nb: [{ c: x\0 }]\n", (2, 11), "U+0000", "remove it");
    check("a: [{ b: c }\nd: :8080\n", (1, 4), "the `[` that is opened here is not closed", "write `]`");
    check("a: {\n  b: 1,\nd: [1]\ne: 2\n", (1, 4), "the `{`", "write `}`");
    // What is closed is not at fault.
    check("{\n  \"a\": [1],\n  \"b\": 2\n  \"c\": 3\n}\n", (4, 6), "not valid JSON", "missing comma");
    // A bracket in a comment, in quotes or in the middle of a word opens nothing.
    check("a: \"[\" # [\nb: x[\n c: 1\n", (3, 3), "not valid YAML", "");
}

#[test]
fn every_problem_of_the_text_says_what_to_do() {
    let deep = format!("a: {}{}", "[".repeat(DEPTH_MAX + 1), "]".repeat(DEPTH_MAX + 1));
    for text in ["a: &a { b: *a }\n", &deep, "a:\n\tb: 1\n", "a: 1\n---\nb: 2\n", "a: 1\na: 2\n", "", "[a]: 1\n"] {
        let problem = &problems(text)[0];
        assert!(!problem.help.is_empty(), "{text:?}\n{problem:?}");
    }
}
