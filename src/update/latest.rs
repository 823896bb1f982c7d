//! How does a machine learn that there is a new image? From a few lines of signed text, which are always at the same address
//! (UPDATE.md, "The latest manifest").

use std::fmt::Write;

use super::failed::Failed;
use crate::format::digest::Digest;
use crate::trust::{self, Key};

/// What a manifest begins with.
const FIRST_LINE: &str = "ashlar latest\n";
/// Longest manifest in bytes: as much as an address may need, and nothing that is worth a second read.
pub const LEN_MAX: usize = 8 << 10;
/// Longest name in bytes.
pub const NAME_MAX: usize = 64;
/// What stands in an address besides letters and digits (RFC 3986). What stands behind `#` never reaches a server.
const URL_MARKS: &[u8] = b"-._~:/?[]@!$&'()*+,;=%";

/// The newest image of a name.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Latest {
    /// Which kind of machine it is for: one word of `A-Z a-z 0-9 . _ -`, which does not begin with a dot.
    pub name: String,
    /// Its version.
    pub image_version: u64,
    /// Its root digest.
    pub root_digest: Digest,
    /// Its length with its signatures.
    pub bytes: u64,
    /// Where it is: a URL, or a path that starts where the manifest is.
    pub url: String,
}

/// Whether a file that begins with these bytes may be a manifest.
pub fn is_manifest(first_bytes: &[u8]) -> bool {
    first_bytes.starts_with(FIRST_LINE.as_bytes())
}

impl Latest {
    /// The manifest's text, which is what is signed.
    pub fn encode(&self) -> Result<String, Failed> {
        self.check()?;
        let Latest { name, image_version, root_digest, bytes, url } = self;
        let mut text = FIRST_LINE.to_owned();
        let wrote = write!(
            text,
            "name {name}\nimage-version {image_version}\nroot-digest {root_digest}\nbytes {bytes}\nurl {url}\n"
        );
        wrote.map_err(Failed::new)?;
        if text.len() > LEN_MAX {
            return Err(too_long(text.len()));
        }
        Ok(text)
    }

    /// What a text says. There is one text for each manifest: what is not exactly as [`encode`](Latest::encode) writes it, is none.
    pub fn decode(text: &[u8]) -> Result<Latest, Failed> {
        if !is_manifest(text) {
            return Err(Failed::new("it does not begin with the line `ashlar latest`")
                .hint("an image is installed by its own address"));
        }
        if text.len() > LEN_MAX {
            return Err(too_long(text.len()));
        }
        let text = std::str::from_utf8(text).map_err(|err| wrong(&err))?;
        let mut lines = text.split_inclusive('\n').skip(1);
        let mut value = |key: &str| {
            let line = lines.next().unwrap_or_default();
            let value = line.strip_prefix(key).and_then(|rest| rest.strip_prefix(' '));
            value
                .and_then(|value| value.strip_suffix('\n'))
                .ok_or_else(|| wrong(&format_args!("there is no line `{key}` where one should be")))
        };
        let latest = Latest {
            name: value("name")?.to_owned(),
            image_version: number(value("image-version")?)?,
            root_digest: digest(value("root-digest")?)?,
            bytes: number(value("bytes")?)?,
            url: value("url")?.to_owned(),
        };
        if lines.next().is_some() {
            return Err(wrong(&"it goes on behind its last line"));
        }
        latest.check()?;
        Ok(latest)
    }

    /// What a text says that one of the keys has signed. Nothing of any other is looked at.
    pub fn verify(text: &[u8], signatures: &[Vec<u8>], keys: &[Key]) -> Result<Latest, Failed> {
        let signed = std::str::from_utf8(text).ok().filter(|text| {
            signatures.iter().any(|signature| trust::is_signed(text, signature, keys))
        });
        match signed {
            Some(text) => Latest::decode(text.as_bytes()),
            None if signatures.is_empty() => Err(Failed::new("the manifest is not signed")
                .hint("its signature is expected beside it, with `.minisig` behind its name")),
            None => {
                let count = signatures.len();
                let message =
                    format_args!("none of the manifest's {count} signatures is by a known key");
                Err(Failed::new(message).hint(
                    "check the key; the manifest may have been signed by another one, or changed since",
                ))
            }
        }
    }

