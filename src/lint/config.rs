//! Is what the image says about its own state heard at boot?
//!
//! Only as far as a tree tells: which words there are is known to `boot`, which this room may not ask.

use serde::Deserialize;

use super::root::{Led, Root, join};
use super::systemd::is_writable;
use super::{Fault, Lint, Severity};
use crate::format::inode::Kind;

pub(super) const LINTS: &[Lint] = &[Lint {
    name: "ashlar-config",
    severity: Severity::Warning,
    about: "/etc/ashlar/ashlar.toml of the image cannot be read at boot, or names places that the tree lacks",
    remedy: "correct it; `bind` and `state-overlay` name places of the tree, with no symlink on the way",
    check: config,
}];

/// Where an image has its configuration.
const CONFIG: &[u8] = b"etc/ashlar/ashlar.toml";

/// What of a configuration names places of the tree.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Places {
    state_overlay: Vec<String>,
    bind: Vec<String>,
}

fn config(root: &Root<'_>) -> Vec<Fault> {
    let Some(text) = root.text(CONFIG) else { return Vec::new() };
    let places: Places = match toml::from_str(&String::from_utf8_lossy(&text)) {
        Ok(places) => places,
        Err(err) => {
            let why = format!("is ignored at boot: {}", err.message().escape_debug());
            return vec![Fault::new(CONFIG, why)];
        }
    };
    let wrong = |key: &str, path: &str, is_overlay: bool| {
        let obstacle = obstacle(root, path, is_overlay)?;
        let why = format!("names {} in `{key}`, which {obstacle}", path.escape_debug());
        Some(Fault::new(CONFIG, why))
    };
    let overlays =
        places.state_overlay.iter().filter_map(|path| wrong("state-overlay", path, true));
    let binds = places.bind.iter().filter_map(|path| wrong("bind", path, false));
    overlays.chain(binds).collect()
}

/// Why nothing can be mounted at a place at boot.
fn obstacle(root: &Root<'_>, path: &str, is_overlay: bool) -> Option<&'static str> {
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    let turns = names.iter().any(|name| matches!(*name, "." | ".."));
    if !path.starts_with('/') || names.is_empty() || turns {
        return Some("is not an absolute path without `..`: the file is ignored at boot");
    }
    let mut way: Vec<u8> = Vec::new();
    let mut last = Kind::Dir;
    for name in names {
        way = join(&way, name.as_bytes());
        match root.at(&way) {
            Led::To(place) if place.found.kind == Kind::Link => {
                return Some("is or leads through a symlink: nothing is mounted there at boot");
            }
            Led::To(place) => last = place.found.kind,
            // It is the machine's own, and may be there.
            Led::Nowhere if is_writable(&way) => return None,
            Led::Nowhere => return Some("the tree lacks: nothing is mounted there at boot"),
            Led::Unknown => return None,
        }
    }
    (is_overlay && last != Kind::Dir).then_some("is no directory: nothing lies over it at boot")
}
