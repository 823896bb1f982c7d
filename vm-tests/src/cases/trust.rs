//! Does nothing start that nobody vouches for, unless it was said that it may?

use super::Case;
use crate::bench::Bench;
use crate::outcome::Result;
use crate::scene::{Init, Scene, small_tree};

/// See the head of this file.
pub(crate) const CASES: &[Case] = &[
    Case {
        name: "wrong-key",
        asks: "is an image refused that another key signed?",
        quick: false,
        run: wrong_key,
    },
    Case {
        name: "missing-signature",
        asks: "is an image refused that nobody signed?",
        quick: false,
        run: missing_signature,
    },
    Case {
        name: "unauthenticated",
        asks: "does it start with a warning where the command line allows it?",
        quick: false,
        run: unauthenticated,
    },
];

fn wrong_key(bench: &Bench<'_>) -> Result<()> {
    let mut scene = Scene::new(bench, "6.12")?;
    scene.trust("maker")?;
    let (another, _) = scene.key("another")?;
    scene.image("root", small_tree(bench, Init::Checks)?, Some(&another))?;
    refused(&scene)
}

fn missing_signature(bench: &Bench<'_>) -> Result<()> {
    let mut scene = Scene::new(bench, "6.12")?;
    scene.trust("maker")?;
    scene.image("root", small_tree(bench, Init::Checks)?, None)?;
    refused(&scene)
}

fn refused(scene: &Scene<'_>) -> Result<()> {
    for words in ["ashlar=root.img", "ashlar"] {
        let console = scene.boot(words)?;
        console.ended_well()?.spoke("refused")?.never_says("started")?;
        console.says(&["setup: ashlar: error: "])?.says(&["setup: ashlar: hint: "])?;
        scene.check_disk()?;
    }
    Ok(())
}

fn unauthenticated(bench: &Bench<'_>) -> Result<()> {
    let scene = Scene::new(bench, "6.12")?;
    scene.image("root", small_tree(bench, Init::Checks)?, None)?;
    let console = scene.boot("ashlar=?root.img")?;
    console.ended_well()?.spoke(&format!("ok {}", bench.name))?.says(&["IS NOT AUTHENTICATED"])?;
    scene.check_disk()?;
    refused(&scene)
}
