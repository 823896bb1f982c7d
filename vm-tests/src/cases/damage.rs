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
    Case {
        name: "heal",
        asks: "does it boot an image whose init is damaged, with what the one before it has, and heal on when it runs?",
        quick: true,
        run: heal,
    },
    Case {
        name: "last-resort",
        asks: "does it restart, or panic, when somebody reads what nobody has any more, if that is wanted?",
        quick: false,
        run: last_resort,
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
        // Bytes that the other one does not have: or else it would be healed.
        let init =
            [&include_bytes!("../../guest/init.sh")[..], format!("# {name}\n").as_bytes()].concat();
        tree.file("sbin/init", 0o755, &init)?;
        let digest = scene.image_of_version(version, name, tree, Some(&secret))?;
        if name == "new" {
            scene.damage(name, digest, "/sbin/init")?;
        }
    }
    for words in ["ashlar.on-corruption=eio", ""] {
        let console = scene.boot(&format!("ashlar {words} vm.say=/which"))?;
        console.ended_well()?.spoke(&format!("ok {}", bench.name))?.spoke("file /which: old")?;
        console.says(&["ashlar: images/new.img is refused: ", "sbin/init"])?;
    }
    scene.check_disk()
}

fn heal(bench: &Bench<'_>) -> Result<()> {
    let mut scene = Scene::new(bench, "6.12")?;
    let secret = scene.trust("maker")?;
    for (version, name) in [(1, "old"), (2, "new")] {
        let mut tree = small_tree(bench, Init::Checks)?;
        tree.file("which", 0o644, format!("{name}\n").as_bytes())?;
        // All blocks of its own, so that the file is not read with another one.
        tree.file("victim", 0o644, format!("line of {name}\n").repeat(30_000).as_bytes())?;
        tree.file("common", 0o644, &crate::noise::noise(7777, 50_000))?;
        let digest = scene.image_of_version(version, name, tree, Some(&secret))?;
        if name == "new" {
            scene.damage(name, digest, "/sbin/init")?;
            scene.damage(name, digest, "/common")?;
            scene.damage(name, digest, "/victim")?;
        }
    }
    // What both have is healed, before the root is handed over and after that; what only the new one had is an error.
    let console = scene.boot("ashlar vm.say=/which,/common,/victim")?;
    console.ended_well()?.spoke(&format!("ok {}", bench.name))?.spoke("file /which: new")?;
    // Of what is needed to boot it is not said what it is called: nobody serves yet.
    console.spoke("started")?;
    console.says(&["ashlar: ", " is healed: block ", "source=\"image\"", "/common"])?;
    console.never_says("file /common: cat: read error")?;
    console.spoke("file /victim: cat: read error: Input/output error")?;
    console.says(&["ashlar: ", " is lost, nobody has it: block ", "/victim"])?;
    scene.check_disk()
}

fn last_resort(bench: &Bench<'_>) -> Result<()> {
    for (how, does) in [("restart", "the machine restarts"), ("panic", "the kernel panics")] {
        let mut scene = Scene::new(bench, "6.12")?;
        let secret = scene.trust("maker")?;
        let mut tree = small_tree(bench, Init::Checks)?;
        tree.file("victim", 0o644, &crate::noise::noise(7777, 50_000))?;
        let digest = scene.image("root", tree, Some(&secret))?;
        scene.damage("root", digest, "/victim")?;
        let words =
            format!("ashlar=root.img ashlar.on-corruption={how} vm.say=/links/near,/victim,/which");
        let console = scene.boot(&words)?;
        console.ended()?.spoke("file /links/near: through a link")?;
        console.says(&[
            "ashlar: block ",
            "is not what was sealed",
            &format!("{does} (on-corruption={how})"),
        ])?;
        console.never_says("file /victim: ")?;
        console.never_says("file /which: ")?;
        match how {
            "panic" => console.says(&["Kernel panic", "sysrq"])?,
            _ => console.never_says("Kernel panic")?,
        };
    }
    Ok(())
}
