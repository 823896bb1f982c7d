//! Who signs? Keys without a password, made by a crate: the program that boots does without `ashlar key`.

use std::fs;
use std::path::{Path, PathBuf};

use minisign::KeyPair;

use crate::outcome::{Doing, Result};

/// Makes a secret key `path`, and its public half `path.pub`, which is returned.
pub(crate) fn generate(path: &Path) -> Result<PathBuf> {
    let pair = KeyPair::generate_unencrypted_keypair().doing("cannot make a key")?;
    let secret = pair.sk.to_box(None).doing("cannot write a key down")?;
    let public = pair.pk.to_box().doing("cannot write a key down")?;
    let public_path = path.with_added_extension("pub");
    for (path, text) in [(path, secret.to_string()), (&public_path, public.to_string())] {
        fs::write(path, text).doing(format!("cannot write {}", path.display()))?;
    }
    Ok(public_path)
}
