//! Does damage come back from parity, wherever it lies, byte for byte, and never anything else?

#[path = "support/parity.rs"]
mod parity;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ashlarfs::fec::{self, Repairer};
use ashlarfs::format::fec::HEAD_LEN;
use ashlarfs::store::proof;
use ashlarfs::{Source, verify};
use parity::image::{self, Memory, noise};
use parity::{Bench, ashlar, code, text};

#[test]
fn parity_changes_nothing_but_what_follows() {
    let bench = Bench::new(&["--fec", "-j", "1"]);
    let without = Bench::new(&[]);
    assert_eq!(bench.digest, without.digest);
    assert!(bench.whole.starts_with(&without.whole));
    assert!(Bench::new(&["--fec=0.8", "-j", "4"]).whole == bench.whole, "it is reproducible");
    let geometry = bench.geometry();
    assert_eq!(geometry.covered_len(), without.whole.len() as u64);
    let section = geometry.end() - geometry.covered_len();
    assert_eq!(bench.whole.len() as u64, geometry.end());
    // Of 4.7 MB the tables and what is rounded up are a larger part than of an image of its usual size.
    assert!(section * 1000 < 15 * geometry.covered_len(), "{section}");
    assert!(Bench::new(&["--fec=5"]).whole.len() > bench.whole.len() + (bench.whole.len() / 25));
    let inspected = ashlar(&["inspect", "--json"], &bench.path("image"));
    let json: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(json["parity"]["bytes"], section);
    assert_eq!(json["parity"]["parity_shards"], geometry.parity_count());
    assert!(text(&ashlar(&["inspect"], &bench.path("image"))).contains("may be lost"));
    assert_eq!(code(&ashlar(&["verify"], &bench.path("image"))), Some(0));
    for bad in ["--fec=0", "--fec=11", "--fec=much", "--fec=-1"] {
        let args = ["mkimage", "--quiet", bad, "/proc/self/attr", "/dev/null"];
        let failed = ashlarfs_mkimage::run(args).unwrap_err();
        assert!(failed.message.contains("percentage"), "{failed:?}");
    }
}

/// Acceptance D4: 0.8 % of the file in one piece, wherever it lies.
#[test]
fn one_hole_of_its_share_comes_back_wherever_it_is() {
    let bench = Bench::new(&["--fec", "--sign-key", key().to_str().unwrap()]);
    let geometry = bench.geometry();
    let len = bench.whole.len();
    let hole = len * 8 / 1000;
    let borders = [
        0,
        4096,
        geometry.covered_len() as usize,
        geometry.section_offset() as usize,
        geometry.parity_offset() as usize,
        geometry.second_table_offset() as usize,
        geometry.second_head_offset() as usize,
        len,
    ];
    let around = borders.iter().flat_map(|border| {
        [
            border.saturating_sub(hole),
            border.saturating_sub(hole / 2),
            border.saturating_sub(1),
            *border,
        ]
    });
    let all = around.chain((0..len).step_by(hole * 3 / 4));
    let mut count = 0;
    for start in all.filter(|start| *start < len) {
        let mut bytes = bench.whole.clone();
        let end = (start + hole).min(len);
        match count % 3 {
            0 => bytes[start..end].fill(0),
            1 => bytes[start..end].copy_from_slice(&noise(start as u64, end - start)),
            _ => bytes[start..end].iter_mut().for_each(|byte| *byte ^= 0xff),
        }
        assert!(bench.repaired(bytes).is_some_and(|bytes| bytes == bench.whole), "{start}..{end}");
        count += 1;
    }
    assert!(count > 150, "{count}");
    // What is cut off is a hole at the end, and what follows is no part of it.
    for cut in [1, 100, 4096, hole] {
        let bytes = bench.whole[..len - cut].to_vec();
        assert!(
            bench.repaired(bytes).is_some_and(|bytes| bytes == bench.whole),
            "{cut} bytes are cut off"
        );
        let bytes = [bench.whole.as_slice(), &noise(1, cut)].concat();
        assert!(
            bench.repaired(bytes).is_some_and(|bytes| bytes == bench.whole),
            "{cut} bytes follow"
        );
    }
}

/// As many shards as there are of parity may be hit, in places that have nothing to do with each other; one more is too much.
#[test]
fn scattered_damage_comes_back_up_to_the_limit() {
    let bench = Bench::new(&["--fec"]);
    let geometry = bench.geometry();
    let most = geometry.parity_count();
    for seed in 0..20_u64 {
        let order = |shard: &u32| {
            blake3::hash(&[seed.to_le_bytes(), u64::from(*shard).to_le_bytes()].concat())
                .to_string()
        };
        let mut shards: Vec<u32> = (0..geometry.count()).collect();
        shards.sort_by_key(order);
        let mut bytes = bench.whole.clone();
        for (nth, shard) in shards.iter().enumerate().take(most as usize + 1) {
            let place = geometry.place(*shard);
            let at = place.start + (nth as u64 * 997) % (place.end - place.start);
            bytes[at as usize] ^= 1 << (nth % 8);
            if nth + 1 == most as usize {
                assert!(bench.repaired(bytes.clone()).is_some_and(|bytes| bytes == bench.whole));
            }
        }
        assert!(bench.repaired(bytes.clone()).is_none());
        let source: Arc<dyn Source> = Memory::new(bytes);
        let repairer = Repairer::open(source).unwrap().unwrap();
        assert!(repairer.repair(0, &mut [0; 4096]).is_err());
    }
}

