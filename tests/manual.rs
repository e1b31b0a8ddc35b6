//! The manual pages describe everything in the code: each key, option, command, exit status, close code and path.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails should say where")]

use std::fs;
use std::process::Command;

use philote::close::CloseReason;
use philote::config::{Environment, KEYS, Overrides, Reload, load};
use philote::token::ApiRight;

/// The source of a page or of a part of it.
struct Page {
    name: String,
    text: String,
}

impl Page {
    fn read(name: &str) -> Page {
        let path = format!("{}/man/{name}", env!("CARGO_MANIFEST_DIR"));
        Page { name: format!("man/{name}"), text: fs::read_to_string(path).unwrap() }
    }

    /// The lines from `header` to the next line that begins with one of `ends`.
    fn part(&self, header: &str, ends: &[&str]) -> Option<Page> {
        let after =
            self.text.lines().skip_while(|line| *line != header && !line.starts_with(&format!("{header} ")));
        let lines: Vec<_> =
            after.clone().skip(1).take_while(|line| !ends.iter().any(|end| line.starts_with(end))).collect();
        let text = format!("{}\n{}\n", after.clone().next()?, lines.join("\n"));
        Some(Page { name: format!("{}, {header}", self.name), text })
    }

    fn section(&self, title: &str) -> Page {
        self.part(&format!(".Sh {title}"), &[".Sh"]).unwrap_or_else(|| panic!("{} has no {title}", self.name))
    }

    /// Whether the page contains `word`, but not as a part of a longer word.
    fn has(&self, word: &str) -> bool {
        let goes_on = |c: char| c.is_alphanumeric() || c == '_' || c == '-' || c == '/';
        self.text.match_indices(word).any(|(at, _)| {
            let before = self.text[..at].chars().next_back();
            let after = self.text[at + word.len()..].chars().next();
            !before.is_some_and(goes_on) && !after.is_some_and(goes_on)
        })
    }
}

/// Fails with one sentence for each missing item.
fn expect_nothing(missing: &[String]) {
    assert!(missing.is_empty(), "the manual lacks parts of the code:\n  {}\n", missing.join("\n  "));
}

#[test]
fn every_key_has_an_entry() {
    let page = Page::read("philote.toml.5");
    let mut missing = Vec::new();
    for key in KEYS {
        let title = match key.section() {
            "" => ".Ss \\&At the top of the file".to_owned(),
            section => format!(".Ss [{section}]\\&"),
        };
        let item = format!(".It Ic {}", key.name());
        let section = page.part(&title, &[".Ss", ".Sh"]);
        let Some(entry) = section.and_then(|section| section.part(&item, &[".It", ".El"])) else {
            missing.push(format!(
                "man/philote.toml.5 has no \"{item} No = Ar TYPE\" below \"{title}\" for {}",
                key.path()
            ));
            continue;
        };
        let mut want = |what: &str, there: bool| {
            if !there {
                missing.push(format!("man/philote.toml.5: the entry of {} lacks {what}", key.path()));
            }
        };
        let reload = match key.reload() {
            Reload::Live => "Reloaded.",
            Reload::Restart => "Needs a restart.",
        };
        want(&format!("the sentence \"{reload}\""), entry.text.lines().any(|line| line == reload));
        want("its default: \"Default: ...\"", entry.text.contains("\nDefault:"));
        want("an example: \".Dl KEY = VALUE\"", example(&entry, key.name()).is_some());
        if let Some(short) = key.short_variable() {
            want(&format!("its variable .Ev {short}"), entry.has(short));
        }
    }
    expect_nothing(&missing);
}

