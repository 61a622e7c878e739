//! The house's rule for the agent's folders: none may depend on another that depends on it, over however many steps.
//!
//! In: `agent/src`. A folder, or a file beside them, depends on another where it names `crate::OTHER` outside of tests. The
//! crate's root wires everything and is left out.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result, bail};

use crate::sizes::rust_files;

/// What wires the others.
const ROOTS: [&str; 2] = ["lib", "main"];

/// Which folder depends on which, with a file that shows it.
type Graph = BTreeMap<String, BTreeMap<String, String>>;

/// Fails with a circle between the folders of the agent, if there is one.
///
/// # Errors
/// There is a circle, or a file cannot be read.
pub fn check() -> Result<()> {
    let graph = read(&crate::root().join("agent/src"))?;
    let Some(circle) = graph.keys().find_map(|from| circle(&graph, from)) else { return Ok(()) };
    let step = |pair: &[String]| format!("  {} -> {}: {}", pair[0], pair[1], graph[&pair[0]][&pair[1]]);
    let steps: Vec<String> = circle.windows(2).map(step).collect();
    bail!("folders of agent/src that depend on each other, want none:\n{}", steps.join("\n"))
}

fn read(src: &Path) -> Result<Graph> {
    let files = rust_files(src)?;
    let mut texts = BTreeMap::new();
    for file in &files {
        texts.insert(file, fs::read_to_string(file).with_context(|| file.display().to_string())?);
    }
    let tests: BTreeSet<_> = texts.iter().flat_map(|(file, text)| test_modules(file, text)).collect();
    let top = |file: &Path| {
        let first = file.strip_prefix(src).ok()?.components().next()?;
        Some(first.as_os_str().to_str()?.trim_end_matches(".rs").to_owned())
    };
    let names: BTreeSet<String> = files.iter().filter_map(|file| top(file)).collect();
    let mut graph = Graph::new();
    for (file, text) in &texts {
        let is_test = tests.iter().any(|test| file.with_extension("").starts_with(test));
        let Some(from) = top(file).filter(|from| !is_test && !ROOTS.contains(&from.as_str())) else { continue };
        for to in named(text).into_iter().filter(|to| *to != from && names.contains(to)) {
            graph.entry(from.clone()).or_default().entry(to).or_insert_with(|| file.display().to_string());
        }
    }
    Ok(graph)
}

/// The paths, without extension, of the modules in files of their own that a file declares for tests alone.
fn test_modules(file: &Path, text: &str) -> Vec<std::path::PathBuf> {
    let is_folder = file.file_name().is_some_and(|name| name == "mod.rs" || name == "lib.rs");
    let dir = if is_folder { file.parent().unwrap_or(file).to_owned() } else { file.with_extension("") };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let of_tests = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]").map(|pair| pair[1]);
    let name = |line: &str| Some(line.strip_suffix(';')?.rsplit_once("mod ")?.1.to_owned());
    of_tests.filter_map(name).map(|name| dir.join(name)).collect()
}

/// What a file names behind `crate::`, but for its comments and its module of tests.
fn named(text: &str) -> BTreeSet<String> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let mut found = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        let behind = &code[at + path.len()..];
        let items = if behind.starts_with('{') { members(behind) } else { vec![behind] };
        let name =
            |item: &str| item.trim_start().split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned);
        found.extend(items.into_iter().filter_map(name).filter(|name| !name.is_empty()));
    }
    found
}

/// The members of a list in braces, each from its start on.
fn members(list: &str) -> Vec<&str> {
    let (mut depth, mut starts) = (0_usize, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        match c {
            '{' | ',' if depth == 1 => starts.push(at + 1),
            '}' if depth == 0 => break,
            _ => {}
        }
    }
    starts.into_iter().map(|at| &list[at..]).collect()
}

/// A way from a folder back to itself: it stands at both ends.
fn circle(graph: &Graph, from: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![from.to_owned()]];
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop() {
        for to in graph.get(way.last()?).into_iter().flat_map(BTreeMap::keys) {
            let longer = [way.as_slice(), std::slice::from_ref(to)].concat();
            if to == from {
                return Some(longer);
            }
            if seen.insert(to.clone()) {
                ways.push(longer);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_paths_and_lists_and_not_in_comments_or_tests() {
        let text = "use crate::{\n    api::{self, kind},\n    model,\n};\nfn f() -> crate::source::X { g() } // crate::cli\n\
                    #[cfg(test)]\nmod tests {\n    use crate::proxy;\n}\n";
        let found: Vec<String> = named(text).into_iter().collect();
        assert_eq!(found, ["api", "model", "source"]);
        let modules = test_modules(Path::new("a/mod.rs"), "#[cfg(test)]\npub mod fixture;\nmod other;\n");
        assert_eq!(modules, [Path::new("a/fixture")]);
    }

    #[test]
    fn a_circle_over_several_steps_is_found() {
        let of = |arrows: &[(&str, &str)]| {
            let mut graph = Graph::new();
            for (from, to) in arrows {
                graph.entry((*from).to_owned()).or_default().insert((*to).to_owned(), "x.rs".to_owned());
            }
            graph
        };
        let round = of(&[("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]);
        assert_eq!(circle(&round, "a"), Some(["a", "b", "c", "a"].map(str::to_owned).to_vec()));
        assert_eq!(circle(&of(&[("a", "b"), ("b", "c"), ("a", "c")]), "a"), None);
    }
}