    fn check(&self) -> Result<(), Failed> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let name = self.name.as_bytes();
        if !(1..=NAME_MAX).contains(&name.len())
            || name.starts_with(b".")
            || !name.iter().all(|byte| is_name(*byte))
        {
            return Err(wrong(&format_args!(
                "a name has 1 to {NAME_MAX} letters, digits, dots, hyphens and underscores, and no dot first"
            )));
        }
        let is_url = |byte: u8| byte.is_ascii_alphanumeric() || URL_MARKS.contains(&byte);
        if self.url.is_empty() || !self.url.bytes().all(is_url) {
            return Err(wrong(
                &"its URL has characters that no URL has: write them as %20 and so on",
            ));
        }
        Ok(())
    }
}

fn wrong(what: &dyn std::fmt::Display) -> Failed {
    Failed::new(format_args!("the manifest cannot be used: {what}"))
}

fn too_long(len: usize) -> Failed {
    wrong(&format_args!("it has {len} bytes, {LEN_MAX} are enough"))
}

/// A number as it is written here: no sign, no zero in front.
fn number(text: &str) -> Result<u64, Failed> {
    let number = text.parse::<u64>().ok().filter(|number| number.to_string() == text);
    number.ok_or_else(|| wrong(&"a number is none"))
}

/// A digest as it is written here, in lower case.
fn digest(text: &str) -> Result<Digest, Failed> {
    let digest: Digest = text.parse().map_err(|err| wrong(&err))?;
    if digest.to_string() == text { Ok(digest) } else { Err(wrong(&"its digest has capitals")) }
}

/// The address of an image whose manifest is at `manifest_url`: an `http` or `https` URL, or the path of a file.
pub fn resolve(manifest_url: &str, url: &str) -> Result<String, Failed> {
    let refuse = |why: &str| Failed::new(format_args!("the address {url:?} of the image {why}"));
    if after_scheme(url).is_some_and(has_host) {
        return Ok(url.to_owned());
    }
    let (root, path) = match after_scheme(manifest_url) {
        Some(rest) if has_host(rest) => {
            // Where the host ends; what is behind the path says nothing of where it leads.
            let rest = rest.split(['?', '#']).next().unwrap_or_default();
            let host = rest.find('/').map_or(rest, |end| rest.get(..end).unwrap_or_default());
            let scheme_len = manifest_url.find("://").map_or(0, |at| at.saturating_add(3));
            let root_len = scheme_len.saturating_add(host.len());
            let path = rest.get(host.len()..).unwrap_or_default();
            (manifest_url.get(..root_len).unwrap_or_default(), path)
        }
        _ if manifest_url.contains("://") => {
            return Err(Failed::new(format_args!("{manifest_url} is neither http nor https")));
        }
        _ => ("", manifest_url),
    };
    let is_file = root.is_empty();
    let (names, query) = match url.find('?').filter(|_| !is_file) {
        Some(at) => url.split_at(at),
        None => (url, ""),
    };
    if names.split('/').next().is_some_and(|first| first.contains(':')) {
        return Err(refuse("is neither http, nor https, nor a path"));
    }
    let (mut base, names) = match names.strip_prefix('/') {
        Some(names) => ("/", names),
        None => (path.rfind('/').map_or("", |end| path.get(..=end).unwrap_or_default()), names),
    };
    // A URL of a host alone has an empty path, and means this one.
    if !is_file && base.is_empty() {
        base = "/";
    }
    let mut names: Vec<&str> = names.split('/').collect();
    let mut kept: Vec<&str> = Vec::new();
    let Some(file) = names.pop().filter(|file| !file.is_empty() && !is_dots(file)) else {
        return Err(refuse("names no file"));
    };
    for name in names {
        match name {
            "" => return Err(refuse("has an empty name in it")),
            "." => {}
            ".." if kept.pop().is_some() => {}
            ".." => base = parent(base).ok_or_else(|| refuse("leads out of where it starts"))?,
            name if is_dots(name) => return Err(refuse("has dots that are hidden")),
            name => kept.push(name),
        }
    }
    kept.push(file);
    Ok(format!("{root}{base}{}{query}", kept.join("/")))
}

/// What follows `http://` or `https://`.
fn after_scheme(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let known = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    known.then_some(rest)
}

fn has_host(rest: &str) -> bool {
    !rest.is_empty() && !rest.starts_with(['/', '?', '#', ':'])
}

