//! Does damage cost the damaged file only? And where the machine cannot start without it, does it start from another image?

use super::Case;
use crate::bench::Bench;
use crate::outcome::Result;
use crate::scene::{Init, Scene, small_tree};

/// See the head of this file.
pub(crate) const CASES: &[Case] = &[
    Case {
        name: "corrupt-file",
        asks: "does a flipped bit cost one file, and does the log name it?",
        quick: true,
        run: corrupt_file,
    },
    Case {
        name: "fallback",
        asks: "does the same boot take another image when init is damaged?",
        quick: true,
        run: fallback,
    },
];

fn corrupt_file(bench: &Bench<'_>) -> Result<()> {
    let mut scene = Scene::new(bench, "6.12")?;
    let secret = scene.trust("maker")?;
    let mut tree = small_tree(bench, Init::Checks)?;
    tree.file("victim", 0o644, &crate::noise::noise(7777, 50_000))?;
    let digest = scene.image("root", tree, Some(&secret))?;
    let block = scene.damage("root", digest, "/victim")?;
    let console = scene.boot("ashlar=root.img vm.say=/victim,/links/near")?;
    console.ended_well()?.spoke(&format!("ok {}", bench.name))?;
    console.spoke("file /victim: cat: read error: Input/output error")?;
    console.spoke("file /links/near: through a link")?;
    let offence = format!(": block {} at offset ", block.0);
    console.says(&["ashlar: read of inode ", &offence, "is not what was sealed"])?;
    console.says(&["ashlar: inode ", " is /victim"])?;
    scene.check_disk()
}

fn fallback(bench: &Bench<'_>) -> Result<()> {
    let mut scene = Scene::new(bench, "6.12")?;
    let secret = scene.trust("maker")?;
    for (version, name) in [(1, "old"), (2, "new")] {
        let mut tree = small_tree(bench, Init::Checks)?;
        tree.file("which", 0o644, format!("{name}\n").as_bytes())?;
        let digest = scene.image_of_version(version, name, tree, Some(&secret))?;
        if name == "new" {
            scene.damage(name, digest, "/sbin/init")?;
        }
    }
    let console = scene.boot("ashlar vm.say=/which")?;
    console.ended_well()?.spoke(&format!("ok {}", bench.name))?.spoke("file /which: old")?;
    console.says(&["ashlar: images/new.img is refused: ", "sbin/init"])?;
    scene.check_disk()
}
