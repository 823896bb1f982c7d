//! Which kernel modules does the program need before there is a root, and in which order? As the `modules.dep` says that depmod(8)
//! wrote.

use std::path::Path;

use super::obstacle::Obstacle;

/// The modules, by their names. A kernel may have them built in: then it has no file of that name.
const NEEDED: &[&str] = &["fuse", "overlay"];

/// Files for `/lib/modules/VERSION` of a data partition: their paths in there and their contents.
pub fn needed(directory: &Path) -> Result<Vec<(String, Vec<u8>)>, Obstacle> {
    let Ok(table) = std::fs::read_to_string(directory.join("modules.dep")) else {
        return Err(Obstacle::NoModules { path: directory.to_owned() });
    };
    let mut paths: Vec<&str> = Vec::new();
    let mut lines = String::new();
    for line in table.lines() {
        let Some((_, files)) = entry(line).filter(|(name, _)| NEEDED.contains(name)) else {
            continue;
        };
        lines.push_str(line);
        lines.push('\n');
        for path in files.filter(|path| is_beneath(path)) {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    let mut files = Vec::new();
    for path in paths {
        let from = directory.join(path);
        let content = std::fs::read(&from).map_err(|err| Obstacle::from_io("read", &from, err))?;
        files.push((path.to_owned(), content));
    }
    if !files.is_empty() {
        files.push(("modules.dep".to_owned(), lines.into_bytes()));
    }
    Ok(files)
}

/// The files of a module and of what it needs, in the order in which they have to be loaded (modules.dep(5)); none where it is no
/// module.
pub fn files<'a>(table: &'a str, module: &str) -> impl Iterator<Item = &'a str> {
    let found = table.lines().filter_map(entry).find(|(name, _)| *name == module);
    found.into_iter().flat_map(|(_, files)| files)
}

/// The name of the module that a line is of, and its files.
fn entry(line: &str) -> Option<(&str, impl Iterator<Item = &str>)> {
    let (path, needed) = line.split_once(':')?;
    Some((name(path), needed.split_whitespace().rev().chain([path])))
}

/// `fuse` of `kernel/fs/fuse/fuse.ko.xz`.
fn name(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split('.').next().unwrap_or(name)
}

fn is_beneath(path: &str) -> bool {
    path.split('/').all(|name| !matches!(name, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::{files, needed};

    #[test]
    fn takes_what_is_needed_and_what_that_needs() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("k")).unwrap();
        for name in ["k/fuse.ko", "k/a.ko", "k/b.ko.xz", "k/overlay.ko.xz", "k/cuse.ko"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        assert!(needed(dir.path()).is_err());
        let overlay = "k/overlay.ko.xz: k/b.ko.xz k/a.ko\n";
        let table =
            format!("k/cuse.ko: k/fuse.ko\nk/fuse.ko:\n{overlay}k/a.ko:\nk/b.ko.xz: k/a.ko\n");
        std::fs::write(dir.path().join("modules.dep"), table).unwrap();
        let found = needed(dir.path()).unwrap();
        let names: Vec<_> = found.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(names, ["k/fuse.ko", "k/a.ko", "k/b.ko.xz", "k/overlay.ko.xz", "modules.dep"]);
        assert_eq!(found[1].1, b"k/a.ko");
        assert_eq!(found[4].1, format!("k/fuse.ko:\n{overlay}").into_bytes());
        // All built in.
        std::fs::write(dir.path().join("modules.dep"), "k/a.ko:\n").unwrap();
        assert!(needed(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn what_a_module_needs_is_loaded_before_it() {
        let table = "k/cuse.ko: k/fuse.ko\nk/fuse.ko:\nu/overlay.ko.xz: k/b.ko.xz k/a.ko\n\
                     k/overlay2.ko:\nk/a.ko:\nk/b.ko.xz: k/a.ko\n";
        assert_eq!(files(table, "fuse").collect::<Vec<_>>(), ["k/fuse.ko"]);
        assert_eq!(
            files(table, "overlay").collect::<Vec<_>>(),
            ["k/a.ko", "k/b.ko.xz", "u/overlay.ko.xz"]
        );
        assert!(files(table, "erofs").next().is_none());
        assert!(files("", "fuse").next().is_none());
    }
}
