//! Finds circles of imports between source files.
//!
//! An import is a `use`, or a path in the code that begins with `crate`, `super`, `self` or a child module. It leads to the
//! file that defines the item, through re-exports. An import from a parent (`mod.rs`, or `x.rs` beside `x/`) does not count
//! if the parent defines the item, because a parent contains what its children share. An import by a parent from its
//! children counts.

use std::collections::{BTreeMap, BTreeSet};

/// The segments of a path, without `crate`.
type Path = Vec<String>;

/// Files that import each other, with the imports between them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Circle {
    pub(crate) files: BTreeSet<String>,
    pub(crate) imports: BTreeSet<(String, String)>,
}

impl Circle {
    /// The top folder of the files, such as `ctl`.
    pub(crate) fn folder(&self) -> &str {
        self.files.first().unwrap().split('/').next().unwrap()
    }
}

/// Returns the circles of sources, which are given by their path below `src`, without comments and tests.
pub(crate) fn circles(sources: &BTreeMap<String, String>) -> Vec<Circle> {
    let modules = Modules::new(sources);
    let imports: BTreeMap<&String, BTreeSet<&String>> =
        modules.0.iter().map(|(path, module)| (&module.file, modules.imports(path, module))).collect();
    let reachable: BTreeMap<&String, BTreeSet<&String>> =
        imports.keys().map(|file| (*file, reachable(file, &imports))).collect();
    let mut circles: Vec<Circle> = Vec::new();
    for (file, reached) in &reachable {
        if !reached.contains(file) || circles.iter().any(|circle| circle.files.contains(*file)) {
            continue;
        }
        let inside = reached.iter().filter(|other| reachable[*other].contains(file));
        let files: BTreeSet<String> = inside.map(|other| (*other).clone()).collect();
        let imports =
            files.iter().flat_map(|from| imports[from].iter().map(move |to| (from.clone(), (*to).clone())));
        let imports = imports.filter(|(_, to)| files.contains(to)).collect();
        circles.push(Circle { files, imports });
    }
    circles
}

/// Returns the files that a file imports, directly and indirectly.
fn reachable<'a>(
    from: &'a String,
    imports: &BTreeMap<&'a String, BTreeSet<&'a String>>,
) -> BTreeSet<&'a String> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(file) = next.pop() {
        next.extend(imports[file].iter().filter(|other| seen.insert(**other)));
    }
    seen
}

/// One source file.
struct Module {
    file: String,
    code: String,
    /// The names that `use` imports, and the path of each.
    names: BTreeMap<String, Path>,
    /// The paths of `use ...::*`.
    globs: Vec<Path>,
    /// Paths in the code outside `use`.
    paths: Vec<Path>,
}

/// All modules by their path.
struct Modules(BTreeMap<Path, Module>);

impl Modules {
    fn new(sources: &BTreeMap<String, String>) -> Self {
        let place = |file: &String| -> Path {
            let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
            path.split('/').filter(|segment| *segment != "lib").map(str::to_owned).collect()
        };
        let all: BTreeSet<Path> = sources.keys().map(place).collect();
        Self(
            sources
                .iter()
                .map(|(file, code)| (place(file), Module::new(file, code, &place(file), &all)))
                .collect(),
        )
    }

    fn imports(&self, path: &Path, module: &Module) -> BTreeSet<&String> {
        let taken = module.names.values().chain(&module.globs).chain(&module.paths);
        let defined = taken.filter_map(|taken| self.definition(taken, &mut BTreeSet::new()));
        let counted = defined.filter(|definition| !path.starts_with(definition));
        counted.map(|definition| &self.0[definition].file).collect()
    }

    /// Returns the module that defines the item at a path.
    fn definition(&self, path: &[String], seen: &mut BTreeSet<Path>) -> Option<&Path> {
        let length = (0..=path.len()).rev().find(|length| self.0.contains_key(&path[..*length]))?;
        let (place, module) = self.0.get_key_value(&path[..length])?;
        let Some(item) = path.get(length) else { return Some(place) };
        // A re-export may lead back to where it started.
        if !seen.insert(path.to_vec()) {
            return None;
        }
        if let Some(from) = module.names.get(item) {
            let whole: Path = from.iter().chain(&path[length + 1..]).cloned().collect();
            return self.definition(&whole, seen).or(Some(place));
        }
        if module.defines(item) {
            return Some(place);
        }
        let from_globs = module.globs.iter().find_map(|glob| {
            let whole: Path = glob.iter().chain(&path[length..]).cloned().collect();
            let found = self.definition(&whole, seen)?;
            self.0[found].defines(item).then_some(found)
        });
        from_globs.or(Some(place))
    }
}