#[test]
fn every_entry_names_a_key_and_has_a_valid_example() {
    let page = Page::read("philote.toml.5").section("KEYS");
    let mut section = String::new();
    let mut examples = 0;
    for line in page.text.lines() {
        if let Some(title) = line.strip_prefix(".Ss ") {
            section = title
                .strip_prefix('[')
                .map_or(String::new(), |title| title.trim_end_matches("]\\&").to_owned());
        }
        let Some(name) = line.strip_prefix(".It Ic ").and_then(|rest| rest.split(' ').next()) else {
            continue;
        };
        let key = KEYS.iter().find(|key| key.section() == section && key.name() == name);
        assert!(
            key.is_some(),
            "man/philote.toml.5 has an entry for {name} in [{section}], which is not a key"
        );
        let title = if section.is_empty() {
            ".Ss \\&At the top of the file".into()
        } else {
            format!(".Ss [{section}]\\&")
        };
        let part = page.part(&title, &[".Ss"]).unwrap();
        let entry = part.part(&format!(".It Ic {name}"), &[".It", ".El"]).unwrap();
        let Some(value) = example(&entry, name) else { continue };
        // Values that name files depend on the machine.
        if value.contains("\"/") {
            continue;
        }
        let header = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("{header}{name} = {value}\n")).unwrap();
        let overrides = Overrides { config: Some(file.path().to_owned()), ..Overrides::default() };
        let environment = Environment::new([("HOME", file.path().parent().unwrap().as_os_str())]);
        if let Err(error) = load(&overrides, &environment) {
            // Some keys come in pairs, and the error for one without the other names no line.
            let line = if section.is_empty() { ":1:" } else { ":2:" };
            assert!(!error.to_string().contains(line), "man/philote.toml.5: {name} = {value}: {error}");
        }
        examples += 1;
    }
    assert!(examples > 20, "{examples}");
}

/// The value in an entry's `.Dl KEY = VALUE`.
fn example(entry: &Page, name: &str) -> Option<String> {
    let start = format!(".Dl {name} = ");
    entry.text.lines().find_map(|line| line.strip_prefix(&start)).map(|value| value.replace("\\(dq", "\""))
}

fn help(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).arg("--help").output().unwrap();
    assert!(output.status.success(), "{program} {words:?} --help");
    String::from_utf8(output.stdout).unwrap()
}

/// The options of a help text: the long ones, and short ones without a long form.
fn options(help: &str) -> Vec<String> {
    let option = |line: &str| {
        let line = line.trim_start();
        let word = line
            .split(", ")
            .find(|word| word.starts_with("--"))
            .or_else(|| line.starts_with('-').then_some(line))?;
        Some(word.split([' ', '=', '.', '[']).next()?.to_owned())
    };
    let lines = help.lines().filter(|line| line.starts_with("  ") && line.trim_start().starts_with('-'));
    // "- open: ..." is a possible value, not an option.
    let lines = lines.filter(|line| !line.trim_start().starts_with("- "));
    lines.filter_map(option).collect()
}

/// The command names below a help text's "Commands:".
fn commands(help: &str) -> Vec<String> {
    let lines =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let lines = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    lines
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| *word != "help")
        .map(str::to_owned)
        .collect()
}

/// An option in mdoc: `--reason` is `Fl -reason`, `-x` is `Fl x`.
fn flag(option: &str) -> String {
    option.replacen('-', "", 1)
}

#[test]
fn every_option_of_philote_and_jane_is_described() {
    let mut missing = Vec::new();
    let programs = [("philote.8", env!("CARGO_BIN_EXE_philote")), ("jane.1", env!("CARGO_BIN_EXE_jane"))];
    for (page, program) in programs {
        let page = Page::read(page).section("DESCRIPTION");
        let options = options(&help(program, &[]));
        assert!(options.len() > 5, "{options:?}");
        for option in options {
            if !items(&page).any(|line| has_flag(line, &option)) {
                missing.push(format!("{} has no \".It Fl {}\" for {option}", page.name, flag(&option)));
            }
        }
    }
    expect_nothing(&missing);
}

fn items(page: &Page) -> impl Iterator<Item = &str> {
    page.text.lines().filter(|line| line.starts_with(".It"))
}

fn has_flag(line: &str, option: &str) -> bool {
    let flag = flag(option);
    line.split([' ', ',']).any(|word| word == flag)
}

