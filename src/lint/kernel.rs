//! Do the kernel's modules fit the kernel?

use super::root::{Led, Root, join};
use super::{Fault, Lint, Severity};
use crate::format::inode::Kind;

pub(super) const LINTS: &[Lint] = &[
    Lint {
        name: "kernel-modules",
        severity: Severity::Info,
        about: "there are modules for no kernel, or for several",
        remedy: "install the modules of the kernel that boots this image, and only those",
        check: modules,
    },
    Lint {
        name: "modules-dep",
        severity: Severity::Warning,
        about: "a kernel's modules have no modules.dep, without which none is loaded",
        remedy: "run `depmod --basedir TREE VERSION`",
        check: modules_dep,
    },
];

/// Most kernels that are named.
const NAMED_MAX: usize = 4;

/// Directories with modules, each by its path.
fn kernels(root: &Root<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let place = ["usr/lib/modules", "lib/modules"].into_iter().find_map(|path| {
        match root.follow(path.as_bytes()) {
            Led::To(place) if place.found.kind == Kind::Dir => Some(place.path),
            _ => None,
        }
    });
    let Some(place) = place else { return Vec::new() };
    let names = root.list(&place).into_iter().filter(|(_, kind)| *kind == Kind::Dir);
    names.map(|(name, _)| (join(&place, &name), name)).collect()
}

fn modules(root: &Root<'_>) -> Vec<Fault> {
    let kernels = kernels(root);
    let why = match kernels.as_slice() {
        [] => "holds no modules: the machine has those of its initramfs only".to_owned(),
        [_] => return Vec::new(),
        several => {
            let names = several.iter().take(NAMED_MAX);
            let names: Vec<_> = names.map(|(_, name)| name.escape_ascii().to_string()).collect();
            let more = if several.len() > NAMED_MAX { " …" } else { "" };
            format!("holds modules of {} kernels: {}{more}", several.len(), names.join(", "))
        }
    };
    vec![Fault::new("usr/lib/modules", why)]
}

fn modules_dep(root: &Root<'_>) -> Vec<Fault> {
    let lacks = |path: &Vec<u8>| matches!(root.follow(&join(path, b"modules.dep")), Led::Nowhere);
    let paths = kernels(root).into_iter().map(|(path, _)| path).filter(lacks);
    paths.map(|path| Fault::new(path, "has no modules.dep: no module is loaded")).collect()
}
