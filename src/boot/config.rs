//! Where does what changes go? Said by the image, by a file on the data partition, and by the kernel command line, in the
//! same words; who speaks later is believed more.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::format::digest::Digest;
use crate::heal::corruption::OnCorruption;

/// Longest configuration file that is read, in bytes.
pub const FILE_LEN_MAX: usize = 64 * 1024;

/// What lies over the whole root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Overlay {
    /// Nothing: `/` is read-only.
    #[default]
    No,
    /// Memory, gone at the next boot.
    Tmpfs {
        /// Its size, as tmpfs(5) has it; half of the memory when it is not said.
        size: Option<String>,
    },
    /// A directory on the data partition.
    Persistent,
    /// The same, emptied at each boot.
    PersistentClear,
    /// The same, put aside at each boot; one such backup is kept.
    PersistentMove,
}

impl FromStr for Overlay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            // init-overlay's words for "no", both of them.
            "no" | "disable" | "disabled" => Overlay::No,
            "tmpfs" => Overlay::Tmpfs { size: None },
            "persistent" => Overlay::Persistent,
            "persistent-clear" => Overlay::PersistentClear,
            "persistent-move" => Overlay::PersistentMove,
            _ => {
                let size = text.strip_prefix("tmpfs:size=").filter(|size| is_size(size));
                let size = size.ok_or("not one of no, tmpfs, tmpfs:size=SIZE, persistent, persistent-clear, persistent-move")?;
                Overlay::Tmpfs { size: Some(size.to_owned()) }
            }
        })
    }
}

impl fmt::Display for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Overlay::No => "no",
            Overlay::Tmpfs { size: None } => "tmpfs",
            Overlay::Tmpfs { size: Some(size) } => return write!(f, "tmpfs:size={size}"),
            Overlay::Persistent => "persistent",
            Overlay::PersistentClear => "persistent-clear",
            Overlay::PersistentMove => "persistent-move",
        })
    }
}

/// A size as tmpfs(5) takes it: a number, perhaps with k, m, g or %.
fn is_size(text: &str) -> bool {
    let digits = text.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G', '%']);
    !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && text.len().saturating_sub(digits.len()) <= 1
}

/// Makes an enumeration of single words that can be read and shown.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $item:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub enum $name { $($(#[$item_doc])* $item,)* }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($name::$item),)*
                    _ => Err(format!("not one of {}", [$($word),*].join(", "))),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($name::$item => $word,)* })
            }
        }
    };
}

words! {
    /// What `/etc` is.
    Etc {
        /// The image's; where something lies over the whole root, that is over `/etc`, too.
        #[default]
        Ro = "ro",
        /// A directory on the data partition, one for each image, into which local changes are carried over.
        Merge = "merge",
        /// The image's with memory over it.
        Transient = "transient",
        /// The image's with a directory of the data partition over it.
        Overlay = "overlay",
    }
}

words! {
    /// What `/var` is.
    Var {
        /// A directory on the data partition, filled from the image once.
        #[default]
        Bind = "bind",
        /// Memory, filled from the image at each boot.
        Transient = "transient",
        /// The image's.
        Ro = "ro",
    }
}

/// What one speaker says; what he does not speak of is nothing.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// What lies over the whole root.
    #[serde(deserialize_with = "from_text")]
    pub overlay: Option<Overlay>,
    /// What `/etc` is.
    #[serde(deserialize_with = "from_text")]
    pub etc: Option<Etc>,
    /// What `/var` is.
    #[serde(deserialize_with = "from_text")]
    pub var: Option<Var>,
    /// Directories that get a directory of the data partition over them, in which the image wins when it changes.
    pub state_overlay: Option<Vec<String>>,
    /// Files and directories that are the data partition's.
    pub bind: Option<Vec<String>>,
    /// Images whose files are added to the root's.
    pub extension: Option<Vec<String>>,
    /// Images whose files replace the root's; the first of them wins.
    pub extension_override: Option<Vec<String>>,
    /// What is done about bytes that are not what was sealed.
    #[serde(deserialize_with = "from_text")]
    pub on_corruption: Option<OnCorruption>,
}

fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

impl Config {
    /// Reads a configuration file.
    pub fn from_toml(text: &str) -> Result<Config, String> {
        let config: Config =
            toml::from_str(text).map_err(|err| err.to_string().trim().to_owned())?;
        let lists = [&config.state_overlay, &config.bind];
        if let Some(wrong) = lists.into_iter().flatten().flatten().find(|path| !is_place(path)) {
            return Err(format!("`{wrong}` is not an absolute path without `..`"));
        }
        Ok(config)
    }

    /// Takes one word of the kernel command line, without its `ashlar.`.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "overlay" => self.overlay = Some(value.parse()?),
            "etc" => self.etc = Some(value.parse()?),
            "var" => self.var = Some(value.parse()?),
            "state-overlay" => self.state_overlay = Some(places(value)?),
            "bind" => self.bind = Some(places(value)?),
            "extension" => self.extension = Some(list(value)),
            "extension-override" => self.extension_override = Some(list(value)),
            "on-corruption" => self.on_corruption = Some(value.parse()?),
            _ => return Err("no such word".to_owned()),
        }
        Ok(())
    }

    /// What is left when somebody speaks who is believed more.
    #[must_use]
    pub fn overruled_by(self, other: Config) -> Config {
        Config {
            overlay: other.overlay.or(self.overlay),
            etc: other.etc.or(self.etc),
            var: other.var.or(self.var),
            state_overlay: other.state_overlay.or(self.state_overlay),
            bind: other.bind.or(self.bind),
            extension: other.extension.or(self.extension),
            extension_override: other.extension_override.or(self.extension_override),
            on_corruption: other.on_corruption.or(self.on_corruption),
        }
    }

    /// Root digests that name extensions.
    pub fn extension_digests(&self) -> Vec<Digest> {
        let names = [&self.extension, &self.extension_override].into_iter().flatten().flatten();
        names.filter_map(|name| name.parse().ok()).collect()
    }

    /// What is done in the end.
    pub fn modes(self) -> Modes {
        Modes {
            overlay: self.overlay.unwrap_or_default(),
            etc: self.etc.unwrap_or_default(),
            var: self.var.unwrap_or_default(),
            state_overlay: self.state_overlay.unwrap_or_default(),
            bind: self.bind.unwrap_or_default(),
            extension: self.extension.unwrap_or_default(),
            extension_override: self.extension_override.unwrap_or_default(),
            on_corruption: self.on_corruption.unwrap_or_default(),
        }
    }
}

/// Where everything that changes goes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Modes {
    /// What lies over the whole root.
    #[serde(serialize_with = "as_text")]
    pub overlay: Overlay,
    /// What `/etc` is.
    #[serde(serialize_with = "as_text")]
    pub etc: Etc,
    /// What `/var` is.
    #[serde(serialize_with = "as_text")]
    pub var: Var,
    /// Directories with a state overlay.
    pub state_overlay: Vec<String>,
    /// Paths of the data partition.
    pub bind: Vec<String>,
    /// Images whose files are added.
    pub extension: Vec<String>,
    /// Images whose files replace others.
    pub extension_override: Vec<String>,
    /// What is done about bytes that are not what was sealed.
    #[serde(serialize_with = "as_text")]
    pub on_corruption: OnCorruption,
}

fn as_text<S: serde::Serializer, T: fmt::Display>(value: &T, out: S) -> Result<S::Ok, S::Error> {
    out.collect_str(value)
}

impl Modes {
    /// Whether the data partition is written to.
    pub fn write_data(&self) -> bool {
        !matches!(self.overlay, Overlay::No | Overlay::Tmpfs { .. })
            || matches!(self.etc, Etc::Merge | Etc::Overlay)
            || self.var == Var::Bind
            || !self.state_overlay.is_empty()
            || !self.bind.is_empty()
    }

    /// Whether overlayfs is needed.
    pub fn needs_overlayfs(&self) -> bool {
        self.overlay != Overlay::No
            || matches!(self.etc, Etc::Transient | Etc::Overlay)
            || !self.state_overlay.is_empty()
            || self.has_extensions()
    }