#[test]
fn every_command_of_philotectl_and_its_options_are_described() {
    let program = env!("CARGO_BIN_EXE_philotectl");
    let page = Page::read("philotectl.1");
    let text = help(program, &[]);
    let common = options(&text);
    let mut missing = Vec::new();
    let described = page.section("DESCRIPTION");
    for option in &common {
        if !items(&described).any(|line| has_flag(line, option)) {
            missing.push(format!(
                "man/philotectl.1 has no \".It Fl {}\" for {option} of every command",
                flag(option)
            ));
        }
    }
    let mut verbs: Vec<Vec<String>> = Vec::new();
    for command in commands(&text) {
        let below = commands(&help(program, &[&command]));
        if below.is_empty() {
            verbs.push(vec![command]);
        } else {
            verbs.extend(below.into_iter().map(|verb| vec![command.clone(), verb]));
        }
    }
    assert!(verbs.len() > 15, "{verbs:?}");
    let section = page.section("COMMANDS");
    for verb in verbs {
        let words: Vec<_> = verb.iter().map(String::as_str).collect();
        let item = format!(".It Ic {}", words.join(" "));
        let Some(entry) = section.part(&item, &[".It Ic", ".Sh"]) else {
            missing.push(format!("man/philotectl.1 has no \"{item}\" among its COMMANDS"));
            continue;
        };
        for option in options(&help(program, &words)).iter().filter(|option| !common.contains(option)) {
            if !items(&entry).any(|line| has_flag(line, option)) {
                missing.push(format!("man/philotectl.1 has no \".It Fl {}\" below \"{item}\"", flag(option)));
            }
        }
    }
    expect_nothing(&missing);
}

#[test]
fn every_exit_status_is_described() {
    let mut missing = Vec::new();
    let programs =
        [("philote.8", env!("CARGO_BIN_EXE_philote")), ("philotectl.1", env!("CARGO_BIN_EXE_philotectl"))];
    for (page, program) in programs {
        let page = Page::read(page).section("EXIT STATUS");
        let text = help(program, &[]);
        let (_, statuses) = text.split_once("Exit status:").unwrap();
        let statuses = statuses.split("\n\n").next().unwrap_or(statuses);
        let numbers: Vec<_> =
            statuses.split(|c: char| !c.is_alphanumeric()).filter(|w| w.parse::<u8>().is_ok()).collect();
        assert!(numbers.len() > 3, "{statuses}");
        for number in numbers {
            if !items(&page).any(|line| line == format!(".It {number}")) {
                missing.push(format!("{} has no \".It {number}\"", page.name));
            }
        }
    }
    expect_nothing(&missing);
}

#[test]
fn every_close_code_is_described() {
    let page = Page::read("philote-protocol.7").section("CLOSE CODES");
    let mut missing = Vec::new();
    for reason in CloseReason::all() {
        let (code, name) = (reason.code().to_string(), reason.name());
        let entry = items(&page).find(|line| line.split(' ').nth(1) == Some(&code));
        if !entry.is_some_and(|line| line.split([' ', ',']).any(|word| word == name)) {
            missing.push(format!("{} has no \".It {code} Ql {name}\"", page.name));
        }
    }
    expect_nothing(&missing);
}

#[test]
fn every_path_of_the_http_api_is_described() {
    // Another test compares this file with the code.
    let path = format!("{}/src/server/http/api/openapi.json", env!("CARGO_MANIFEST_DIR"));
    let document: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let http = Page::read("philote-protocol.7").section("HTTP API");
    let mut missing = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace("{channel}", "NAME");
        for method in item.as_object().unwrap().keys() {
            let title = format!(".It Ic {} Pa {path}", method.to_uppercase());
            if !items(&http).any(|line| line == title) {
                missing.push(format!("{} has no \"{title}\"", http.name));
            }
        }
    }
    expect_nothing(&missing);
}

#[test]
fn every_right_of_the_http_api_is_described() {
    let page = Page::read("philote-protocol.7").section("TOKENS");
    let missing = ApiRight::ALL.into_iter().map(ApiRight::name).filter(|name| !page.has(name));
    expect_nothing(&missing.map(|name| format!("{} has no {name}", page.name)).collect::<Vec<_>>());
}

/// The text of a part of a page, without the macros of its lines.
fn plain(page: &Page) -> String {
    let mut text = String::new();
    for line in page.text.lines() {
        let line = line.strip_prefix(".Ql ").unwrap_or(line).replace("\\(dq", "\"");
        let (word, mark) = line.rsplit_once(' ').unwrap_or((&line, ""));
        match line.starts_with('.') {
            true => text.push('\n'),
            // A mark after the argument of a macro follows it directly.
            false if [",", ".", ";"].contains(&mark) => text += &format!("{word}{mark} "),
            false => text += &format!("{line} "),
        }
    }
    text
}