impl Module {
    fn new(file: &str, code: &str, place: &Path, all: &BTreeSet<Path>) -> Self {
        let (mut names, mut globs) = (BTreeMap::new(), Vec::new());
        let (uses, rest) = split_uses(code);
        for (name, path) in uses.iter().flat_map(|tree| expand(tree.trim(), &[])) {
            let Some(path) = absolute(&path, place, all) else { continue };
            if name == "*" {
                globs.push(path);
            } else {
                names.insert(name, path);
            }
        }
        let paths = paths_in(&rest).iter().filter_map(|path| absolute(path, place, all)).collect();
        Self { file: file.to_owned(), code: rest, names, globs, paths }
    }

    fn defines(&self, item: &str) -> bool {
        ["fn", "struct", "enum", "const", "static", "type", "trait", "union", "macro_rules!"].iter().any(
            |kind| {
                let definition = format!("{kind} {item}");
                let mut found = self.code.match_indices(&definition);
                found.any(|(at, _)| !self.code[at + definition.len()..].starts_with(is_of_a_name))
            },
        )
    }
}

fn is_of_a_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Splits code into the trees of all `use` declarations and the rest.
fn split_uses(code: &str) -> (Vec<String>, String) {
    let (mut uses, mut rest) = (Vec::new(), String::new());
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let mut declaration = line.trim_start();
        if let Some(after) = declaration.strip_prefix("pub") {
            let after = after
                .strip_prefix('(')
                .and_then(|inside| inside.split_once(')'))
                .map_or(after, |(_, after)| after);
            declaration = after.trim_start();
        }
        let Some(tree) = declaration.strip_prefix("use ") else {
            rest.push_str(line);
            rest.push('\n');
            continue;
        };
        let mut tree = tree.to_owned();
        while !tree.contains(';') {
            let Some(line) = lines.next() else { break };
            tree.push_str(line);
        }
        uses.push(tree.split(';').next().unwrap_or_default().to_owned());
    }
    (uses, rest)
}

/// The names that a tree of `use` imports, each with its path: `a::{b, c as d}` imports `b` and `d`.
fn expand(tree: &str, before: &[String]) -> Vec<(String, Path)> {
    let mut path = before.to_vec();
    let mut rest = tree.trim();
    while let Some((segment, after)) = rest.split_once("::").filter(|_| !rest.starts_with('{')) {
        path.push(segment.trim().to_owned());
        rest = after.trim_start();
    }
    if let Some(inside) = rest.strip_prefix('{').and_then(|inside| inside.strip_suffix('}')) {
        return branches(inside).iter().flat_map(|branch| expand(branch, &path)).collect();
    }
    let (item, alias) = rest.split_once(" as ").unwrap_or((rest, rest));
    if item != "self" && item != "*" {
        path.push(item.trim().to_owned());
    }
    let name =
        if alias == "self" { path.last().cloned().unwrap_or_default() } else { alias.trim().to_owned() };
    vec![(name, path)]
}

/// The parts between the commas outside braces.
fn branches(inside: &str) -> Vec<String> {
    let (mut found, mut depth) = (vec![String::new()], 0);
    for letter in inside.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(String::new());
                continue;
            }
            _ => {}
        }
        found.last_mut().unwrap().push(letter);
    }
    found.retain(|branch| !branch.trim().is_empty());
    found
}

/// The paths with at least two segments in code.
fn paths_in(code: &str) -> Vec<Path> {
    let words = code.split(|letter: char| !is_of_a_name(letter) && letter != ':');
    let paths = words.map(|word| word.split("::").map(str::to_owned).collect::<Path>());
    paths.filter(|path| path.len() > 1 && !path[0].is_empty()).collect()
}

/// Returns a path from the root of the crate, or `None` for a path to another crate.
fn absolute(path: &[String], place: &Path, all: &BTreeSet<Path>) -> Option<Path> {
    let (mut whole, mut rest) = (place.clone(), path);
    while let Some((keyword, after)) = rest.split_first() {
        match keyword.as_str() {
            "crate" => whole.clear(),
            "super" => drop(whole.pop()),
            "self" => {}
            _ => break,
        }
        rest = after;
    }
    whole.extend(rest.iter().map(|segment| segment.trim_end_matches(':').to_owned()));
    // Without a keyword it is a path of this crate only if it begins with a child module.
    let of_this_crate = rest.len() < path.len() || all.contains(&whole[..=place.len()]);
    of_this_crate.then_some(whole)
}
