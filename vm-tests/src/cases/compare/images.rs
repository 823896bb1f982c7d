//! What is booted? The tree and everybody else's images are made once, Ashlar's image each time: it is what changes.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Contestant;
use crate::bench::Bench;
use crate::disk::directories;
use crate::initramfs::Initramfs;
use crate::kernel::Kernel;
use crate::keys;
use crate::outcome::{Doing, Result, SKIPPED, Stop, failed, run, skipped};
use crate::programs::Programs;

/// Everything that machines are made of.
#[derive(Debug)]
pub(super) struct Images {
    /// See `compare_images.sh`.
    pub place: PathBuf,
    /// What is booted.
    pub kernel: Kernel,
    /// From what, for all alike.
    pub initramfs: PathBuf,
    /// What will be read: names, and the digests of what is right.
    pub expected: Vec<(String, String)>,
}

impl Images {
    /// Makes or finds them.
    pub(super) fn make(bench: &Bench<'_>) -> Result<Self> {
        let place = match std::env::var_os("ASHLAR_COMPARE_IMAGES") {
            Some(place) => PathBuf::from(place),
            None => script(bench)?,
        };
        let release = read(&place.join("release"))?.trim().to_owned();
        let kernel = Kernel {
            image: place.join("vmlinuz"),
            modules: place.join("tree/usr/lib/modules").join(&release),
            release,
        };
        let expected = read(&place.join("expected"))?;
        let expected = expected.lines().filter_map(|line| line.split_once(' '));
        let expected: Vec<_> =
            expected.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();

        own_image(&place, super::UNTRACED, None)?;
        let initramfs = bench.place.join("initramfs.cpio");
        pack(bench, &place)?.write(&initramfs)?;
        Ok(Images { place, kernel, initramfs, expected })
    }

    /// Makes Ashlar's image, laid out by a trace.
    pub(super) fn order(&self, trace: &Path) -> Result<()> {
        own_image(&self.place, super::OURS, Some(trace))
    }

    /// The image of a name.
    pub(super) fn image(&self, name: &str) -> PathBuf {
        self.place.join(format!("{name}.img"))
    }

    /// How an image with dm-verity is opened: `DIGEST:OFFSET`.
    pub(super) fn verity(&self, name: &str) -> Result<Option<String>> {
        let path = self.place.join(format!("{name}.verity"));
        if !path.exists() {
            return Ok(None);
        }
        Ok(Some(read(&path)?.trim().replace(' ', ":")))
    }

    /// Who made them, for the table.
    pub(super) fn versions(&self) -> String {
        let text = read(&self.place.join("versions")).unwrap_or_default();
        text.lines().map(str::trim).collect::<Vec<_>>().join(", ")
    }
}