#[test]
fn every_case_of_conformance_tests_a_sentence_of_the_manual() {
    let text = plain(&Page::read("philote-v1.7").section("WRITING A CLIENT"));
    let cases: Vec<_> = philote::conformance::cases().collect();
    assert!(cases.len() > 20);
    let missing = cases.iter().filter(|case| !text.contains(&format!("{} ", case.sentence)));
    let missing =
        missing.map(|case| format!("philote-v1(7) lacks the sentence of {}: {}", case.name, case.sentence));
    expect_nothing(&missing.collect::<Vec<_>>());
}

/// mdoc takes a quotation mark at the beginning of an argument as its own and does not print it.
#[test]
fn no_quotation_mark_is_lost_in_mdoc() {
    let mut lost = Vec::new();
    for entry in fs::read_dir(format!("{}/man", env!("CARGO_MANIFEST_DIR"))).unwrap() {
        let page = Page::read(entry.unwrap().file_name().to_str().unwrap());
        let lines = page.text.lines().filter(|line| line.starts_with(".Ql ") || line.starts_with(".Dl "));
        lost.extend(
            lines
                .filter(|line| line.contains('"'))
                .map(|line| format!("{}: \"{line}\" prints no quotation marks; write \\(dq", page.name)),
        );
    }
    expect_nothing(&lost);
}

#[test]
fn the_cluster_page_names_only_keys_metrics_and_subjects_that_exist() {
    let page = Page::read("philote-cluster.7");
    let example = page.text.split("# /etc/philote/philote.toml on each node").nth(1).unwrap();
    let example: toml::Table = example.split(".Ed").next().unwrap().parse().unwrap();
    let mut keys = 0;
    for (section, value) in &example {
        let names = value.as_table().map_or_else(
            || vec![section.clone()],
            |table| table.keys().map(|name| format!("{section}.{name}")).collect(),
        );
        for name in names {
            assert!(KEYS.iter().any(|key| key.path() == name), "man/philote-cluster.7: {name} is not a key");
            keys += 1;
        }
    }
    assert!(keys > 8, "{keys}");
    let metrics = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/daemon/metrics.rs")).unwrap();
    let named = page.text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    let named: Vec<_> = named.filter(|word| word.starts_with("philote_cluster_")).collect();
    for name in &named {
        assert!(metrics.contains(&format!("\"{name}")), "man/philote-cluster.7: {name} is not a metric");
    }
    assert!(!named.is_empty());
}

/// Each door at which strangers may arrive has its part: what an attacker reaches, what stops him, and what remains.
#[test]
fn the_security_page_describes_every_door() {
    let page = Page::read("philote-security.7");
    let doors = page.section("DOORS");
    let mut missing = Vec::new();
    for (title, setting) in [
        ("The port for clients", "max_message_size"),
        ("The HTTP API for backends", "api"),
        ("The admin socket", "group"),
        ("The metrics", "listen"),
        ("NATS", "subject_prefix"),
        ("The log and the journal", "secret"),
    ] {
        match doors.part(&format!(".Ss {title}"), &[".Ss", ".Sh"]) {
            Some(part) if part.has(setting) => {}
            Some(part) => missing.push(format!("{} does not mention {setting}", part.name)),
            None => missing.push(format!("{} has no \".Ss {title}\"", doors.name)),
        }
    }
    // Every section of settings that opens a listener or a connection is named.
    for section in ["[metrics]", "[cluster]"] {
        if !page.text.contains(section) {
            missing.push(format!("{} does not name {section}", page.name));
        }
    }
    for title in ["TRUST", "REPORTING", "SUPPORTED VERSIONS"] {
        assert!(page.section(title).text.len() > 200, "{title}");
    }
    // Every limit that it advises exists.
    for line in page.text.lines().filter_map(|line| line.strip_prefix(".Ic ")) {
        for word in line.split([' ', ',']).filter(|word| word.contains('_')) {
            // A key of the tables in listen.
            let known = word == "proxy_protocol" || KEYS.iter().any(|key| key.name() == word);
            assert!(known, "{word} is no setting");
        }
    }
    expect_nothing(&missing);
}