/// Whether a name is a dot or two, which a server may know in its other spelling, too.
fn is_dots(name: &str) -> bool {
    matches!(name.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..")
}

/// The directory above one, both with a slash at the end; `None` where that is not known.
fn parent(directory: &str) -> Option<&str> {
    let inner = directory.strip_suffix('/')?;
    let start = inner.rfind('/').map_or(0, |at| at.saturating_add(1));
    let (above, name) = inner.split_at_checked(start)?;
    (!name.is_empty() && !is_dots(name)).then_some(above)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn latest() -> Latest {
        Latest {
            name: "kiosk-amd64".to_owned(),
            image_version: 7,
            root_digest: Digest([0xab; 32]),
            bytes: 1_234_567,
            url: "7/root.img".to_owned(),
        }
    }

    fn any_latest() -> impl Strategy<Value = Latest> {
        let name = "[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}";
        let url = "[A-Za-z0-9._~:/?@!$&'()*+,;=%-]{1,200}";
        (name, any::<u64>(), any::<[u8; 32]>(), any::<u64>(), url).prop_map(
            |(name, image_version, root_digest, bytes, url)| Latest {
                name,
                image_version,
                root_digest: Digest(root_digest),
                bytes,
                url,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(latest in any_latest()) {
            let text = latest.encode().unwrap();
            prop_assert!(is_manifest(text.as_bytes()));
            prop_assert_eq!(Latest::decode(text.as_bytes()).unwrap(), latest);
        }

        /// Whatever is accepted is the one text for what it says.
        #[test]
        fn a_text_that_is_changed_is_refused_or_canonical(
            latest in any_latest(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        ) {
            let mut text = latest.encode().unwrap().into_bytes();
            for (at, byte) in changes {
                let at = at.index(text.len());
                text[at] = byte;
            }
            if let Some(cut) = cut {
                text.truncate(cut.index(text.len()));
            }
            if let Ok(read) = Latest::decode(&text) {
                prop_assert_eq!(read.encode().unwrap().into_bytes(), text);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(rest in prop::collection::vec(any::<u8>(), 0..300), is_begun in any::<bool>()) {
            let mut text = if is_begun { FIRST_LINE.as_bytes().to_vec() } else { Vec::new() };
            text.extend(rest);
            prop_assert!(Latest::decode(&text).is_err());
        }

        #[test]
        fn no_address_makes_it_panic(manifest in ".{0,40}", url in "([a.]|\\.\\.|/|:|\\?|%2e|http://|.){0,12}") {
            drop(resolve(&manifest, &url));
        }

        /// Wherever it leads, it stays on the host, and the path has no dots left for a server to follow.
        #[test]
        fn a_path_stays_on_its_host(url in "([ab]|\\.|\\.\\.|/|%2E){1,12}") {
            if let Ok(address) = resolve("https://host/a/b/latest", &url) {
                let path = address.strip_prefix("https://host/").unwrap();
                prop_assert!(!path.split('/').any(|name| name.is_empty() || is_dots(name)), "{}", address);
            }
        }
    }

    #[test]
    fn the_text_is_what_update_md_says() {
        let digest = "ab".repeat(32);
        let text = format!(
            "ashlar latest\nname kiosk-amd64\nimage-version 7\nroot-digest {digest}\nbytes 1234567\nurl 7/root.img\n"
        );
        assert_eq!(latest().encode().unwrap(), text);
    }

    #[test]
    fn nothing_but_the_six_lines_is_a_manifest() {
        let text = latest().encode().unwrap();
        let with = |from: &str, to: &str| text.replacen(from, to, 1);
        for text in [
            String::new(),
            "ashlar latest".to_owned(),
            "ashlar latest\n".to_owned(),
            with("ashlar latest", "ashlar image"),
            with("\n", "\r\n"),
            with("name kiosk-amd64\n", ""),
            with("name kiosk-amd64\nimage-version 7\n", "image-version 7\nname kiosk-amd64\n"),
            with("name ", "name  "),
            with("kiosk", "ki osk"),
            with("kiosk", ".kiosk"),
            with("kiosk-amd64", ""),
            with("kiosk-amd64", &"k".repeat(65)),
            with("version 7", "version 07"),
            with("version 7", "version +7"),
            with("version 7", "version 18446744073709551616"),
            with("ab", "AB"),
            with("ab", ""),
            with("7/root.img", ""),
            with("7/root.img", "7/ro ot.img"),
            with("7/root.img", "7/root.img\u{1b}[2J"),
            with("7/root.img", "7/root.im\u{e9}"),
            with("7/root.img\n", "7/root.img"),
            text.clone() + "\n",
            text.clone() + "more x\n",
            with("7/root.img", &"a".repeat(LEN_MAX)),
        ] {
            let said = Latest::decode(text.as_bytes()).unwrap_err().to_string();
            assert!(said.len() < 200 && !said.contains('\u{1b}'), "{said}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_written() {
        for wrong in [
            Latest { name: String::new(), ..latest() },
            Latest { name: "a\nb".to_owned(), ..latest() },
            Latest { name: "..".to_owned(), ..latest() },
            Latest { url: String::new(), ..latest() },
            Latest { url: "a\nb".to_owned(), ..latest() },
            Latest { url: "a b".to_owned(), ..latest() },
            Latest { url: "a".repeat(LEN_MAX), ..latest() },
        ] {
            assert!(wrong.encode().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_address_is_resolved_where_the_manifest_is() {
        for (manifest, url, expected) in [
            ("https://host/a/latest", "root.img", "https://host/a/root.img"),
            ("https://host/a/latest", "7/root.img", "https://host/a/7/root.img"),
            ("https://host/a/latest", "./7/../root.img", "https://host/a/root.img"),
            ("https://host/a/b/latest", "../root.img", "https://host/a/root.img"),
            ("https://host/a/b/latest", "../../root.img", "https://host/root.img"),
            ("https://host/a/latest", "/images/root.img", "https://host/images/root.img"),
            ("https://host/a/latest", "root.img?v=1/../2", "https://host/a/root.img?v=1/../2"),
            ("https://host/a/latest?of=x/y", "root.img", "https://host/a/root.img"),
            ("http://me@[::1]:80/latest", "root.img", "http://me@[::1]:80/root.img"),
            ("HTTPS://host", "root.img", "HTTPS://host/root.img"),
            ("https://host?x/y", "root.img", "https://host/root.img"),
            ("https://host/a/latest", "http://other/root.img", "http://other/root.img"),
            ("latest", "root.img", "root.img"),
            ("latest", "a/../b/root.img", "b/root.img"),
            ("/srv/latest", "7/root.img", "/srv/7/root.img"),
            ("/srv/x/latest", "../root.img", "/srv/root.img"),
            ("/srv/latest", "../root.img", "/root.img"),
            ("../srv/latest", "root.img", "../srv/root.img"),
            ("srv/latest", "../root.img", "root.img"),
            ("/srv/latest", "/images/root.img", "/images/root.img"),
            ("/srv/a stick/latest", "what?.img", "/srv/a stick/what?.img"),
            ("/srv/latest", "https://host/root.img", "https://host/root.img"),
        ] {
            assert_eq!(resolve(manifest, url).unwrap(), expected, "{manifest} {url}");
        }
    }

    #[test]
    fn an_address_that_leads_elsewhere_is_refused() {
        for (manifest, url) in [
            ("https://host/latest", "../root.img"),
            ("https://host/a/latest", "../../root.img"),
            ("https://host/a/latest", "/../root.img"),
            ("https://host/a/latest", "//other/root.img"),
            ("https://host/a/latest", "a//root.img"),
            ("https://host/a/latest", "file:///etc/shadow"),
            ("https://host/a/latest", "ftp://host/root.img"),
            ("https://host/a/latest", "http:///root.img"),
            ("https://host/a/latest", "http:root.img"),
            ("https://host/a/b/latest", "%2E%2e/root.img"),
            ("https://host/a/b/latest", ".%2e/root.img"),
            ("https://host/a/latest", "7/"),
            ("https://host/a/latest", ".."),
            ("https://host/a/latest", ""),
            ("https://host/a/latest", "?x"),
            ("latest", "../root.img"),
            ("../latest", "../root.img"),
            ("/latest", "../root.img"),
            ("ftp://host/latest", "root.img"),
            ("file:///srv/latest", "root.img"),
        ] {
            assert!(resolve(manifest, url).is_err(), "{manifest} {url}");
        }
    }

    #[test]
    fn only_what_a_key_signed_is_read() {
        let text = latest().encode().unwrap();
        // No key ever signs: `tests/update_delta.rs` has some that do.
        assert!(Latest::verify(text.as_bytes(), &[], &[]).is_err());
        assert!(Latest::verify(text.as_bytes(), &[b"untrusted comment: x".to_vec()], &[]).is_err());
    }
}
