//! `tests/faults.md` lists, for each fault, the tests that are named after its number, or the reason why there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::collect;

const LIST: &str = "tests/faults.md";

/// How the last column of a fault without a test begins. The reason follows.
const NONE: &str = "none: ";

/// The names of tests for each fault, with their files.
type Proofs = BTreeMap<u32, BTreeSet<(String, String)>>;

#[test]
fn the_list_of_faults_names_every_test() {
    let listed = fs::read_to_string(LIST).unwrap();
    let proofs = proofs();
    let renewed = renewed(&listed, &proofs);
    if std::env::var_os("PHILOTE_RENEW").is_some() {
        fs::write(LIST, &renewed).unwrap();
    }
    let rows: Vec<_> = renewed.lines().filter_map(number).collect();
    assert!(rows.len() > 80 && rows.iter().copied().eq(1..=rows.len() as u32), "numbers in a row: {rows:?}");
    let unknown: Vec<_> = proofs.keys().filter(|number| !rows.contains(number)).collect();
    assert!(unknown.is_empty(), "{LIST} has no {unknown:?}: {proofs:?}");
    let stale: Vec<_> =
        renewed.lines().filter(|line| !listed.lines().any(|listed| listed == *line)).collect();
    assert!(
        listed == renewed || std::env::var_os("PHILOTE_RENEW").is_some(),
        "{LIST} is out of date; renew it with: PHILOTE_RENEW=1 cargo test --test architecture faults\n{}",
        stale.join("\n")
    );
    for row in renewed.lines().filter(|line| number(line).is_some()) {
        let reason = row.split(&format!("| {NONE}")).nth(1);
        assert!(
            reason.is_none_or(|reason| reason.len() > 20),
            "neither a test nor a reason for not having one: {row}"
        );
    }
}

#[test]
fn a_number_without_a_test_or_with_a_removed_one_changes_the_list() {
    let list = "| 1 | input | result | none: |\n| 2 | input | result | `old` (x.rs) |\n| 3 | a | b | none: a reason |\n";
    let proofs = BTreeMap::from([(1, BTreeSet::from([("b.rs".to_owned(), "fault_01_it_holds".to_owned())]))]);
    assert_eq!(
        renewed(list, &proofs),
        "| 1 | input | result | b.rs: `fault_01_it_holds` |\n| 2 | input | result | none: |\n| 3 | a | b | none: a reason |\n"
    );
}

#[test]
fn names_and_titles_give_their_numbers() {
    assert_eq!(numbers("05_06_malformed_upgrades_2_times"), [5, 6]);
    assert_eq!(numbers(" 67, 70: a title of 3 words"), [67, 70]);
    assert!(numbers("less").is_empty());
    let code = "#[test]\n#[ignore = \"root\"]\nfn fault_07_it_holds() {}\n/// Not a test.\nfn fault_08_helper() {}\n";
    assert_eq!(rust_tests(code), ["fault_07_it_holds"]);
}

/// The number of a row of the list.
fn number(line: &str) -> Option<u32> {
    line.strip_prefix("| ")?.split(' ').next()?.parse().ok()
}

/// The list with its last column made anew. A reason for the lack of a test is kept.
fn renewed(list: &str, proofs: &Proofs) -> String {
    let mut text = String::new();
    for line in list.lines() {
        let Some(number) = number(line) else {
            let _ = writeln!(text, "{line}");
            continue;
        };
        let columns: Vec<_> = line.trim_end_matches('|').split(" | ").collect();
        let kept =
            columns.last().filter(|reason| reason.starts_with(NONE)).map_or("none:", |reason| reason.trim());
        let tests = proofs.get(&number).map_or_else(|| kept.to_owned(), cell);
        let _ = writeln!(text, "{} | {tests} |", columns[..columns.len() - 1].join(" | "));
    }
    text
}

/// The tests of a fault, by file.
fn cell(tests: &BTreeSet<(String, String)>) -> String {
    let mut files: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (file, name) in tests {
        files.entry(file).or_default().push(format!("`{name}`"));
    }
    let files: Vec<_> =
        files.into_iter().map(|(file, names)| format!("{file}: {}", names.join(", "))).collect();
    files.join("; ")
}

/// The numbers at the start of what follows the word "fault" in a name or a title.
fn numbers(name: &str) -> Vec<u32> {
    let parts = name.split(['_', ',', ':', ' ']).skip_while(|part| part.is_empty());
    parts.filter(|part| !part.is_empty()).map_while(|part| part.parse().ok()).collect()
}

/// The functions of a Rust file that are named after a fault and are tests.
fn rust_tests(code: &str) -> Vec<&str> {
    let lines: Vec<_> = code.lines().map(str::trim_start).collect();
    let mut names = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let line = line.strip_prefix("async ").unwrap_or(line);
        let Some(name) = line.strip_prefix("fn ").filter(|name| name.starts_with("fault_")) else { continue };
        let attributes = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
        if attributes.into_iter().any(|line| line.contains("test]") || line.contains("test(")) {
            names.push(name.split('(').next().unwrap());
        }
    }
    names
}

/// The tests of all files: functions in Rust, titles of tests in JavaScript, steps of `tests/system`.
fn proofs() -> Proofs {
    let mut proofs = Proofs::new();
    for root in ["src", "tests"] {
        collect(Path::new(root), &mut |path| {
            let file = path.to_str().unwrap().to_owned();
            if file.contains("/node_modules/") || file.contains("/.tools/") {
                return;
            }
            let Ok(text) = fs::read_to_string(path) else { return };
            let mut add = |numbers: Vec<u32>, name: &str| {
                for number in numbers {
                    proofs.entry(number).or_default().insert((file.clone(), name.to_owned()));
                }
            };
            if file.ends_with(".rs") {
                rust_tests(&text).into_iter().for_each(|name| add(numbers(&name["fault_".len()..]), name));
                return;
            }
            let start = if file.ends_with(".mjs") { "test(\"fault " } else { "step \"fault " };
            if file.ends_with(".mjs") || file.starts_with("tests/walk/") {
                for title in text.split(start).skip(1).filter_map(|rest| rest.split('"').next()) {
                    add(numbers(title), &format!("fault {title}"));
                }
            }
        });
    }
    proofs
}
