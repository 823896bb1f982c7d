//! Which further images belong to the root? Each is verified like the root's own, and must be made for it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::choose::{self, Candidate, Chosen, RELEASES, Voucher};
use super::config::Modes;
use super::overlay::copy_owner;
use super::workspace::unmount;
use super::{Failed, Site, needs, start};
use crate::error::Error;
use crate::format::digest::Digest;
use crate::fs::Tree;
use crate::fs::stack::Stack;
use crate::heal::corruption::OnCorruption;

/// What the name of such a file begins with; the extension's name comes behind.
const PREFIX: &str = "extension-release.";
/// Where a system says what it is (os-release(5)); the first that is there counts.
const OS_RELEASE: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];
/// The directory that lies over all. No extension is called so.
const FACE: &str = "@root";
/// Longest such file that is read.
const RELEASE_LEN_MAX: usize = 64 * 1024;

/// Extensions, and where they are mounted; each kind in the order in which it is looked into.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// Those that override the root's.
    above: Vec<(PathBuf, Tree)>,
    /// Those that add to it.
    below: Vec<(PathBuf, Tree)>,
}

impl Served {
    /// The directories of an overlay in which they and the root's own are one, the uppermost first.
    pub(super) fn lowers(&self, base: &Path, site: &Site<'_>) -> Result<Vec<PathBuf>, Failed> {
        let paths = |of: &[(PathBuf, Tree)]| of.iter().map(|(path, _)| path.clone()).collect();
        let (mut lowers, below): (Vec<_>, Vec<_>) = (paths(&self.above), paths(&self.below));
        if !lowers.is_empty() {
            // The uppermost directory's mode and owner are those of `/`. Whoever made an extension in a directory that
            // nobody else may enter does not mean that: an empty one with the root's own comes before.
            let face = site.workspace.place("extension", FACE)?;
            copy_owner(base, &face)?;
            lowers.insert(0, face);
        }
        lowers.push(base.to_owned());
        lowers.extend(below);
        Ok(lowers)
    }

    /// Unmounts them, where the root can do without. Their servers end by themselves.
    pub(super) fn leave(self) {
        for (path, _) in self.above.iter().chain(&self.below) {
            unmount(path);
        }
    }

    /// The images themselves, in the same order.
    pub(super) fn trees<'a>(&'a self, root: &'a Tree) -> Vec<&'a Tree> {
        let trees = |of: &'a [(PathBuf, Tree)]| of.iter().map(|(_, tree)| tree);
        trees(&self.above).chain([root]).chain(trees(&self.below)).collect()
    }
}

/// Mounts all extensions that can be trusted and that fit. Others are left out, also of what the modes say, and noted.
pub(super) fn serve_all(
    modes: &mut Modes,
    root: &Chosen,
    pins: &[Digest],
    site: &Site<'_>,
    degraded: &mut Vec<String>,
) -> Served {
    // What may be left out ends no machine.
    let on_corruption = match modes.on_corruption {
        OnCorruption::Eio => OnCorruption::Eio,
        _ => OnCorruption::Heal,
    };
    let mut seen = BTreeSet::new();
    let mut serve_each = |names: &mut Vec<String>, overrides: bool| {
        let mut served: Vec<(PathBuf, Tree)> = Vec::new();
        names.retain(|name| {
            // overlayfs takes nothing twice, and where it is found first is where it counts.
            if !seen.insert(name.clone()) {
                return false;
            }
            let above = overrides.then_some(served.as_slice());
            match serve(name, root, above, pins, on_corruption, site) {
                Ok((path, chosen)) => {
                    if chosen.voucher == Voucher::Nobody {
                        degraded.push(format!("extension `{name}` is not authenticated"));
                    }
                    served.push((path, chosen.tree));
                    true
                }
                Err(failed) => {
                    degraded.push(format!("extension `{name}` is left out: {failed}"));
                    false
                }
            }
        });
        served
    };
    let above = serve_each(&mut modes.extension_override, true);
    let below = serve_each(&mut modes.extension, false);
    Served { above, below }
}