    /// Whether the root is more than one image.
    pub fn has_extensions(&self) -> bool {
        !self.extension.is_empty() || !self.extension_override.is_empty()
    }
}

/// Words between commas.
pub(super) fn list(text: &str) -> Vec<String> {
    text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Places in the root, between commas.
fn places(text: &str) -> Result<Vec<String>, String> {
    let places = list(text);
    match places.iter().find(|path| !is_place(path)) {
        Some(wrong) => Err(format!("`{wrong}` is not an absolute path without `..`")),
        None => Ok(places),
    }
}

/// Whether this is a place below the root: absolute, not the root itself, and it never turns back.
fn is_place(path: &str) -> bool {
    // A comma or colon would be cut by the kernel's own options of overlayfs.
    path.starts_with('/')
        && !path.contains([',', ':', '\\', '\0'])
        && path.split('/').any(|name| !name.is_empty())
        && path.split('/').all(|name| name != ".." && name != ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_it_all() {
        let text = "overlay = \"tmpfs:size=25%\"\netc = \"merge\"\nvar = \"transient\"\nstate-overlay = [\"/opt\"]\n\
                    bind = [\"/etc/hostname\"]\nextension = [\"a\"]\nextension-override = [\"b\"]\n";
        let modes = Config::from_toml(text).unwrap().modes();
        assert_eq!(modes.overlay, Overlay::Tmpfs { size: Some("25%".into()) });
        assert_eq!((modes.etc, modes.var), (Etc::Merge, Var::Transient));
        assert_eq!(modes.state_overlay, ["/opt"]);
        assert_eq!(modes.bind, ["/etc/hostname"]);
        assert!(modes.has_extensions() && modes.needs_overlayfs() && modes.write_data());
    }

    #[test]
    fn what_is_documented_is_understood() {
        let mut counts = Vec::new();
        for block in include_str!("../../format-spec/BOOT.md").split("```toml\n").skip(1) {
            let text = block.split("```").next().unwrap();
            let modes = Config::from_toml(text).unwrap().modes();
            let mut names: Vec<_> = modes.bind.iter().collect();
            names.dedup();
            counts.push(names.len());
        }
        assert_eq!(counts, [2, 19]);
    }

    #[test]
    fn a_wrong_file_is_refused_with_the_place() {
        for text in [
            "overlay = \"yes\"",
            "etc = 3",
            "colour = \"blue\"",
            "bind = [\"etc\"]",
            "bind = [\"/etc/../root\"]",
            "state-overlay = [\"/\"]",
            "overlay = \"tmpfs:size=\"",
            "overlay = \"tmpfs:size=1G,mode=777\"",
            "on-corruption = \"ignore\"",
        ] {
            assert!(Config::from_toml(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_command_line_is_believed_more_than_the_file() {
        let file = Config::from_toml("overlay = \"persistent\"\netc = \"merge\"").unwrap();
        let mut line = Config::default();
        line.set("overlay", "disable").unwrap();
        line.set("on-corruption", "restart").unwrap();
        let modes = file.overruled_by(line).modes();
        assert_eq!(modes.on_corruption, OnCorruption::Restart);
        assert_eq!((modes.overlay, modes.etc, modes.var), (Overlay::No, Etc::Merge, Var::Bind));
    }

    #[test]
    fn words_come_back_as_they_went_in() {
        for word in
            ["no", "tmpfs", "tmpfs:size=5m", "persistent", "persistent-clear", "persistent-move"]
        {
            assert_eq!(word.parse::<Overlay>().unwrap().to_string(), word);
        }
        for word in ["ro", "merge", "transient", "overlay"] {
            assert_eq!(word.parse::<Etc>().unwrap().to_string(), word);
        }
    }

    #[test]
    fn nothing_is_written_unless_something_is_to_stay() {
        let mut modes = Config::default().modes();
        assert!(modes.write_data());
        modes.var = Var::Transient;
        assert!(!modes.write_data() && !modes.needs_overlayfs());
        modes.overlay = Overlay::Tmpfs { size: None };
        assert!(!modes.write_data());
    }
}
