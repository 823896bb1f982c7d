//! Does `ashlar boot setup` make the root that it was asked for, and leave everything as it was when it cannot?
//!
//! Here on this machine's kernel, in name spaces of its own: mounts, processes, a `/run` and a kernel command line that
//! nobody else sees. Whole machines are booted by `vm-tests`.

#[path = "support/mount.rs"]
mod mount;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mount::{ASHLAR, Image, ashlar, can_mount, limited, noise, text};

/// Starts a program whose mounts and processes nobody else sees, and which end with it.
const ALONE: [&str; 6] = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// A data partition and what is said to the kernel about it.
struct Machine {
    images: Vec<(String, PathBuf)>,
    files: Vec<(String, String)>,
}

/// A tree that could be booted: an init, its interpreter, and the mount points.
fn fill(tree: &Path) {
    for name in
        ["dev", "etc", "proc", "run", "sbin", "bin", "sys", "tmp", "var/lib", "opt/tool", "root"]
    {
        fs::create_dir_all(tree.join(name)).unwrap();
    }
    program(&tree.join("sbin/init"), b"#!/bin/sh\n");
    program(&tree.join("bin/sh"), &noise(7, 300_000));
    fs::write(tree.join("etc/hostname"), "stone\n").unwrap();
    fs::write(tree.join("etc/os-release"), "ID=test\nVERSION_ID=1\n").unwrap();
    fs::write(tree.join("var/lib/seed"), "seed\n").unwrap();
    fs::write(tree.join("opt/tool/version"), "1\n").unwrap();
    fs::write(tree.join("which"), "first\n").unwrap();
}

