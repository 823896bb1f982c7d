//! Which kernel modules does the program need before there is a root? Found by the `modules.dep` that depmod(8) wrote.

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
        let Some((path, dependencies)) = line.split_once(':') else { continue };
        if !NEEDED.contains(&name(path)) {
            continue;
        }
        lines.push_str(line);
        lines.push('\n');
        // Whatever has to be loaded before, first.
        let all = dependencies.split_whitespace().rev().chain([path]);
        for path in all.filter(|path| is_beneath(path)) {
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
    use super::needed;

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
}
