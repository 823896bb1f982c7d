//! Which further images belong to the root?

use super::machine::Machine;
use crate::bench::Bench;
use crate::outcome::Result;
use crate::tree::Tree;

fn extension(name: &str, release: &str) -> Result<Tree> {
    let mut tree = Tree::new()?;
    tree.directories(&["usr", "usr/lib", "usr/lib/extension-release.d", "usr/share"])?;
    let path = format!("usr/lib/extension-release.d/extension-release.{name}");
    tree.file(&path, 0o644, release.as_bytes())?;
    for path in ["usr/version", "usr/share/both", &format!("usr/share/{name}")] {
        tree.file(path, 0o644, format!("{name}\n").as_bytes())?;
    }
    Ok(tree)
}

pub(super) fn extensions(bench: &Bench<'_>) -> Result<()> {
    let mut machine = Machine::with_two(bench)?;
    let fits = "ID=ashlar-vm\nVERSION_ID=1\n";
    for name in ["add", "more", "top", "upper"] {
        machine.other_image(name, extension(name, fits)?, true)?;
    }
    machine.other_image("foreign", extension("foreign", "ID=other\nVERSION_ID=1\n")?, true)?;
    machine.other_image("unsigned", extension("unsigned", fits)?, false)?;
    machine.other_image("silent", Tree::new()?, true)?;
    let corrupt = machine.other_image("corrupt", extension("corrupt", fits)?, true)?;
    let file = "usr/lib/extension-release.d/extension-release.corrupt";
    machine.scene.damage("corrupt", corrupt, file)?;
    machine.boot(
        "ashlar=one ashlar.extension=add,more,foreign,unsigned,silent,corrupt,absent",
        r#"
        is one cat /usr/version
        is add cat /usr/share/both
        is add cat /usr/share/add
        is more cat /usr/share/more
        gone /usr/share/foreign /usr/share/unsigned /usr/share/corrupt
        erofs touch /usr/new
        is one cat $lower/usr/version
        gone $lower/usr/share/add
        degraded 'extension `foreign` is left out: it is made for ID=other'
        degraded 'extension `unsigned` is left out'
        degraded 'extension `silent` is left out'
        degraded 'extension `corrupt` is left out'
        degraded 'extension `absent` is left out'
        warned 'extension `unsigned` is left out'
        is 'add more' sh -c "ashlar boot status | awk '/^extensions/ { print \$2 }' | xargs"
        "#,
    )?;
    machine.boot(
        "ashlar=two ashlar.extension=add ashlar.extension-override=top,upper ashlar.overlay=persistent",
        r"
        is top cat /usr/version
        is top cat /usr/share/both
        is upper cat /usr/share/upper
        is add cat /usr/share/add
        is two cat $lower/usr/version
        write local /usr/share/both
        sound
        ",
    )?;
    machine.boot(
        "ashlar=two ashlar.extension-override=upper,top ashlar.overlay=persistent",
        r"
        is upper cat /usr/version
        is local cat /usr/share/both
        gone /usr/share/add
        sound
        ",
    )?;
    // An extension is no root, however new it is.
    machine.boot("ashlar", "is two cat /usr/version\ngone /usr/share/upper\nsound")?;
    Ok(())
}
