//! Is what is said to a machine that boots understood, or told to be odd, and never more than that?

use ashlarfs::boot::cmdline::{BootArgs, Wanted};
use ashlarfs::boot::config::Config;
use ashlarfs::fuse::mountinfo;
use ashlarfs::state::etc::Record;

/// What the kernel gives is text, or made so.
fn text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

/// A command line. Those that are not ours already become so, for the fuzzer need not find the word again and again.
pub(crate) fn cmdline(input: &[u8]) {
    let given = text(input);
    for line in [format!("ashlar=?root {given}"), given] {
        let parsed = BootArgs::parse(&line);
        if let Err(err) = &parsed {
            assert!(!err.to_string().is_empty());
        }
        // An even number of quotes: what follows is behind them.
        if line.matches('"').count() % 2 == 0 {
            let more = format!("{line} -- ashlar.fallback=perhaps ashlar=other init=/bin/sh");
            assert_eq!(
                BootArgs::parse(&more),
                parsed,
                "what is for the first program is not for us"
            );
        }
        let Ok(Some(args)) = parsed else { continue };
        match (&args.wanted, args.root_digest) {
            (Wanted::Digest(one), Some(other)) => assert_eq!(*one, other),
            (Wanted::Any, digest) => assert_eq!(digest, None),
            _ => {}
        }
        assert_eq!(args.may_fall_back(), args.fallback.unwrap_or(args.pinned().is_none()));
        assert!(args.init.as_ref().is_none_or(|path| path.starts_with('/')));
        assert!(args.odd.iter().all(|word| word.starts_with("ashlar.")));
        modes_come_back(args.config);
    }
}

/// What is understood is shown in words that are understood to be the same.
fn modes_come_back(config: Config) {
    let digests = config.extension_digests();
    let modes = config.modes();
    for place in modes.state_overlay.iter().chain(&modes.bind) {
        assert!(place.starts_with('/') && place.split('/').all(|name| name != ".."), "{place}");
        assert!(!place.contains([',', ':', '\\', '\0']), "{place}");
    }
    let mut again = Config::default();
    again.set("overlay", &modes.overlay.to_string()).unwrap();
    again.set("etc", &modes.etc.to_string()).unwrap();
    again.set("var", &modes.var.to_string()).unwrap();
    again.set("state-overlay", &modes.state_overlay.join(",")).unwrap();
    again.set("bind", &modes.bind.join(",")).unwrap();
    // A file may name an extension as the command line cannot: empty, or with a comma.
    let is_word = |name: &String| !name.is_empty() && !name.contains(',');
    let names = [&modes.extension, &modes.extension_override];
    if names.iter().all(|names| names.iter().all(is_word)) {
        again.set("extension", &modes.extension.join(",")).unwrap();
        again.set("extension-override", &modes.extension_override.join(",")).unwrap();
        assert_eq!(again.extension_digests(), digests);
        assert_eq!(again.clone().modes(), modes);
        // Who says the same later changes nothing.
        assert_eq!(again.clone().overruled_by(again.clone()), again);
    }
    assert_eq!(modes.has_extensions(), !names.iter().all(|names| names.is_empty()));
}

pub(crate) fn cmdline_seeds() -> Vec<Vec<u8>> {
    let digest = "ab".repeat(32);
    [
        "ro quiet ashlar=root ashlar.slot=previous ashlar.fallback=no panic=10 init=/sbin/init".to_owned(),
        format!("ashlar=?{digest} ashlar.roothash={digest} ashlar.key=RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"),
        "ashlar ashlar.overlay=tmpfs:size=50% ashlar.etc=merge ashlar.var=bind ashlar.debug".to_owned(),
        "ashlar ashlar.bind=/home,/root/.ssh ashlar.state-overlay=/opt ashlar.reset=1 ashlar.trace".to_owned(),
        "ashlar.extension=a,b ashlar.extension-override=c \"ashlar=with space\" ashlar.break=switch".to_owned(),
        "ashlar ashlar.config=off ashlar.without=stop,prune ashlar.odd=word -- ashlar=no".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

pub(crate) fn config(input: &[u8]) {
    let given = text(input);
    match Config::from_toml(&given) {
        Ok(config) => modes_come_back(config),
        Err(why) => assert!(!why.is_empty()),
    }
    // One word, as the command line has it.
    if let Some((name, value)) = given.split_once('=') {
        let mut config = Config::default();
        if config.set(name, value).is_ok() {
            modes_come_back(config);
        } else {
            assert_eq!(config, Config::default());
        }
    }
}

pub(crate) fn config_seeds() -> Vec<Vec<u8>> {
    [
        "overlay = \"tmpfs:size=1g\"\netc = \"merge\"\nvar = \"transient\"\n",
        "state-overlay = [\"/opt\", \"/srv/a\"]\nbind = [\"/home\"]\nextension = [\"a\", 'b']\n",
        "extension-override = [\n  \"c\", # a comment\n]\noverlay = \"persistent-move\"\n",
        "etc = 1\n",
        "overlay=persistent-clear",
        "bind=/home,/root",
        "a.b.c = {d = [[1,2],[3]], e = 1979-05-27T07:32:00Z}\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub(crate) fn mountinfo(input: &[u8]) {
    let mounts = mountinfo::parse(input);
    assert!(mounts.len() <= input.split(|byte| *byte == b'\n').count());
    let bytes = |mount: &mountinfo::Mount| {
        mount.mountpoint.as_os_str().len() + mount.source.as_os_str().len()
    };
    assert!(mounts.iter().map(bytes).sum::<usize>() <= input.len());
}

pub(crate) fn mountinfo_seeds() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 3] = [
        b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n",
        b"40 1 0:44 / /a\\040b ro,nosuid - fuse.ashlar /img\\134x ro,user_id=1000,group_id=0\n",
        b"41 1 0:45 / / rw shared:1 master:2 - tmpfs tmpfs\n\n42 x\n43 1 9:9:9 / / - - - user_id=-1\n",
    ];
    texts.map(<[u8]>::to_vec).to_vec()
}

/// Once as it came, and once between the first line and the last.
pub(crate) fn etc(input: &[u8]) {
    let lines = input.split(|byte| *byte == b'\n').count() - 1;
    let framed = [b"ashlar etc 1\n", input, format!("end {lines}\n").as_bytes()].concat();
    for raw in [input, &framed] {
        let Some(record) = Record::decode(raw) else { continue };
        let text = record.encode();
        assert_eq!(Record::decode(text.as_bytes()).as_ref(), Some(&record));
        // Half a file is none.
        for cut in [text.len() - 1, text.len() / 2, 0] {
            assert_eq!(Record::decode(&text.as_bytes()[..cut]), None);
        }
    }
}

pub(crate) fn etc_seeds() -> Vec<Vec<u8>> {
    let digest = "0123456789abcdef".repeat(4);
    let lines = [
        format!("{digest} d 0 1700000000.5 \n{digest} f 12 -1.999999999 a/b\\x20c\n"),
        format!("{} l 0 0.0 link\n", "0".repeat(64)),
    ];
    let whole = format!("ashlar etc 1\n{}end 2\n", lines[0]);
    lines.into_iter().chain([whole]).map(String::into_bytes).collect()
}
