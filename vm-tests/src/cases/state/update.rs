//! Is there always an image to boot, the right one, and as often as it may be? On a machine that is updated from within.

use std::fs;

use ashlarfs::Digest;

use super::machine::Machine;
use crate::bench::Bench;
use crate::outcome::{Doing, Result};
use crate::qemu::Writes;

/// Where images wait that are not installed yet, on the data partition.
const INCOMING: &str = "incoming";

/// A machine with the image `one`, and `two` and `three` beside it.
pub(super) struct Updated<'a> {
    pub(super) machine: Machine<'a>,
    pub(super) digests: [Digest; 3],
}

impl<'a> Updated<'a> {
    pub(super) fn new(bench: &'a Bench<'a>) -> Result<Self> {
        let machine = Machine::new(bench)?;
        let image = |name, version| machine.image(name, version, |_| Ok(()));
        let digests = [image("one", 1)?, image("two", 2)?, image("three", 3)?];
        let incoming = machine.scene.data.join(INCOMING);
        fs::create_dir(&incoming).doing("cannot make a directory")?;
        for name in ["two", "three"] {
            let from = machine.scene.image_path(name);
            fs::rename(&from, incoming.join(format!("{name}.img"))).doing("cannot rename")?;
        }
        Ok(Updated { machine, digests })
    }

    /// A line by which the image of a name is installed.
    pub(super) fn install(&self, name: &str, options: &str) -> String {
        let line = format!(
            "ashlar update install --root-digest ${name} {options} $data/{INCOMING}/{name}.img"
        );
        self.named(&line)
    }

    /// Boots without a word about the image; the script may use `$one`, `$two` and `$three`.
    pub(super) fn boot(&mut self, more: &str, script: &str) -> Result<()> {
        let script = self.named(script);
        self.machine.boot(&format!("ashlar {more}"), &script).map(drop)
    }

    pub(super) fn named(&self, script: &str) -> String {
        let mut script = script.to_owned();
        for (name, digest) in ["$one", "$two", "$three"].iter().zip(self.digests) {
            script = script.replace(name, &digest.to_string());
        }
        script
    }
}

/// What is booted, and why.
fn runs(name: &str, slot: &str) -> String {
    format!(
        "is {name} cat /usr/version\nhas /run/ashlar/boot.json '\"slot\": \"{slot}\"'\nashlar update status --json >/run/status\n"
    )
}

/// A line that leaves nothing of the content of an image.
fn zeros(name: &str) -> String {
    let path = format!("$data/images/{name}.img");
    format!(
        "dd if=/dev/zero of={path} bs=4096 seek=1 count=$(($(stat -c %s {path}) / 4096 - 64)) conv=notrunc"
    )
}

pub(super) fn trial(bench: &Bench<'_>) -> Result<()> {
    let mut it = Updated::new(bench)?;
    // A machine that was never updated. What runs becomes the default; a new image is tried.
    let install = it.install("two", "--tries 2");
    it.boot(
        "",
        &format!(
            "{}has /run/status '\"default\":null'
            {install} && gone $data/images/.*.part
            ashlar update status --json >/run/status
            has /run/status '\"trial\":\"$two\"'
            has /run/status '\"default\":\"$one\"'
            has /run/status '\"tries_left\":2'
            there $data/images/$two.img
            ",
            runs("one", "no-record")
        ),
    )?;
    // Tried twice, never blessed.
    for left in [1, 0] {
        it.boot(
            "",
            &format!(
                "{}has /run/status '\"tries_left\":{left}'\nthere /run/ashlar/trial\nhas /run/motd.d/ashlar 'on trial'",
                runs("two", "trial")
            ),
        )?;
    }
    let again = it.install("two", "");
    let again_nevertheless = it.install("two", "--allow-bad");
    it.boot(
        "",
        &format!(
            "{}has /run/status '\"bad\":[{{\"root_digest\":\"$two\",\"why\":\"tries\"}}]'
            has /run/motd.d/ashlar 'given up'
            gone /run/ashlar/trial
            warned 'is given up'
            refused 'was given up on this machine' {again}
            {again_nevertheless}
            ",
            runs("one", "default")
        ),
    )?;
    // Blessed, it is the default; a scrub belongs to that.
    it.boot(
        "",
        &format!(
            "{}ashlar update bless\ngone /run/ashlar/trial /run/motd.d/ashlar",
            runs("two", "trial")
        ),
    )?;
    it.boot(
        "",
        &format!(
            "{}has /run/status '\"default\":\"$two\"'
            has /run/status '\"last_good\":\"$two\"'
            has /run/status '\"previous\":\"$one\"'
            has /run/status '\"version_floor\":2'
            refused 'older than version 2' ashlar update install --root-digest $one $data/images/one.img
            ashlar update rollback
            ",
            runs("two", "default")
        ),
    )?;
    it.boot("", &format!("{}ashlar update rollback", runs("one", "default")))?;
    // What the kernel command line names is booted, and nothing is counted.
    let install = it.install("three", "--tries 1");
    it.boot("", &format!("{}{install}", runs("two", "default")))?;
    let words = it.named("ashlar=$one");
    let script = format!("{}has /run/status '\"tries_left\":1'", runs("one", "command-line"));
    it.machine.boot(&words, &script)?;
    damage(&mut it)
}

