//! Would all machines with this image be one and the same, or let in nobody, or everybody?

use super::root::{Led, Root, join};
use super::{Fault, Lint, Severity};
use crate::format::inode::Kind;

pub(super) const LINTS: &[Lint] = &[
    Lint {
        name: "private-key",
        severity: Severity::Fatal,
        about: "a secret key lies among the public ones: who has the image could sign the next",
        remedy: "take it out, and make a new pair if the image has left this machine",
        check: private_keys,
    },
    Lint {
        name: "machine-id",
        severity: Severity::Warning,
        about: "/etc/machine-id is missing, or is one machine's own",
        remedy: "make it an empty file, or one that holds the word `uninitialized`",
        check: machine_id,
    },
    Lint {
        name: "ssh-host-key",
        severity: Severity::Warning,
        about: "the image holds an SSH host key, which every machine would have",
        remedy: "take it out, and let each machine make its own where it is kept (HostKey below /var)",
        check: ssh_host_keys,
    },
    Lint {
        name: "hostname",
        severity: Severity::Info,
        about: "/etc/hostname is set, and every machine has that name",
        remedy: "leave the file out to have names from DHCP or `localhost`, or keep it as state (ashlar.bind=/etc/hostname)",
        check: hostname,
    },
    Lint {
        name: "login",
        severity: Severity::Info,
        about: "no account has a password or an SSH key: nobody can log in",
        remedy: "set a password, add a key to ~/.ssh/authorized_keys, or mean it",
        check: login,
    },
];

/// Places where keys for images lie.
const KEY_DIRECTORIES: [&str; 2] = ["etc/ashlar", "root/.minisign"];
/// Longer files are no keys.
const KEY_LEN_MAX: usize = 64 * 1024;

fn private_keys(root: &Root<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for directory in KEY_DIRECTORIES {
        root.walk(directory.as_bytes(), &mut |path, kind| {
            if kind == Kind::File
                && root.read(path, 0, KEY_LEN_MAX).is_some_and(|text| is_secret_key(&text))
            {
                faults.push(Fault::new(path, "is a secret key"));
            }
            true
        });
    }
    faults
}

/// Whether a text is a secret key of minisign's, under whatever comment, or one in PEM.
fn is_secret_key(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| {
        let line = line.trim_ascii();
        let contains = |word: &[u8]| line.windows(word.len()).any(|part| part == word);
        // `Ed`, how it is encrypted (`Sc`, or not at all) and `B2`; the rest has 152 bytes more.
        let is_minisign = line.starts_with(b"RWRTY0Iy") || line.starts_with(b"RWQAAEIy");
        (is_minisign && line.len() > 200)
            || (line.starts_with(b"untrusted comment:") && contains(b"secret key"))
            || (line.starts_with(b"-----BEGIN ") && contains(b"PRIVATE KEY-----"))
    })
}

fn machine_id(root: &Root<'_>) -> Vec<Fault> {
    let why = match root.follow(b"etc/machine-id") {
        Led::Nowhere => "is missing: systemd cannot have one as long as /etc is read-only",
        Led::Unknown => return Vec::new(),
        Led::To(place) if place.found.kind != Kind::File => "is no regular file",
        Led::To(place) => match root.read(&place.path, 0, 64).as_deref().map(<[u8]>::trim_ascii) {
            None | Some(b"" | b"uninitialized") => return dbus_machine_id(root),
            Some(id) if id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit) => {
                "holds the identity of one machine, which every machine would have"
            }
            Some(_) => "holds no machine id, and is not empty either",
        },
    };
    vec![Fault::new("etc/machine-id", why)]
}

/// D-Bus has one of its own where systemd's is not linked to.
fn dbus_machine_id(root: &Root<'_>) -> Vec<Fault> {
    let path = b"var/lib/dbus/machine-id";
    match root.at(path) {
        Led::To(place) if place.found.kind == Kind::File && place.found.size > 0 => {
            let why = "holds the identity of one machine, which every machine would have";
            vec![Fault::new(place.path, why)]
        }
        _ => Vec::new(),
    }
}

fn ssh_host_keys(root: &Root<'_>) -> Vec<Fault> {
    let is_key = |name: &[u8]| name.starts_with(b"ssh_host_") && name.ends_with(b"_key");
    let names = root.list(b"etc/ssh").into_iter().filter(|(name, _)| is_key(name));
    let paths = names.map(|(name, _)| join(b"etc/ssh", &name));
    paths
        .filter(|path| matches!(root.at(path), Led::To(place) if place.found.size > 0 && place.found.kind == Kind::File))
        .map(|path| Fault::new(path, "is a host key that every machine would have"))
        .collect()
}

fn hostname(root: &Root<'_>) -> Vec<Fault> {
    let text = root.text(b"etc/hostname").unwrap_or_default();
    let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    match lines.find(|line| !line.is_empty() && !line.starts_with(b"#")) {
        None | Some(b"localhost" | b"(none)") => Vec::new(),
        Some(name) => {
            let why = format!("names every machine `{}`", name.escape_ascii());
            vec![Fault::new("etc/hostname", why)]
        }
    }
}

fn login(root: &Root<'_>) -> Vec<Fault> {
    let Some(shadow) = root.text(b"etc/shadow") else { return Vec::new() };
    let mut entries = shadow.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    // An empty field lets in without any password.
    let is_open = |hash: &[u8]| !hash.starts_with(b"!") && !hash.starts_with(b"*");
    if entries.any(|entry| entry.split(|byte| *byte == b':').nth(1).is_some_and(is_open)) {
        return Vec::new();
    }
    let homes = root.list(b"home").into_iter().map(|(name, _)| join(b"home", &name));
    let mut homes = std::iter::once(b"root".to_vec()).chain(homes);
    let has_key = |home: Vec<u8>| {
        let path = join(&home, b".ssh/authorized_keys");
        // What may not be looked at may be a way in.
        matches!(root.follow(&path), Led::Unknown)
            || matches!(root.follow(&path), Led::To(place) if place.found.size > 0)
    };
    if homes.any(has_key) {
        return Vec::new();
    }
    vec![Fault::new(
        "etc/shadow",
        "locks every account, and there is no SSH key: nobody can log in",
    )]
}
