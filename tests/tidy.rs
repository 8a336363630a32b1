//! The shape of the tree, checked: imports run down the layers, no circle closes between modules,
//! files stay small, unsafe code stays out of where it has no business.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file, in lines: one job fits in less.
const LINES_MAX: usize = 800;

/// A module of the library by path, such as `["bdev", "leaf", "null"]`.
type ModulePath = Vec<String>;

struct Tree {
    files: BTreeMap<ModulePath, (PathBuf, String)>,
    /// What a folder module re-exports: (folder, name) to the module that has it.
    exports: BTreeMap<(ModulePath, String), ModulePath>,
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("source folder").map(|entry| entry.expect("entry")) {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The code of a file without comments, string contents, and the unit tests at its end.
fn code_of(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text);
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

fn module_path(file: &Path) -> ModulePath {
    let relative = file.strip_prefix(source_root()).expect("below src").with_extension("");
    let mut path: ModulePath =
        relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if path.last().is_some_and(|last| last == "mod" || last == "lib") {
        path.pop();
    }
    path
}

/// The paths that a `use` tree names: `a::{b, c::{d}}` gives `a::b` and `a::c::d`.
fn flatten(tree: &str, prefix: &[String], paths: &mut Vec<Vec<String>>) {
    let mut depth = 0;
    let mut start = 0;
    let mut parts = Vec::new();
    for (at, symbol) in tree.char_indices() {
        match symbol {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&tree[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[start..]);
    for part in parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()) {
        let (head, group) = match part.split_once('{') {
            Some((head, rest)) => (head, Some(rest.trim_end().trim_end_matches('}'))),
            None => (part, None),
        };
        let mut path = prefix.to_vec();
        path.extend(
            head.split(" as ")
                .next()
                .unwrap_or(head)
                .split("::")
                .map(|name| name.trim().to_string())
                .filter(|name| !name.is_empty()),
        );
        match group {
            Some(group) => {
                // Only the last brace of this part closes the group.
                flatten(group, &path, paths);
            }
            None => paths.push(path),
        }
    }
}

/// The `use` declarations of a file as paths; `public` picks the re-exports.
fn uses(code: &str, public: bool) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for statement in code.split(';') {
        let Some(at) = statement.rfind("use ").filter(|&at| {
            statement[..at].chars().next_back().is_none_or(|before| before.is_whitespace())
        }) else {
            continue;
        };
        let is_public = statement[..at].trim_end().ends_with("pub")
            || statement[..at].trim_end().ends_with("pub(crate)");
        if is_public == public || !public {
            flatten(&statement[at + 4..], &[], &mut paths);
        }
    }
    paths
}

/// Paths written out in code, without a `use`: `crate::a::b` and `super::a`.
fn inline_paths(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for prefix in ["crate::", "super::"] {
        for (at, _) in code.match_indices(prefix) {
            let path: String = code[at..]
                .chars()
                .take_while(|&symbol| symbol.is_alphanumeric() || symbol == '_' || symbol == ':')
                .collect();
            paths.push(
                path.split("::").filter(|part| !part.is_empty()).map(str::to_string).collect(),
            );
        }
    }
    paths
}

impl Tree {
    fn read() -> Tree {
        let mut found = Vec::new();
        rust_files(&source_root(), &mut found);
        let files: BTreeMap<_, _> = found
            .into_iter()
            .filter(|file| !file.starts_with(source_root().join("bin")))
            .map(|file| {
                let code = code_of(&fs::read_to_string(&file).expect("source file"));
                (module_path(&file), (file, code))
            })
            .collect();
        let mut tree = Tree { files, exports: BTreeMap::new() };
        let mut exports = BTreeMap::new();
        for (module, (_, code)) in &tree.files {
            for path in uses(code, true) {
                if let Some(name) = path.last().cloned()
                    && let Some(target) = tree.module_of(module, &path)
                {
                    exports.insert((module.clone(), name), target);
                }
            }
        }
        tree.exports = exports;
        tree
    }

    /// The module of this library that `path`, written in `from`, leads to.
    fn module_of(&self, from: &ModulePath, path: &[String]) -> Option<ModulePath> {
        let mut at = from.clone();
        let mut rest = path;
        match path.first().map(String::as_str) {
            Some("crate") => {
                at.clear();
                rest = &path[1..];
            }
            Some("self") => rest = &path[1..],
            Some("super") => {
                while rest.first().is_some_and(|part| part == "super") {
                    at.pop();
                    rest = &rest[1..];
                }
            }
            _ => {
                let mut child = at.clone();
                child.push(path.first()?.clone());
                self.files.contains_key(&child).then_some(())?;
            }
        }
        for part in rest {
            let mut child = at.clone();
            child.push(part.clone());
            if self.files.contains_key(&child) {
                at = child;
            } else {
                if let Some(target) = self.exports.get(&(at.clone(), part.clone())) {
                    at.clone_from(target);
                }
                break;
            }
        }
        self.files.contains_key(&at).then_some(at)
    }

    /// Which modules each module imports from. What `mod.rs` re-exports is no import.
    fn imports(&self) -> BTreeMap<ModulePath, BTreeSet<ModulePath>> {
        let mut imports = BTreeMap::new();
        for (module, (_, code)) in &self.files {
            let private: Vec<_> = {
                let public: BTreeSet<_> = uses(code, true).into_iter().collect();
                uses(code, false).into_iter().filter(|path| !public.contains(path)).collect()
            };
            let targets: BTreeSet<_> = private
                .iter()
                .chain(&inline_paths(code))
                .filter_map(|path| self.module_of(module, path))
                .filter(|target| target != module)
                .collect();
            imports.insert(module.clone(), targets);
        }
        imports
    }

    /// The layers, bottom first, in the order in which `lib.rs` lists them.
    fn layers(&self) -> Vec<String> {
        let (_, code) = &self.files[&ModulePath::new()];
        code.lines()
            .filter_map(|line| {
                line.trim().strip_prefix("pub mod ").or(line.trim().strip_prefix("mod "))
            })
            .map(|name| name.trim_end_matches(';').to_string())
            .collect()
    }
}

fn name(module: &[String]) -> String {
    if module.is_empty() { "lib".into() } else { module.join("::") }
}

#[test]
fn imports_run_down_the_layers() {
    let tree = Tree::read();
    let layers = tree.layers();
    assert!(layers.len() >= 4, "lib.rs lists the layers: {layers:?}");
    let rank = |module: &ModulePath| layers.iter().position(|layer| Some(layer) == module.first());
    let mut wrong = Vec::new();
    for (module, targets) in tree.imports() {
        for target in targets {
            if let (Some(from), Some(to)) = (rank(&module), rank(&target))
                && to > from
            {
                wrong.push(format!("{} imports from {}", name(&module), name(&target)));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that run up the layers {layers:?}:\n{}", wrong.join("\n"));
}

#[test]
fn no_circle_closes_between_modules() {
    let imports = Tree::read().imports();
    // Every module that can reach itself lies on a circle.
    let mut circles = Vec::new();
    for start in imports.keys() {
        let mut reached = BTreeMap::new();
        let mut open = vec![start.clone()];
        while let Some(module) = open.pop() {
            for target in &imports[&module] {
                if !reached.contains_key(target) {
                    reached.insert(target.clone(), module.clone());
                    open.push(target.clone());
                }
            }
        }
        if reached.contains_key(start) {
            let mut way = vec![name(start)];
            let mut at = reached[start].clone();
            while at != *start {
                way.push(name(&at));
                at = reached[&at].clone();
            }
            way.push(name(start));
            way.reverse();
            circles.push(way.join(" -> "));
        }
    }
    assert!(circles.is_empty(), "modules that import each other:\n{}", circles.join("\n"));
}

#[test]
fn files_are_small() {
    let mut long = Vec::new();
    let mut found = Vec::new();
    rust_files(&source_root(), &mut found);
    rust_files(&source_root().join("../perf/src"), &mut found);
    for file in found {
        let lines = fs::read_to_string(&file).expect("source file").lines().count();
        if lines > LINES_MAX {
            long.push(format!("{} has {lines} lines", file.display()));
        }
    }
    assert!(long.is_empty(), "files beyond {LINES_MAX} lines:\n{}", long.join("\n"));
}

#[test]
fn unsafe_code_stays_in_its_places() {
    // Control code has no reason for any.
    let safe = ["base", "rpc", "daemon", "cli"];
    for (module, (file, code)) in &Tree::read().files {
        let layer = module.first().map_or("", String::as_str);
        let has = code.contains("unsafe {") || code.contains("unsafe fn");
        assert!(!(has && safe.contains(&layer)), "unsafe code in {}", file.display());
    }
}

#[test]
fn the_parser_of_this_test_sees_imports() {
    let code = "use crate::a::{b, c::{d, e as f}};\npub use g::H;\nuse super::i;";
    let paths: Vec<String> = uses(code, false).iter().map(|path| path.join("::")).collect();
    assert_eq!(paths, ["crate::a::b", "crate::a::c::d", "crate::a::c::e", "g::H", "super::i"]);
    let public: Vec<String> = uses(code, true).iter().map(|path| path.join("::")).collect();
    assert_eq!(public, ["g::H"]);
}