/// Nobody heals one image with another one's bytes, which these have in common.
const ALONE: &str = "ashlar.on-corruption=eio";

/// An image on trial that cannot be booted is given up in the same boot; a default that cannot be is left for this boot.
fn damage(it: &mut Updated<'_>) -> Result<()> {
    it.boot(
        "ashlar.slot=previous",
        &format!(
            "{}{}\nhas /run/status '\"tries_left\":1'",
            runs("two", "default"),
            zeros("$three")
        ),
    )?;
    it.boot(
        ALONE,
        &format!(
            "{}has /run/status '\"trial\":null'
            has /run/status '\"why\":\"refused\"'
            has /run/motd.d/ashlar 'could not be booted'
            ashlar scrub --all --fast
            no ashlar scrub --fast $three
            ashlar update gc && gone $data/images/$three.img && there $data/images/$two.img
            ",
            runs("two", "default")
        ),
    )?;
    // The default is damaged at rest: the one before is booted in the same boot, and the record stays as it is.
    it.boot("", &zeros("$two"))?;
    let repair = it.install("two", "");
    it.boot(
        ALONE,
        &format!(
            "{}has /run/status '\"default\":\"$two\"'
            {repair}
            ",
            runs("one", "fallback")
        ),
    )?;
    it.boot("", &runs("two", "default"))
}

pub(super) fn records(bench: &Bench<'_>) -> Result<()> {
    let mut it = Updated::new(bench)?;
    let install = it.install("two", "");
    it.boot("", &format!("ashlar update bless\n{install}"))?;
    // Where a try cannot be counted, there is none.
    it.machine.scene.writes = Writes::Refused;
    it.boot(
        "ashlar.var=transient vm.data=ro",
        &format!("{}warned 'is not tried'", runs("one", "default")),
    )?;
    it.machine.scene.writes = Writes::Kept;
    it.boot(
        "",
        &format!(
            "{}has /run/status '\"tries_left\":2'\nashlar update bless --no-scrub",
            runs("two", "trial")
        ),
    )?;
    // One of two records is damaged: the other one counts. Both: the newest image is booted, and nothing is removed.
    it.boot(
        "",
        &format!(
            "{}write junk $data/state/boot.a\nashlar update status --json >/run/status\nhas /run/status '\"records\":\"damaged\"'",
            runs("two", "default")
        ),
    )?;
    it.boot(
        "",
        "is 1 sh -c \"cat /usr/version | grep -c -e one -e two\"\nwrite junk $data/state/boot.a\nwrite junk $data/state/boot.b\nno ashlar update gc",
    )?;
    it.boot(
        "",
        &format!(
            "{}has /run/status '\"records\":\"lost\"'\nwarned 'both boot records are damaged'\nashlar update bless",
            runs("two", "no-record")
        ),
    )?;
    // The default is not there: the other one is booted.
    it.boot("", &format!("{}has /run/status '\"records\":\"damaged\"'\nashlar update install --root-digest $one --allow-downgrade $data/images/one.img\nashlar update bless $one --no-scrub", runs("two", "default")))?;
    it.boot("", &format!("{}mv $data/images/one.img $data/one", runs("one", "default")))?;
    it.boot("", &format!("{}warned 'is not there'", runs("two", "fallback")))
}