fn program(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

impl Machine {
    fn new(images: &[(&str, &Image)]) -> Machine {
        let images = images.iter().map(|(name, image)| ((*name).to_owned(), image.path.clone()));
        Machine { images: images.collect(), files: Vec::new() }
    }

    fn file(mut self, name: &str, content: &str) -> Machine {
        self.files.push((name.to_owned(), content.to_owned()));
        self
    }

    /// Runs a shell script in which `setup` sets up the root with a kernel command line, and `$root` and `$data` are where
    /// it is and where the data partition is seen then. In `boots SCRIPT` that is done as often as one likes.
    fn run(&self, script: &str) -> Output {
        let directory = tempfile::tempdir().unwrap();
        let place = text(directory.path());
        let mut head = format!(
            "set -eu\nplace={place}\nashlar={ASHLAR}\nroot=$place/newroot\ndata=/run/initramfs/ashlar/data\n\
             mount -t tmpfs tmpfs /run\nmkdir $root\nmount -t tmpfs -o size=300m data $root\n"
        );
        for (name, path) in &self.images {
            head += &format!("mkdir -p $(dirname $root/{name})\ncp {} $root/{name}\n", text(path));
        }
        for (name, content) in &self.files {
            let path = directory.path().join("file");
            let kept = path.with_extension(name.replace('/', "_"));
            fs::write(&kept, content).unwrap();
            head += &format!("mkdir -p $(dirname $root/{name})\ncp {} $root/{name}\n", text(&kept));
        }
        let words = "setup() {\n  echo \"$*\" >$place/cmdline\n  mount --bind $place/cmdline /proc/cmdline\n  \
                     timeout 60 $ashlar boot setup $root\n}\n\
                     refused() { if \"$@\" 2>$place/why; then echo \"not refused: $*\"; exit 1; fi; }\n";
        fs::write(directory.path().join("words"), words).unwrap();
        // `boots SCRIPT`: what happens in it is one boot of several.
        head += &format!(
            "{words}export place ashlar root data\n\
             boots() {{ {} \". $place/words; $1\"; }}\n",
            ALONE.join(" ") + " sh -euc"
        );
        Command::new(ALONE[0])
            .args(&ALONE[1..])
            .args(["sh", "-c", &(head + script)])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The same, of a script that must not fail. Returns what it said.
    fn runs(&self, script: &str) -> String {
        let output = self.run(script);
        assert!(output.status.success(), "{output:#?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

fn alone(test: &'static str, body: impl FnOnce() + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: {test}: must be root");
        return;
    }
    if can_mount(test) {
        limited(test, 120, body);
    }
}

/// Signs images with a new key. Returns the public one.
fn sign(images: &[&Image]) -> String {
    let secret = images[0].directory.path().join("k");
    let made = ashlar(&["key", "generate", "--no-password", text(&secret)]);
    assert!(made.status.success(), "{made:?}");
    for image in images {
        let (digest, path) = (&image.digest, text(&image.path));
        let signed = ashlar(&["sign", "--key", text(&secret), "--root-digest", digest, path]);
        assert!(signed.status.success(), "{signed:?}");
    }
    let public = fs::read_to_string(secret.with_extension("pub")).unwrap();
    public.lines().nth(1).unwrap().to_owned()
}

/// An extension for any system.
fn extension(name: &str, options: &[&str], fill: impl FnOnce(&Path)) -> Image {
    Image::build(options, |tree| {
        let release = tree.join("usr/lib/extension-release.d");
        fs::create_dir_all(&release).unwrap();
        fs::write(release.join(format!("extension-release.{name}")), "ID=_any\n").unwrap();
        fill(tree);
    })
}

#[test]
fn the_root_is_read_only_and_var_is_kept() {
    alone("the_root_is_read_only_and_var_is_kept", || {
        let image = Image::build(&[], fill);
        let machine = Machine::new(&[("images/a.img", &image)]);
        let said = machine.runs(&format!(
            "setup ashlar={}\n\
             cat $root/which $root/var/lib/seed\n\
             refused touch $root/new; grep -q 'Read-only' $place/why\n\
             refused touch $root/etc/new\n\
             echo x >$root/tmp/x; echo mine >$root/var/lib/mine\n\
             cat $data/var/lib/mine\n\
             stat -c %a $root/tmp\n\
             grep -c \" $root fuse.ashlar\" /proc/mounts\n\
             $ashlar boot status\n\
             test $(stat -f -c %b $root) -gt 70000\n\
             for p in /proc/[0-9]*; do case $(tr '\\0' ' ' <$p/cmdline) in @ashlar*) echo server $(cat $p/comm) $(ls -A $p/root/ | wc -l);; esac; done\n",
            image.digest
        ));
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[..5], ["first", "seed", "mine", "1777", "1"], "{said}");
        assert!(said.contains("\nauthenticated by  root-digest\n"), "{said}");
        assert!(said.contains("\nserver ashlar 0\n"), "{said}");
    });
}

#[test]
fn whoever_stops_the_server_does_not_stop_the_root() {
    alone("whoever_stops_the_server_does_not_stop_the_root", || {
        let image = Image::build(&[], fill);
        let machine = Machine::new(&[("root.img", &image)]);
        let said = machine.runs(
            "setup ashlar=?root.img 2>$place/err\n\
             for p in /proc/[0-9]*; do case $(tr '\\0' ' ' <$p/cmdline) in @ashlar*) server=${p#/proc/};; esac; done\n\
             for n in 1 2 3 4 5 6 7 8 9; do kill -STOP $server; echo 3 >/proc/sys/vm/drop_caches; timeout 10 cat $root/bin/sh | wc -c; done\n",
        );
        assert_eq!(said, "300000\n".repeat(9));
    });
}

#[test]
fn without_a_word_to_us_nothing_happens() {
    alone("without_a_word_to_us_nothing_happens", || {
        let image = Image::build(&[], fill);
        let machine = Machine::new(&[("root.img", &image)]);
        let said = machine.runs("setup quiet root=/dev/sda1\nls $root; test ! -e /run/initramfs\n");
        assert_eq!(said, "root.img\n");
    });
}

#[test]
fn what_nobody_vouches_for_is_refused_and_all_is_as_it_was() {
    alone("what_nobody_vouches_for_is_refused_and_all_is_as_it_was", || {
        let image = Image::build(&[], fill);
        let machine = Machine::new(&[("root.img", &image)]);
        let wrong = "0".repeat(64);
        for (cmdline, why, hint) in [
            ("ashlar", "root.img: nothing vouches for it", "ashlar.key="),
            ("ashlar=other", "there is no image `other`", "images there: root.img"),
            (&format!("ashlar={wrong}"), "there is no image with root digest 0000", "images there"),
            (
                &format!("ashlar=root.img ashlar.roothash={wrong}"),
                "does not have the root digest",
                "check",
            ),
            ("ashlar ashlar.roothash=1", "is no digest", ""),
            (
                "ashlar ashlar.key=RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3",
                "not signed",
                "sign",
            ),
        ] {
            let said = machine.runs(&format!(
                "refused setup '{cmdline}'\ncat $place/why\necho\nls $root\n\
                 grep -c 'fuse.ashlar\\|/run/initramfs' /proc/mounts || true\n"
            ));
            assert!(said.ends_with("\nroot.img\n0\n"), "{cmdline}: {said}");
            assert!(said.contains("ashlar: error: ") && said.contains(why), "{cmdline}: {said}");
            assert!(said.contains(hint), "{cmdline}: {said}");
        }
        let said = machine.runs("setup ashlar=? 2>$place/err; cat $root/which; cat $place/err");
        assert!(said.starts_with("first\n") && said.contains("IS NOT AUTHENTICATED"), "{said}");
    });
}

#[test]
fn what_is_no_root_is_never_the_one_that_is_meant() {
    alone("what_is_no_root_is_never_the_one_that_is_meant", || {
        let version = |version: &str, which: &'static str| {
            Image::build(&["--image-version", version], move |tree| {
                fill(tree);
                fs::write(tree.join("which"), format!("{which}\n")).unwrap();
            })
        };
        let (old, new) = (version("1", "old"), version("2", "new"));
        let extension = extension("x", &["--image-version", "3"], |_| {});
        let key = sign(&[&old, &new, &extension]);
        let machine = Machine::new(&[
            ("images/old.img", &old),
            ("images/new.img", &new),
            ("images/extension.img", &extension),
        ]);
        for (words, which) in [
            ("", "new\n"),
            ("ashlar.fallback=no", "new\n"),
            ("ashlar.slot=previous", "old\n"),
            ("ashlar.slot=previous ashlar.fallback=no", "old\n"),
        ] {
            let said = machine.runs(&format!(
                "setup ashlar {words} ashlar.key={key} 2>$place/err || cat $place/err; cat $root/which"
            ));
            assert_eq!(said, which, "{words}");
        }
        // Bytes of a command line that are no text are for somebody else.
        let said = machine.runs(&format!(
            "setup \"$(printf 'other=\\377') ashlar ashlar.key={key}\"; cat $root/which"
        ));
        assert_eq!(said, "new\n");
    });
}

#[test]
fn a_damaged_first_program_is_found_before_it_is_needed() {
    alone("a_damaged_first_program_is_found_before_it_is_needed", || {
        let good = Image::build(&["--image-version", "1"], fill);
        let bad = Image::build(&["--image-version", "2"], |tree| {
            fill(tree);
            fs::write(tree.join("which"), "second\n").unwrap();
        });
        let key = sign(&[&good, &bad]);
        let machine = Machine::new(&[("images/good.img", &good), ("images/bad.img", &bad)]);
        // The newest, as long as it is whole.
        let said = machine.runs(&format!("setup ashlar ashlar.key={key}\ncat $root/which"));
        assert_eq!(said, "second\n");
        let said = machine
            .runs(&format!("setup ashlar ashlar.slot=previous ashlar.key={key}\ncat $root/which"));
        assert_eq!(said, "first\n");
        // The interpreter of init lies in the first block of data.
        let flip =
            "printf X | dd of=$root/images/bad.img bs=1 seek=100000 conv=notrunc 2>/dev/null";
        let said = machine.runs(&format!(
            "{flip}\nsetup ashlar ashlar.on-corruption=eio ashlar.key={key} 2>$place/err\n\
             cat $root/which $place/err\n$ashlar boot status | grep ^refused\n"
        ));
        assert!(said.starts_with("first\n"), "{said}");
        assert!(said.contains("images/bad.img is refused: "), "{said}");
        assert!(said.contains("which is needed to boot"), "{said}");
        assert!(said.contains("\nrefused           images/bad.img: "), "{said}");
        // Nothing but the one that is meant, when that is wanted: a digest means one.
        let digest = &bad.digest;
        for words in [
            "ashlar=bad ashlar.fallback=no".to_owned(),
            "ashlar ashlar.fallback=no".to_owned(),
            format!("ashlar={digest}"),
            format!("ashlar={digest} ashlar.slot=previous"),
            format!("ashlar=bad ashlar.roothash={digest}"),
        ] {
            let said = machine.runs(&format!(
                "{flip}\nrefused setup {words} ashlar.on-corruption=eio ashlar.key={key}\n\
                 cat $place/why\nls $root"
            ));
            assert!(said.contains("no image can be booted; images/bad.img: "), "{words}: {said}");
            assert!(said.ends_with("images\n"), "{words}: {said}");
        }
        let said = machine.runs(&format!(
            "{flip}\nsetup ashlar={digest} ashlar.fallback ashlar.on-corruption=eio ashlar.key={key}\n\
             cat $root/which"
        ));
        assert_eq!(said, "first\n");
        // Unless it may be healed: the other image has that block. Also where the data partition says so.
        for words in ["ashlar", "ashlar.on-corruption=heal ashlar"] {
            let said = machine.runs(&format!(
                "{flip}\nsetup {words} ashlar.key={key}\ncat $root/which\n\
                 $ashlar status --json $root | grep -A2 blocks_healed\n\
                 grep -o 'on-corruption.*' /run/ashlar/boot.json | head -c 22\n"
            ));
            assert!(said.starts_with("second\n") && said.contains("\"image\": "), "{said}");
            assert!(!said.contains("\"image\": 0"), "{said}");
            assert!(
                said.ends_with("on-corruption\": \"heal\"")
                    || said.ends_with("on-corruption\":\"heal\""),
                "{said}"
            );
        }
        let eio = machine.file("ashlar.toml", "on-corruption = \"eio\"\n");
        let said = eio.runs(&format!("{flip}\nsetup ashlar ashlar.key={key}\ncat $root/which"));
        assert_eq!(said, "first\n");
    });
}

#[test]
fn the_data_partition_vouches_for_nothing() {
    alone("the_data_partition_vouches_for_nothing", || {
        let image = Image::build(&[], fill);
        let extension =
            extension("evil", &[], |tree| fs::write(tree.join("which"), "evil\n").unwrap());
        let (root, other) = (&image.digest, &extension.digest);
        let images: &[(&str, &Image)] = &[("root.img", &image), ("images/e.img", &extension)];
        let file = format!("extension-override = [\"{other}\"]\n");
        let planted = Machine::new(images).file("ashlar.toml", &file);
        let said = planted.runs(&format!(
            "setup ashlar={root} 2>$place/err\ncat $root/which\n$ashlar boot status | grep ^degraded\n"
        ));
        assert!(said.starts_with("first\ndegraded"), "{said}");
        assert!(said.contains("is left out: nothing vouches for it"), "{said}");
        // Who is trusted may name it by its digest, and then whoever else does, too.
        let words = format!("ashlar={root} ashlar.extension-override={other}");
        let said = planted.runs(&format!("setup '{words}'\ncat $root/which\n"));
        assert_eq!(said, "evil\n");
        let said = planted.runs(
            "setup 'ashlar=?root.img' 2>$place/err\ncat $root/which\n\
             $ashlar boot status | grep -c 'degraded.*is not authenticated'\n",
        );
        assert_eq!(said, "evil\n1\n");
    });
}

#[test]
fn the_first_program_may_be_another_one() {
    alone("the_first_program_may_be_another_one", || {
        let image = Image::build(&[], |tree| {
            fill(tree);
            program(&tree.join("bin/other"), b"#!/bin/none\n");
        });
        let machine = Machine::new(&[("root.img", &image)]);
        let said = machine
            .runs("setup 'ashlar=? init=/bin/other'\ngrep '\"init\"' /run/ashlar/boot.json\n");
        assert!(said.contains("/bin/other"), "{said}");
        let said = machine.runs("refused setup 'ashlar=? init=/bin/nothing'\ncat $place/why\n");
        assert!(said.contains("there is no /bin/nothing in it"), "{said}");
    });
}

#[test]
fn state_goes_where_it_was_told_to() {
    alone("state_goes_where_it_was_told_to", || {
        let image = Image::build(&[], fill);
        let extension = Image::build(&[], |tree| {
            let release = tree.join("usr/lib/extension-release.d");
            fs::create_dir_all(&release).unwrap();
            fs::write(release.join("extension-release.tools"), "ID=test\nVERSION_ID=1\n").unwrap();
            fs::create_dir_all(tree.join("opt/extra")).unwrap();
            fs::write(tree.join("opt/extra/x"), "extra\n").unwrap();
            fs::write(tree.join("which"), "extension\n").unwrap();
        });
        let machine = Machine::new(&[("root.img", &image), ("images/tools.img", &extension)]);
        let overlay = machine.runs(
            "setup 'ashlar=? ashlar.overlay=tmpfs:size=8m'\n\
             echo new >$root/new; rm $root/which; echo e >$root/etc/hostname\n\
             cat /run/initramfs/ashlar/lower/which\ncat $root/new\ntest ! -e $root/which\nstat -f -c %T $root\n",
        );
        assert_eq!(overlay, "first\nnew\noverlayfs\n");
        let file =
            "etc = \"merge\"\nstate-overlay = [\"/opt\"]\nbind = [\"/root\", \"/etc/hostname\"]\n";
        let kept = Machine::new(&[("root.img", &image)]).file("ashlar.toml", file).runs(
            "setup ashlar=?\n\
             echo local >$root/etc/local; echo o >$root/opt/tool/own; echo r >$root/root/r; echo h >$root/etc/hostname\n\
             cat $data/state/etc.*/local $data/state/overlay/opt/upper/tool/own $data/state/bind/root/r $data/state/bind/etc-hostname\n\
             refused touch $root/sbin/x\n",
        );
        assert_eq!(kept, "local\no\nr\nh\n");
        let merged = machine.runs(
            "setup 'ashlar=?root.img ashlar.extension=tools'\ncat $root/opt/extra/x $root/which\nrefused touch $root/new\n",
        );
        assert_eq!(merged, "extra\nfirst\n");
        let bound = machine.runs(
            "setup 'ashlar=?root.img ashlar.extension=tools ashlar.bind=/opt/extra'\n\
             cat $root/opt/extra/x; echo mine >$root/opt/extra/x; cat $data/state/bind/opt-extra/x\n",
        );
        assert_eq!(bound, "extra\nmine\n");
        // Named twice, it is served once.
        let twice = machine.runs(
            "setup 'ashlar=?root.img ashlar.extension=tools,tools'\ncat $root/opt/extra/x\ngrep -c ' /run/initramfs/ashlar/extension/tools ' /proc/mounts\n",
        );
        assert_eq!(twice, "extra\n1\n");
        let over = machine.runs(
            "setup 'ashlar=?root.img ashlar.extension-override=tools ashlar.overlay=persistent'\n\
             cat $root/opt/extra/x $root/which\necho x >$root/x\ncat $data/state/overlay/@root/upper/x\n",
        );
        assert_eq!(over, "extra\nextension\nx\n");
        // A program of the initramfs is believed more than a file, and less than the command line.
        let hook = "mount -t tmpfs etc /etc; mkdir -p /etc/ashlar; \
                    printf '#!/bin/sh\\necho overlay=tmpfs etc=merge\\n' >/etc/ashlar/mode-hook; chmod +x /etc/ashlar/mode-hook";
        let asked = machine.runs(&format!(
            "{hook}\nsetup 'ashlar=?root.img ashlar.etc=ro'\necho x >$root/new; cat $root/new\n\
             $ashlar boot status | grep '^/etc\\|^overlay'\n"
        ));
        assert_eq!(asked, "x\noverlay           tmpfs\n/etc              ro\n");
        // An extension is no root, so it is not what was booted before.
        let previous = machine.runs("setup 'ashlar=? ashlar.slot=previous'\ncat $root/which\n");
        assert_eq!(previous, "first\n");
        let odd = machine.runs(
            "setup 'ashlar=?root.img ashlar.extension=none,../x ashlar.colour=blue ashlar.bind=/not/there' 2>$place/err\n\
             cat $root/which; grep -c 'left out\\|ignored\\|/not/there' $place/err\n$ashlar boot status | grep -c ^degraded\n",
        );
        assert_eq!(odd, "first\n4\n3\n");
    });
}

#[test]
fn a_pipe_in_the_place_of_a_file_stops_no_boot() {
    alone("a_pipe_in_the_place_of_a_file_stops_no_boot", || {
        let image = Image::build(&[], fill);
        let key = sign(&[&image]);
        let machine = Machine::new(&[("root.img", &image)]);
        let said = machine.runs(&format!(
            "mkdir $root/images; mkfifo $root/images/p.img $root/ashlar.toml $root/root.img.minisig\n\
             mount -t tmpfs etc /etc; mkdir -p /etc/ashlar/keys; mkfifo /etc/ashlar/keys/a.pub\n\
             setup ashlar ashlar.key={key} 2>$place/err\ncat $root/which\n\
             grep -c 'ashlar.toml is ignored: it is a pipe\\|a.pub: it is a pipe' $place/err\n\
             mkdir -p $data/state; mkfifo $data/state/overlay.disabled; timeout 20 $ashlar boot disable\n\
             $ashlar boot status | grep '^next boot'\n"
        ));
        assert_eq!(said, "first\n2\nnext boot         without the overlay\n");
    });
}

#[test]
fn bound_paths_do_not_get_into_each_other_s_way() {
    alone("bound_paths_do_not_get_into_each_other_s_way", || {
        let image = Image::build(&[], |tree| {
            fill(tree);
            fs::create_dir_all(tree.join(".x.seed")).unwrap();
            fs::create_dir_all(tree.join("x")).unwrap();
        });
        let machine = Machine::new(&[("root.img", &image)]);
        let said = machine.runs(
            "setup='setup \"ashlar=? ashlar.bind=/x,/.x.seed\"'\n\
             boots \"$setup; echo one >\\$root/x/a; echo two >\\$root/.x.seed/a\"\n\
             boots \"$setup; cat \\$root/x/a \\$root/.x.seed/a\"\n",
        );
        assert_eq!(said, "one\ntwo\n");
    });
}

#[test]
fn the_server_has_nothing_open_that_is_not_its_own() {
    alone("the_server_has_nothing_open_that_is_not_its_own", || {
        let image = Image::build(&[], fill);
        let machine = Machine::new(&[("root.img", &image)]);
        let said = machine.runs(
            "mkfifo $place/log; exec 7<>$place/log 8>$root/open\n\
             setup ashlar=? 2>$place/err\n\
             for p in /proc/[0-9]*; do case $(tr '\\0' ' ' <$p/cmdline) in @ashlar*) ls -l $p/fd;; esac; done\n",
        );
        assert!(said.contains("/dev/fuse"), "{said}");
        assert!(!said.contains("/log") && !said.contains("/open"), "{said}");
    });
}

#[test]
fn what_was_brought_up_to_date_is_so_until_the_next_image() {
    alone("what_was_brought_up_to_date_is_so_until_the_next_image", || {
        let one = Image::build(&[], fill);
        let two = Image::build(&[], |tree| {
            fill(tree);
            fs::write(tree.join("which"), "second\n").unwrap();
        });
        let machine = Machine::new(&[("images/one.img", &one), ("images/two.img", &two)]);
        for (modes, stamps) in [
            ("overlay=persistent ashlar.var=ro", "$root/etc/.updated $root/var/.updated"),
            ("etc=overlay", "$root/etc/.updated $root/var/.updated"),
        ] {
            let boot = |image: &str, script: &str| {
                format!("boots 'setup \"ashlar=?{image} ashlar.{modes}\"; {script}'\n")
            };
            let look = format!("ls {stamps} 2>/dev/null | wc -l");
            let said = machine.runs(
                &[boot("one", &format!("touch {stamps}")), boot("one", &look), boot("two", &look)]
                    .concat(),
            );
            assert_eq!(said, "2\n0\n", "{modes}");
        }
    });
}

#[test]
fn an_overriding_extension_must_be_whole_where_boot_needs_it() {
    alone("an_overriding_extension_must_be_whole_where_boot_needs_it", || {
        // As most distributions have it.
        let image = Image::build(&[], |tree| {
            fill(tree);
            fs::rename(tree.join("bin"), tree.join("usr-bin")).unwrap();
            symlink("usr-bin", tree.join("bin")).unwrap();
        });
        let hiding = extension("hiding", &[], |tree| {
            fs::create_dir(tree.join("bin")).unwrap();
            fs::write(tree.join("bin/other"), "").unwrap();
        });
        let shell = extension("shell", &[], |tree| {
            fs::create_dir(tree.join("bin")).unwrap();
            program(&tree.join("bin/sh"), &noise(8, 300_000));
        });
        let init = extension("init", &[], |tree| {
            fs::create_dir(tree.join("sbin")).unwrap();
            fs::write(tree.join("sbin/init"), "no program").unwrap();
        });
        let machine = Machine::new(&[
            ("root.img", &image),
            ("images/shell.img", &shell),
            ("images/init.img", &init),
            ("images/hiding.img", &hiding),
        ]);
        let hides = machine.runs(
            "setup 'ashlar=?root.img ashlar.extension-override=hiding' 2>$place/err\n\
             test -x $root/bin/sh; $ashlar boot status | grep 'left out'\n",
        );
        let why = "is left out: /bin/sh, which is needed to boot, is hidden";
        assert_eq!(hides, format!("degraded          extension `hiding` {why}\n"));
        let boot = "setup 'ashlar=?root.img ashlar.extension-override=shell,init' 2>$place/err\n\
                    lower=/run/initramfs/ashlar/lower\n\
                    cmp -s $root/sbin/init $lower/sbin/init; cmp -s $root/bin/sh $lower/bin/sh && echo own\n\
                    $ashlar boot status | grep 'left out\\|^overriding' || true\n";
        let only_init =
            "degraded          extension `init` is left out: /sbin/init is no program\n";
        assert_eq!(machine.runs(boot), format!("overriding        shell\n{only_init}"));
        let flip =
            "printf X | dd of=$root/images/shell.img bs=1 seek=100000 conv=notrunc 2>/dev/null\n";
        let said = machine.runs(&format!("{flip}{boot}"));
        assert!(
            said.starts_with("own\ndegraded          extension `shell` is left out: "),
            "{said}"
        );
        assert!(said.contains("/bin/sh, which is needed to boot: "), "{said}");
        assert!(said.ends_with(only_init), "{said}");
        // What only adds to the root is not in the way of what boot needs.
        let said = machine.runs(&format!("{flip}{}", boot.replace("-override", "")));
        assert_eq!(said, "own\n");
    });
}

#[test]
fn the_top_directory_is_the_root_s_own() {
    alone("the_top_directory_is_the_root_s_own", || {
        let image = Image::build(&[], |tree| {
            fill(tree);
            fs::set_permissions(tree, fs::Permissions::from_mode(0o751)).unwrap();
        });
        let closed = extension("closed", &[], |tree| {
            fs::write(tree.join("which"), "extension\n").unwrap();
            std::os::unix::fs::chown(tree, Some(1000), Some(1000)).unwrap();
            fs::set_permissions(tree, fs::Permissions::from_mode(0o700)).unwrap();
        });
        let machine = Machine::new(&[("root.img", &image), ("images/closed.img", &closed)]);
        for overlay in ["no", "tmpfs", "persistent"] {
            let said = machine.runs(&format!(
                "setup 'ashlar=?root.img ashlar.extension-override=closed ashlar.overlay={overlay}'\n\
                 stat -c '%a %u %g' $root; cat $root/which\n"
            ));
            assert_eq!(said, "751 0 0\nextension\n", "{overlay}");
        }
    });
}

#[test]
fn each_slot_has_its_image() {
    alone("each_slot_has_its_image", || {
        let [now, before, next] = ["now", "before", "next"].map(|which| {
            Image::build(&[], |tree| {
                fill(tree);
                fs::write(tree.join("which"), which).unwrap();
            })
        });
        let all = [("root.img", &now), ("root.img.prev", &before), ("root.img.new", &next)];
        let boots = |machine: &Machine, words: &str, first: &str| {
            machine.runs(&format!("{first}setup 'ashlar=? {words}' 2>$place/err\ncat $root/which"))
        };
        let machine = Machine::new(&all);
        assert_eq!(boots(&machine, "", ""), "now");
        assert_eq!(boots(&machine, "ashlar.slot=current", ""), "now");
        assert_eq!(boots(&machine, "ashlar.slot=previous", ""), "before");
        assert_eq!(boots(&machine, "ashlar.slot=next", ""), "next");
        // Each has the others behind it, but nobody boots a new one without having asked for it.
        let without = |name: &str| format!("echo >$root/{name}\n");
        assert_eq!(boots(&machine, "ashlar.slot=next", &without("root.img.new")), "now");
        assert_eq!(boots(&machine, "", &without("root.img")), "before");
        assert_eq!(boots(&machine, "ashlar.slot=previous", &without("root.img.prev")), "now");
        let broken = without("root.img") + &without("root.img.prev");
        let said = machine.runs(&format!("{broken}refused setup 'ashlar=?'\nls $root"));
        assert_eq!(said, "root.img\nroot.img.new\nroot.img.prev\n");
        let said = machine.runs(
            "rm $root/root.img.new\nsetup 'ashlar=? ashlar.slot=next' 2>$place/err\n\
             cat $root/which; grep -c 'slot=next is ignored' $place/err\n",
        );
        assert_eq!(said, "now1\n");
    });
}