/// Mounts one extension. `above` is for one that overrides the root's files: what overrides its own, perhaps nothing.
fn serve(
    name: &str,
    root: &Chosen,
    above: Option<&[(PathBuf, Tree)]>,
    pins: &[Digest],
    on_corruption: OnCorruption,
    site: &Site<'_>,
) -> Result<(PathBuf, Chosen), Failed> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !name.bytes().all(is_plain) || name.starts_with('.') {
        return Err(Failed::new("its name is not letters, digits, `.`, `_` and `-`"));
    }
    site.patience.left()?;
    let (path, pinned) = match name.parse() {
        Ok(digest) => (
            choose::find(&site.data.path, digest, site.patience),
            Some(digest).filter(|it| pins.contains(it)),
        ),
        Err(_) => (choose::named(&site.data.path, name), None),
    };
    let path = path.ok_or_else(|| Failed::new("there is no such image on the data partition"))?;
    let chosen = choose::open(&Candidate { path, pinned }, site.args, site.keys)?;
    fits(&chosen.tree, &root.tree)?;
    if let Some(above) = above {
        // The root was found to be whole as it is by itself; now some of what boot needs may be this one's.
        let mut trees: Vec<&Tree> = above.iter().map(|(_, tree)| tree).collect();
        trees.extend([&chosen.tree, &root.tree]);
        needs::read(Stack(&trees), site.init).map_err(Failed::new)?;
    }
    let at = site.workspace.place("extension", name)?;
    // A server that was killed leaves a mount that answers nothing.
    start::serve(&chosen, &at, None, on_corruption, site).inspect_err(|_| unmount(&at))?;
    Ok((at, chosen))
}

/// Whether an extension is made for this system: as systemd-sysext(8) has it, `ID` must be the same, or `_any`, and so must
/// `SYSEXT_LEVEL`, or where it has none `VERSION_ID`.
fn fits(extension: &Tree, root: &Tree) -> Result<(), Failed> {
    let own = release(extension)?.ok_or_else(|| {
        Failed::new(format_args!("it has no {RELEASES}/{PREFIX}NAME"))
            .hint("write there ID= and VERSION_ID= of the system that it is made for, or ID=_any")
    })?;
    let system = OS_RELEASE
        .iter()
        .find_map(|path| read(root, path).transpose())
        .transpose()?
        .unwrap_or_default();
    judge(&own, &system).map_err(Failed::new)
}

fn judge(own: &str, system: &str) -> Result<(), String> {
    let id = value(own, "ID").unwrap_or_default();
    if id == "_any" {
        return Ok(());
    }
    let field = if value(own, "SYSEXT_LEVEL").is_some() { "SYSEXT_LEVEL" } else { "VERSION_ID" };
    for name in ["ID", field] {
        let (wanted, found) =
            (value(own, name).unwrap_or_default(), value(system, name).unwrap_or_default());
        // A rolling system has no version, and an extension for it names none.
        if wanted != found {
            return Err(format!("it is made for {name}={wanted}, and this is {name}={found}"));
        }
    }
    Ok(())
}

/// The file of an extension that says what it is made for. There is one, whatever the image file is called.
fn release(tree: &Tree) -> Result<Option<String>, Failed> {
    let directory = match tree.resolve_following(RELEASES.as_bytes()) {
        Ok(resolved) => tree.directory(resolved.index)?,
        Err(Error::NotFound | Error::NotADirectory) => return Ok(None),
        Err(err) => return Err(err.into()),
    };
    for nth in 0..directory.len() {
        let name = directory.entry(nth)?.name;
        if name.starts_with(PREFIX.as_bytes()) {
            let path = format!("{RELEASES}/{}", String::from_utf8_lossy(&name));
            return Ok(read(tree, &path)?);
        }
    }
    Ok(None)
}

fn read(tree: &Tree, path: &str) -> Result<Option<String>, Error> {
    let index = match tree.resolve_following(path.as_bytes()) {
        Ok(resolved) => resolved.index,
        Err(Error::NotFound | Error::NotADirectory) => return Ok(None),
        Err(err) => return Err(err),
    };
    let mut text = vec![0; RELEASE_LEN_MAX];
    let len = tree.read_at(index, 0, &mut text)?;
    text.truncate(len);
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

/// The value of a variable in a file like os-release(5), without its quotes.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line =
        text.lines().rev().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))?;
    Some(line.trim_matches(['"', '\'']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extension_fits_one_system() {
        let debian = "NAME=\"Debian\"\nID=debian\nVERSION_ID=\"12\"\n";
        assert_eq!(judge("ID=debian\nVERSION_ID=12", debian), Ok(()));
        assert_eq!(judge("ID=_any", debian), Ok(()));
        for other in [
            "ID=debian\nVERSION_ID=13",
            "ID=fedora\nVERSION_ID=12",
            "",
            "ID=debian",
            "ID=debian\nSYSEXT_LEVEL=1",
        ] {
            assert!(judge(other, debian).is_err(), "{other}");
        }
        assert_eq!(judge("ID=arch", "ID=arch\n"), Ok(()));
        assert_eq!(
            judge("ID=x\nSYSEXT_LEVEL=2\nVERSION_ID=1", "ID=x\nSYSEXT_LEVEL=2\nVERSION_ID=7"),
            Ok(())
        );
    }
}