/// Where both tables of checksums are damaged, each entry still counts where either copy is right; one that is lost twice costs a
/// shard that is whole.
#[test]
fn either_table_says_which_shards_are_lost() {
    let bench = Bench::new(&["--fec"]);
    let geometry = bench.geometry();
    let (first, second) = (geometry.table_offset(), geometry.second_table_offset());
    let mut bytes = bench.whole.clone();
    // All but a few entries of one copy, and of the other one these few.
    bytes[first as usize..][..4 * 600].fill(0);
    bytes[second as usize + 4 * 600..][..4 * (geometry.count() as usize - 600)].fill(0);
    let source = Memory::new(bytes.clone());
    let head = fec::find(&*source).unwrap();
    let damage = fec::scan(&*source, &head, 2, &|_, _| {}).unwrap();
    assert!(damage.data().is_empty() && damage.parity().is_empty());
    bytes[second as usize + 4 * 17] ^= 1;
    bytes[4096 * 20] ^= 1;
    let damage = fec::scan(&*Memory::new(bytes.clone()), &head, 2, &|_, _| {}).unwrap();
    assert!(damage.data() == [17_u32, 20]);
    assert!(bench.repaired(bytes).is_some_and(|bytes| bytes == bench.whole));
}

/// Heads that say anything, true as far as their checksums go: nothing panics, nothing takes memory that the file does not
/// warrant, and the image is as readable as it was.
#[test]
fn hostile_heads_do_no_harm() {
    let bench = Bench::new(&["--fec"]);
    let geometry = bench.geometry();
    let covered = &bench.whole[..geometry.covered_len() as usize];
    let lens = [
        1,
        4095,
        4096,
        covered.len() as u64 - 1,
        covered.len() as u64,
        covered.len() as u64 + 1,
        1 << 32,
        1 << 47,
        1 << 48,
        u64::MAX,
    ];
    for covered_len in lens {
        for parity_count in [0, 1, 2, 3, 4096, 4097, u32::MAX] {
            for section_len in [HEAD_LEN, 4096, 3 * 4096] {
                let mut bytes = covered.to_vec();
                bytes.resize(geometry.section_offset() as usize + section_len.max(2 * HEAD_LEN), 0);
                let mut head = [0; HEAD_LEN];
                head[..8].copy_from_slice(b"ASHLFECS");
                head[8..16].copy_from_slice(&covered_len.to_le_bytes());
                head[16..20].copy_from_slice(&parity_count.to_le_bytes());
                head[HEAD_LEN - 8..].copy_from_slice(b"ASHLFECE");
                let sum = proof::hash_parity_head(&head);
                head[0x38..0x58].copy_from_slice(&sum.0);
                let len = bytes.len();
                bytes[geometry.section_offset() as usize..][..HEAD_LEN].copy_from_slice(&head);
                bytes[len - HEAD_LEN..].copy_from_slice(&head);
                let source: Arc<dyn Source> = Memory::new(bytes.clone());
                assert!(
                    !verify::verify(&source, bench.digest, &verify::Options::default()).is_clean()
                );
                assert!(image::open(bytes.clone(), bench.digest).is_ok());
                if let Some(repairer) = Repairer::open(source).unwrap() {
                    assert!(repairer.repair(0, &mut [0; 100]).is_err());
                }
                assert!(bench.repaired(bytes).is_none());
            }
        }
    }
}

/// Damage to parity is found, and costs nothing but parity.
#[test]
fn damaged_parity_leaves_the_image_readable() {
    let bench = Bench::new(&["--fec"]);
    let geometry = bench.geometry();
    let section = geometry.covered_len() as usize..bench.whole.len();
    for at in section.clone().step_by(section.len() / 97).chain([section.start, section.end - 1]) {
        let mut bytes = bench.whole.clone();
        bytes[at] ^= 0x10;
        let source: Arc<dyn Source> = Memory::new(bytes.clone());
        let report = verify::verify(&source, bench.digest, &verify::Options::default());
        let found: Vec<_> =
            report.findings.iter().map(|finding| finding.error.to_string()).collect();
        assert!(
            found.len() == 1 && found[0].starts_with("the parity is damaged"),
            "{at}: {found:?}"
        );
        assert_eq!(report.bytes_checked, bytes.len() as u64);
        let tree = image::open(bytes.clone(), bench.digest).unwrap();
        assert!(tree.resolve(b"file39").is_ok());
        assert!(bench.repaired(bytes).is_some_and(|bytes| bytes == bench.whole), "{at}");
    }
}

fn key() -> PathBuf {
    let path =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fec-{}.key", std::process::id()));
    if !path.exists() {
        let draft = path.with_extension(format!("{:?}", std::thread::current().id()));
        let args = ["key", "generate", "--no-password"];
        assert!(ashlar(&args, &draft).status.success());
        fs::rename(
            draft.with_extension(format!("{}.pub", draft.extension().unwrap().to_str().unwrap())),
            path.with_extension("key.pub"),
        )
        .unwrap();
        fs::rename(&draft, &path).unwrap();
    }
    path
}
