//! Who vouches for the image? Signatures in minisign's format, of the text that SPEC §9 has.

use std::fmt;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use minisign::{PublicKey, SecretKey, SecretKeyBox};

use crate::Failure;

/// Environment variable that holds the password of encrypted keys, for builds that nobody watches.
pub(crate) const PASSWORD_VARIABLE: &str = "ASHLAR_KEY_PASSWORD";
/// Most signatures that an image carries.
const KEYS_MAX: usize = ashlarfs::format::SIGNATURES_MAX as usize;

/// A secret key, ready to sign.
#[derive(Clone)]
pub(crate) struct Key {
    path: PathBuf,
    secret: SecretKey,
    /// Each signature is held against it, which tells a damaged secret key.
    public: PublicKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Reads secret keys; asks for passwords. Done before a build starts, not when it ends.
pub(crate) fn open(paths: &[PathBuf]) -> Result<Vec<Key>, Failure> {
    if paths.len() > KEYS_MAX {
        return Err(Failure::new(format!(
            "{} keys are too many: an image carries {KEYS_MAX} signatures",
            paths.len()
        )));
    }
    paths.iter().map(|path| open_one(path)).collect()
}

fn open_one(path: &Path) -> Result<Key, Failure> {
    let about =
        |what: &dyn fmt::Display| Failure::new(format!("secret key {}: {what}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|err| about(&err))?;
    let no_key = || {
        about(&"no minisign secret key").hint(
            "make a pair of keys with `ashlar key generate` or `minisign -G`; signing needs the secret one",
        )
    };
    let raw = ashlarfs::trust::key_file_bytes(&text).ok_or_else(no_key)?;
    let key = SecretKey::from_bytes(&raw).map_err(|_| no_key())?;
    let secret = if key.is_encrypted() {
        let boxed = SecretKeyBox::from_string(&text).map_err(|err| about(&err))?;
        boxed.into_secret_key(Some(password(path)?)).map_err(|err| about(&err))?
    } else {
        // Not through the box, which wants a checksum: `minisign -W` leaves that zero.
        key
    };
    let public = PublicKey::from_secret_key(&secret).map_err(|err| about(&err))?;
    Ok(Key { path: path.to_owned(), secret, public })
}

fn password(path: &Path) -> Result<String, Failure> {
    if let Some(password) = std::env::var_os(PASSWORD_VARIABLE) {
        return password
            .into_string()
            .map_err(|_| Failure::new(format!("{PASSWORD_VARIABLE} is not UTF-8")));
    }
    if !std::io::stderr().is_terminal() {
        return Err(Failure::new(format!(
            "secret key {} is encrypted and there is no terminal to ask for its password",
            path.display()
        ))
        .hint(format!("set {PASSWORD_VARIABLE}, or sign afterwards with `ashlar sign`")));
    }
    // Not by the library: it writes to standard output, which is the root digest's alone.
    rpassword::prompt_password(format!("Password of {}: ", path.display()))
        .map_err(|err| Failure::io("cannot read a password", &err))
}

/// Signs a text with each key; the contents of as many `.minisig` files.
pub(crate) fn sign(text: &str, keys: &[Key]) -> Result<Vec<Vec<u8>>, Failure> {
    // No time in it: all that is said is what was signed.
    let words = |line: &str| line.split_once(' ').map(|(_, word)| word.to_owned());
    let mut lines = text.lines().skip(1);
    let digest = lines.next().and_then(words).unwrap_or_default();
    let version = lines.next().and_then(words).unwrap_or_default();
    let comment = format!("ashlar image {digest} version {version}");
    let sign_one = |key: &Key| {
        minisign::sign(
            Some(&key.public),
            &key.secret,
            text.as_bytes(),
            Some(&comment),
            Some("signature of an ashlar image"),
        )
        .map(|signature| signature.into_string().into_bytes())
        .map_err(|err| Failure::new(format!("cannot sign with {}: {err}", key.path.display())))
    };
    keys.iter().map(sign_one).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use ashlarfs::format::digest::Digest;
    use ashlarfs::format::trailer::signed_text;
    use minisign::{KeyPair, PublicKeyBox, SignatureBox};

    use super::*;

    #[test]
    fn signatures_are_good_and_say_what_they_sign() {
        let dir = tempfile::tempdir().unwrap();
        let pair = KeyPair::generate_unencrypted_keypair().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, pair.sk.to_box(None).unwrap().into_string()).unwrap();
        let text = signed_text(&Digest([7; 32]), 12);
        let signatures = sign(&text, &open(&[path]).unwrap()).unwrap();
        assert_eq!(signatures.len(), 1);
        let signature = String::from_utf8(signatures[0].clone()).unwrap();
        let signature = SignatureBox::from_string(&signature).unwrap();
        let public = PublicKeyBox::from_string(&pair.pk.to_box().unwrap().into_string()).unwrap();
        let public = public.into_public_key().unwrap();
        let read = std::io::Cursor::new(text.as_bytes());
        minisign::verify(&public, &signature, read, true, false, false).unwrap();
        let comment = signature.trusted_comment().unwrap();
        assert_eq!(comment, format!("ashlar image {} version 12", "07".repeat(32)));
    }

    /// Keys and signatures are those of the program that everybody has.
    #[test]
    fn stock_minisign_makes_keys_and_accepts_signatures() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let made = Command::new("minisign")
            .args(["-G", "-W", "-p"])
            .arg(at("pub"))
            .arg("-s")
            .arg(at("sec"))
            .output();
        if !made.is_ok_and(|made| made.status.success()) {
            eprintln!("skipped: there is no `minisign` that makes keys without password here");
            return;
        }
        let text = signed_text(&Digest([1; 32]), 0);
        let signatures = sign(&text, &open(&[at("sec")]).unwrap()).unwrap();
        std::fs::write(at("text"), &text).unwrap();
        std::fs::write(at("text.minisig"), &signatures[0]).unwrap();
        let checked = Command::new("minisign")
            .arg("-Vm")
            .arg(at("text"))
            .arg("-p")
            .arg(at("pub"))
            .output()
            .unwrap();
        assert!(checked.status.success(), "{checked:?}");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for text in ["", "one line\n", "untrusted comment: x\nAAAA\n"] {
            std::fs::write(&path, text).unwrap();
            let failure = open(std::slice::from_ref(&path)).unwrap_err();
            assert!(failure.message.contains("key"), "{failure:?}");
        }
        assert!(open(&[dir.path().join("none")]).is_err());
        assert!(open(&vec![path; KEYS_MAX + 1]).is_err());
    }
}
