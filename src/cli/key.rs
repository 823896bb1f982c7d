//! `ashlar key`: keys to sign images with, in minisign's format.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use minisign::{KeyPair, PublicKey, PublicKeyBox, SecretKey, SecretKeyBox};

use super::{Failure, Outcome, say};
use crate::trust::{self, key_id};

/// Environment variable that holds the password of encrypted keys, where nobody can be asked; `mkimage` knows it too.
const PASSWORD_VARIABLE: &str = "ASHLAR_KEY_PASSWORD";

/// Arguments of `ashlar key`.
#[derive(Debug, Args)]
#[command(after_help = "\
Keys are minisign's: `minisign` can make and use them, too. The password of a secret key is taken from the
environment variable ASHLAR_KEY_PASSWORD where it is set, and asked for on the terminal where it is not.")]
pub struct KeyArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a secret key FILE and a public key FILE.pub; neither may exist yet
    Generate {
        /// Do not protect the secret key by a password
        #[arg(short = 'W', long)]
        no_password: bool,
        /// Where the secret key goes
        file: PathBuf,
    },
    /// Show a key's id and its public part; for a secret key this may ask for its password
    Show {
        /// A public or a secret key
        file: PathBuf,
    },
}

/// Runs it.
pub fn run(args: KeyArgs) -> Outcome {
    match args.command {
        Command::Generate { no_password, file } => generate(&file, no_password)?,
        Command::Show { file } => show(&file)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn generate(path: &Path, no_password: bool) -> Result<(), Failure> {
    let mut public_path = path.as_os_str().to_owned();
    public_path.push(".pub");
    let public_path = PathBuf::from(public_path);
    // Before a password is asked for.
    for path in [path, &public_path] {
        if path.symlink_metadata().is_ok() {
            return Err(Failure::new(format!("{} exists already", path.display()))
                .hint("a key is never overwritten: images signed by it would be lost with it"));
        }
    }
    let pair = if no_password {
        KeyPair::generate_unencrypted_keypair()
    } else {
        KeyPair::generate_encrypted_keypair(std::env::var(PASSWORD_VARIABLE).ok())
    };
    let wrong = |err| Failure::new(format!("cannot make a key: {err}"));
    let pair = pair.map_err(wrong)?;
    let secret = pair.sk.to_box(None).map_err(wrong)?;
    let public = pair.pk.to_box().map_err(wrong)?;
    write_new(path, 0o600, secret.to_string().as_bytes())?;
    write_new(&public_path, 0o644, public.to_string().as_bytes())?;
    say(&format!(
        "secret key: {}\npublic key: {}\nkey id:     {}\n",
        path.display(),
        public_path.display(),
        key_id(pair.pk.keynum())
    ))
}

fn write_new(path: &Path, mode: u32, content: &[u8]) -> Result<(), Failure> {
    let written = File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
    written.map_err(|err| Failure::new(format!("cannot write {}: {err}", path.display())))
}

fn show(path: &Path) -> Result<(), Failure> {
    let text = read(path)?;
    let public = match PublicKey::from_box(PublicKeyBox::from(text)) {
        Ok(public) => public,
        Err(_) => public_key(&read_secret(path)?)?,
    };
    say(&format!("{}\n{}\n", key_id(public.keynum()), public.to_base64()))
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|err| Failure::new(format!("cannot read key {}: {err}", path.display())))
}

/// Reads a secret key. One with a password has it from the environment, or asks for it on the terminal.
pub(super) fn read_secret(path: &Path) -> Result<SecretKey, Failure> {
    let text = read(path)?;
    let key = trust::key_file_bytes(&text)
        .and_then(|raw| SecretKey::from_bytes(&raw).ok())
        .ok_or_else(|| Failure::new(format!("{} is no minisign secret key", path.display())))?;
    if !key.is_encrypted() {
        // Not through SecretKeyBox, which wants a checksum: `minisign -W` leaves that zero. Signing proves the key.
        return Ok(key);
    }
    let password = std::env::var(PASSWORD_VARIABLE).ok();
    SecretKeyBox::from(text)
        .into_secret_key(password)
        .map_err(|err| Failure::new(format!("cannot use {}: {err}", path.display())))
}

/// The public half of a secret key.
pub(super) fn public_key(secret: &SecretKey) -> Result<PublicKey, Failure> {
    PublicKey::from_secret_key(secret)
        .map_err(|err| Failure::new(format!("the secret key has no public half: {err}")))
}