fn script(bench: &Bench<'_>) -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("support/compare_images.sh");
    let output = Command::new(&script)
        .arg(bench.programs.ashlar()?)
        .stderr(std::process::Stdio::inherit())
        .output()
        .doing(format!("cannot run {}", script.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(i32::from(SKIPPED)) {
        return skipped("the images cannot be made here, see above");
    }
    match said.lines().last() {
        Some(line) if output.status.success() => Ok(PathBuf::from(line)),
        _ => failed(format!("{}: {}", script.display(), output.status)),
    }
}

/// Ashlar's block size: as large as EROFS's clusters, see `compare_images.sh`.
pub(super) const BLOCK_SIZE: &str = "64K";

/// Makes an image of Ashlar, signed; anew when the tree, the builder or the trace is another one.
fn own_image(place: &Path, name: &str, trace: Option<&Path>) -> Result<()> {
    let (image, secret) = (place.join(format!("{name}.img")), place.join("maker"));
    let level = std::env::var("ASHLAR_COMPARE_LEVEL").map(|level| format!("zstd,{level}"));
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(place);
    let recipe = run(Command::new("sh")
        .args([
            "-c",
            r#"find mkimage/src src/format "$@" -type f | LC_ALL=C sort | xargs cat | sha256sum"#,
        ])
        .arg("sh")
        .args(trace)
        .current_dir(top))?;
    let recipe = format!("{recipe}{} {BLOCK_SIZE}", level.as_deref().unwrap_or_default());
    let made = image.with_extension("made");
    if fs::read_to_string(&made).is_ok_and(|of| of == recipe) {
        return Ok(());
    }
    drop(fs::remove_file(&made));
    if !secret.exists() {
        keys::generate(&secret)?;
    }
    let mut words: Vec<OsString> = vec!["mkimage".into(), "--quiet".into(), "--sign-key".into()];
    words.push(secret.into_os_string());
    words.extend(["-b", BLOCK_SIZE].map(Into::into));
    if let Some(trace) = trace {
        words.extend(["--order".into(), trace.into()]);
    }
    if let Ok(level) = level {
        words.extend(["-z".into(), level.into()]);
    }
    words.extend([place.join("tree").into_os_string(), image.clone().into_os_string()]);
    ashlarfs_mkimage::run(words)
        .map_err(|failure| Stop::Failed(format!("mkimage: {}", failure.message)))?;
    fs::write(&made, recipe).doing("cannot write a file")
}

/// One initramfs for all, so that it costs all the same.
fn pack(bench: &Bench<'_>, place: &Path) -> Result<Initramfs> {
    let mut archive = Initramfs::new();
    let (busybox, _) = Programs::busybox()?;
    archive.file("bin/busybox", 0o755, &busybox);
    archive.file("bin/ashlar", 0o755, &bytes(bench.programs.ashlar()?)?);
    archive.file("init", 0o755, include_bytes!("../../../guest/compare-initramfs.sh"));
    archive.file("etc/ashlar/keys/maker.pub", 0o644, &bytes(&place.join("maker.pub"))?);
    archive.directory("load");
    add_all(&mut archive, &place.join("load"), "load")?;
    add_all(&mut archive, &place.join("modules"), "modules")?;
    let program = place.join("veritysetup");
    let files = run(Command::new("find").arg(&program).args(["-mindepth", "1", "-type", "d"]))?;
    for directory in files.lines() {
        let below = directory.strip_prefix(&format!("{}/", program.display()));
        archive.directory(below.unwrap_or(directory));
    }
    let files = run(Command::new("find").arg(&program).args(["-type", "f"]))?;
    for file in files.lines() {
        let content = bytes(Path::new(file))?;
        let below = file.strip_prefix(&format!("{}/", program.display())).unwrap_or(file);
        let is_program = below.ends_with("/veritysetup");
        archive.file(if is_program { "bin/veritysetup" } else { below }, 0o755, &content);
    }
    Ok(archive)
}

fn add_all(archive: &mut Initramfs, directory: &Path, below: &str) -> Result<()> {
    let doing = format!("cannot list {}", directory.display());
    for entry in fs::read_dir(directory).doing(&doing)? {
        let entry = entry.doing(&doing)?;
        let name = format!("{below}/{}", entry.file_name().to_string_lossy());
        archive.file(&name, 0o644, &bytes(&entry.path())?);
    }
    Ok(())
}

/// The disk with `/var`, and Ashlar's image where it is Ashlar's.
pub(super) fn data_partition(
    bench: &Bench<'_>,
    images: &Images,
    contestant: &Contestant,
) -> Result<PathBuf> {
    let name = contestant.name;
    let place = bench.place.join(name);
    let data = place.join("data");
    directories(&data, &["images", "state"])?;
    run(Command::new("cp").arg("-a").arg(images.place.join("tree/var")).arg(&data))?;
    let helper = data.join("var/lib/ashlar-vm");
    directories(&helper, &[""])?;
    fs::copy(bench.programs.ashlar()?, helper.join("ashlar")).doing("cannot copy the program")?;
    let measure = include_bytes!("../../../guest/compare-measure.sh");
    crate::disk::program(&helper.join("measure"), measure)?;
    fs::write(helper.join("walk"), include_bytes!("../../../guest/compare-walk.sh"))
        .doing("cannot write a file")?;
    if contestant.is_ours() {
        fs::copy(images.image(name), data.join("images/root.img"))
            .doing("cannot copy the image")?;
    }
    let disk = place.join("data.img");
    crate::disk::make(&data, &disk, "2G")?;
    fs::remove_dir_all(&data).doing(format!("cannot remove {}", data.display()))?;
    Ok(disk)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).doing(format!("cannot read {}", path.display()))
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).doing(format!("cannot read {}", path.display()))
}
