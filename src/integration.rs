//! Which files does a system need to boot from an image? All of them are carried in the program and written from here.

pub mod modules;
pub mod obstacle;
pub mod place;
pub mod program;
pub mod record;
pub mod work;

use place::Place;

/// Where the program lies, in a system and in its initramfs.
pub const PROGRAM: &str = "usr/lib/ashlar/ashlar";
/// Where the keys lie that images are signed by, in a system and in its initramfs.
pub const KEYS: &str = "etc/ashlar/keys";
/// Where the program lies on a data partition that is booted without an initramfs.
pub const INIT: &str = "ashlar/init";
/// What has to be on such a data partition: mount points, and where images and state go.
pub const DATA_DIRECTORIES: &[&str] = &["dev", "proc", "sys", "run", "newroot", "images", "state"];

/// What can be installed and removed by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The program and the keys, which all others need.
    Program,
    /// Hook and script of initramfs-tools (Debian, Ubuntu).
    InitramfsTools,
    /// Module of dracut (Fedora, SUSE and others).
    Dracut,
    /// Hooks of mkinitcpio (Arch).
    Mkinitcpio,
    /// Units of an initramfs in which systemd runs, and of the system behind it.
    Systemd,
    /// Policy module by which labels are taken from the image.
    Selinux,
    /// Program and modules on a data partition that is booted without an initramfs.
    Trampoline,
}

impl Part {
    /// All parts.
    pub const ALL: &[Part] = &[
        Part::Program,
        Part::InitramfsTools,
        Part::Dracut,
        Part::Mkinitcpio,
        Part::Systemd,
        Part::Selinux,
        Part::Trampoline,
    ];

    /// Its name, which is also that of its option.
    pub fn name(self) -> &'static str {
        match self {
            Part::Program => "program",
            Part::InitramfsTools => "initramfs-tools",
            Part::Dracut => "dracut",
            Part::Mkinitcpio => "mkinitcpio",
            Part::Systemd => "systemd",
            Part::Selinux => "selinux",
            Part::Trampoline => "trampoline",
        }
    }

    /// The part of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Part::ALL.iter().copied().find(|part| part.name() == name)
    }

    /// Paths any of which tells that a system has use for this part.
    fn signs(self) -> &'static [&'static str] {
        match self {
            Part::InitramfsTools => &["usr/share/initramfs-tools", "usr/sbin/update-initramfs"],
            Part::Dracut => &["usr/lib/dracut"],
            Part::Mkinitcpio => &["usr/lib/initcpio"],
            Part::Systemd => &["usr/lib/systemd/systemd"],
            Part::Program | Part::Selinux | Part::Trampoline => &[],
        }
    }
}

/// The parts that a system has use for, by what is found in it.
pub fn parts_for(place: &Place) -> Vec<Part> {
    let has_use = |part: &&Part| part.signs().iter().any(|path| place.has(path));
    Part::ALL.iter().filter(has_use).copied().collect()
}

/// A file that is carried in the program.
#[derive(Debug)]
pub struct Carried {
    /// Where it goes, without the slash in front.
    pub path: &'static str,
    /// Its permission bits.
    pub mode: u32,
    /// Who needs it.
    pub parts: &'static [Part],
    /// What is in it.
    pub content: Content<'static>,
}

/// What a file or a symlink holds.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// A file's bytes.
    File(&'a [u8]),
    /// A symlink's target.
    Link(&'a str),
}

/// A file of this directory, carried.
macro_rules! carried {
    ($name:literal) => {
        Content::File(include_bytes!(concat!("integration/files/", $name)))
    };
}

/// All files that are carried.
pub const CARRIED: &[Carried] = &[
    Carried {
        path: "usr/lib/ashlar/panic",
        mode: 0o755,
        parts: &[Part::Dracut, Part::Mkinitcpio, Part::Systemd],
        content: carried!("panic"),
    },
    Carried {
        path: "usr/share/initramfs-tools/hooks/ashlar",
        mode: 0o755,
        parts: &[Part::InitramfsTools],
        content: carried!("initramfs-tools/hooks/ashlar"),
    },
    Carried {
        path: "usr/share/initramfs-tools/scripts/local-bottom/ashlar",
        mode: 0o755,
        parts: &[Part::InitramfsTools],
        content: carried!("initramfs-tools/scripts/local-bottom/ashlar"),
    },
    Carried {
        path: "usr/lib/dracut/modules.d/90ashlar/module-setup.sh",
        mode: 0o755,
        parts: &[Part::Dracut],
        content: carried!("dracut/90ashlar/module-setup.sh"),
    },
    Carried {
        path: "usr/lib/dracut/modules.d/90ashlar/ashlar-emergency.sh",
        mode: 0o755,
        parts: &[Part::Dracut],
        content: carried!("dracut/90ashlar/ashlar-emergency.sh"),
    },
    Carried {
        path: "usr/lib/dracut/modules.d/90ashlar/ashlar-mount.sh",
        mode: 0o755,
        parts: &[Part::Dracut],
        content: carried!("dracut/90ashlar/ashlar-mount.sh"),
    },
    Carried {
        path: "usr/lib/dracut/modules.d/90ashlar/ashlar-root.service",
        mode: 0o644,
        parts: &[Part::Dracut],
        content: carried!("systemd/ashlar-root.service"),
    },
    Carried {
        path: "usr/lib/initcpio/install/ashlar",
        mode: 0o644,
        parts: &[Part::Mkinitcpio],
        content: carried!("mkinitcpio/install/ashlar"),
    },
    Carried {
        path: "usr/lib/initcpio/hooks/ashlar",
        mode: 0o644,
        parts: &[Part::Mkinitcpio],
        content: carried!("mkinitcpio/hooks/ashlar"),
    },
    Carried {
        path: "usr/lib/systemd/system/ashlar-root.service",
        mode: 0o644,
        parts: &[Part::Mkinitcpio, Part::Systemd],
        content: carried!("systemd/ashlar-root.service"),
    },
    Carried {
        path: "usr/lib/systemd/system/initrd-root-fs.target.requires/ashlar-root.service",
        mode: 0o777,
        parts: &[Part::Systemd],
        content: Content::Link("../ashlar-root.service"),
    },
    Carried {
        path: "usr/lib/systemd/system/emergency.service.d/50-ashlar.conf",
        mode: 0o644,
        parts: &[Part::Systemd],
        content: carried!("systemd/emergency.conf"),
    },
    Carried {
        path: "usr/lib/systemd/system-generators/ashlar-generator",
        mode: 0o755,
        parts: &[Part::Systemd],
        content: carried!("systemd/ashlar-generator"),
    },
    Carried {
        path: "usr/lib/systemd/system/ashlar-bless.service",
        mode: 0o644,
        parts: &[Part::Systemd],
        content: carried!("systemd/ashlar-bless.service"),
    },
    Carried {
        path: "usr/lib/systemd/system/ashlar-unhealthy.service",
        mode: 0o644,
        parts: &[Part::Systemd],
        content: carried!("systemd/ashlar-unhealthy.service"),
    },
    Carried {
        path: "usr/lib/systemd/system/ashlar-scrub.service",
        mode: 0o644,
        parts: &[Part::Systemd],
        content: carried!("systemd/ashlar-scrub.service"),
    },
    Carried {
        path: "usr/lib/systemd/system/ashlar-scrub.timer",
        mode: 0o644,
        parts: &[Part::Systemd],
        content: carried!("systemd/ashlar-scrub.timer"),
    },
    Carried {
        path: "usr/share/ashlar/selinux/ashlar.cil",
        mode: 0o644,
        parts: &[Part::Selinux],
        content: carried!("selinux/ashlar.cil"),
    },
];
