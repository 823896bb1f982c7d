//! Do SPEC.md, UPDATE.md and the code say the same? Every table and every numbered rule is compared.

use std::collections::{BTreeMap, BTreeSet};

use ashlarfs::format::defect::{Corrupt, Unsupported, Untrusted};
use ashlarfs::format::field::Field;
use ashlarfs::format::{
    self, context, dirent, entry, fec, inode, prefetch, run, superblock, trailer, xattr,
};
use ashlarfs::update::state::{BAD_MAX, TRIES, Why};
use ashlarfs::update::{delta, latest, record};

const SPEC: &str = include_str!("../format-spec/SPEC.md");
const UPDATE: &str = include_str!("../format-spec/UPDATE.md");

/// Cells of every table row, with the heading of the section it stands in; runs of rows are separate tables.
fn tables(page: &str) -> Vec<(String, Vec<Vec<String>>)> {
    let mut tables: Vec<(String, Vec<Vec<String>>)> = Vec::new();
    let (mut heading, mut inside) = (String::new(), false);
    for line in page.lines() {
        if let Some(text) = line.strip_prefix("## ").or_else(|| line.strip_prefix("### ")) {
            text.clone_into(&mut heading);
        }
        let is_row = line.starts_with('|');
        if is_row && !inside {
            tables.push((heading.clone(), Vec::new()));
        }
        inside = is_row;
        if is_row {
            let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
            tables.last_mut().unwrap().1.push(cells.collect());
        }
    }
    tables
}

fn number(text: &str) -> Option<usize> {
    match text.strip_prefix("0x") {
        Some(hex) => usize::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Layout tables (`offset | len | name | value`) in order of appearance.
fn layouts(page: &str) -> Vec<(String, Vec<Field>)> {
    tables(page)
        .into_iter()
        .filter(|(_, rows)| rows[0].starts_with(&["offset".into(), "len".into(), "name".into()]))
        .map(|(heading, rows)| {
            let fields = rows[2..].iter().filter_map(|row| {
                let name: &'static str = row[2].clone().leak();
                Some(Field { at: number(&row[0])?, len: number(&row[1])?, name })
            });
            (heading, fields.collect())
        })
        .collect()
}

#[test]
fn every_layout_is_the_codes() {
    let code: &[(&str, &[Field], usize)] = &[
        ("3. Superblock", superblock::FIELDS, superblock::LEN),
        ("4. Digest table", entry::FIELDS, entry::LEN),
        ("6. Inodes", inode::FIELDS, inode::LEN),
        ("6.1 Content of a regular file", run::FIELDS, run::LEN),
        ("6.2 Prefetch list", prefetch::FIELDS, prefetch::LEN),
        ("7. Directories", dirent::FIELDS, dirent::LEN),
        ("8. Extended attributes", xattr::FIELDS, xattr::HEAD_LEN),
        ("9. Signatures and trailer", trailer::HEAD_FIELDS, trailer::HEAD_LEN),
        ("9. Signatures and trailer", trailer::FOOT_FIELDS, trailer::FOOT_LEN),
        ("10. Parity", fec::FIELDS, fec::HEAD_LEN),
    ];
    compare(&layouts(SPEC), code);
    let code: &[(&str, &[Field], usize)] = &[
        ("Boot records", record::FIELDS, record::LEN),
        ("Delta files", delta::FIELDS, delta::HEAD_LEN),
        ("Delta files", delta::RANGE_FIELDS, delta::RANGE_LEN),
    ];
    compare(&layouts(UPDATE), code);
}

fn compare(spec: &[(String, Vec<Field>)], code: &[(&str, &[Field], usize)]) {
    assert_eq!(spec.len(), code.len(), "a layout table without code, or code without its table");
    for ((heading, fields), (code_heading, code_fields, len)) in spec.iter().zip(code) {
        assert_eq!(heading, code_heading);
        assert_eq!(fields, code_fields, "{heading}");
        // No gap, no overlap, nothing missing at the end.
        let end = fields.iter().fold(0, |at, field| {
            assert_eq!(field.at, at, "{heading}: {}", field.name);
            at + field.len
        });
        assert_eq!(end, *len, "{heading}");
    }
}

#[test]
fn every_rule_has_its_error() {
    let mut spec = BTreeMap::new();
    for (_, rows) in tables(SPEC).into_iter().filter(|(_, rows)| rows[0][0] == "rule") {
        for row in &rows[2..] {
            let violation = row[2].trim_matches('`').to_owned();
            assert!(spec.insert(row[0].clone(), violation).is_none(), "{} stands twice", row[0]);
        }
    }
    let mut code = BTreeMap::new();
    for (kind, rules) in [
        ("Untrusted", Untrusted::RULES),
        ("Corrupt", Corrupt::RULES),
        ("Unsupported", Unsupported::RULES),
    ] {
        for (rule, name) in rules {
            let twice = code.insert((*rule).to_owned(), format!("{kind}::{name}"));
            assert!(twice.is_none(), "{rule} stands twice");
        }
    }
    assert_eq!(spec, code);
}

#[test]
fn contexts_and_limits_are_the_codes() {
    let spec: BTreeSet<String> = tables(SPEC)
        .into_iter()
        .filter(|(_, rows)| rows[0].get(1).is_some_and(|cell| cell == "context string"))
        .flat_map(|(_, rows)| {
            rows[2..].iter().map(|row| row[1].trim_matches('`').to_owned()).collect::<Vec<_>>()
        })
        .collect();
    let code = [
        context::SUPERBLOCK,
        context::PAGE_LIST,
        context::TABLE_PAGE,
        context::METADATA_BLOCK,
        context::DATA_BLOCK,
        context::TRAILER,
        context::PARITY_HEAD,
        context::PARITY_TABLE,
        context::SHARD,
    ];
    assert_eq!(spec, code.iter().map(|text| (*text).to_owned()).collect());
    for (text, value) in [
        ("`format_version` | 1 |", u64::from(format::FORMAT_VERSION)),
        ("base-2 logarithm of the data block size, 12 to 20", u64::from(format::BLOCK_BITS_MAX)),
        ("each name 1 to 255 bytes long", format::NAME_MAX as u64),
        ("`size` between 1 and 4095", format::SYMLINK_MAX),
        ("deeper than 2048 below the root", format::DEPTH_MAX as u64),
        ("each `value_len` at most 65,536", u64::from(format::XATTR_VALUE_MAX)),
        ("signatures in it, 1 to 16", u64::from(format::SIGNATURES_MAX)),
        ("its length (4 bytes, 1 to 4096)", u64::from(format::SIGNATURE_LEN_MAX)),
        ("`S` = 4096 × ceil(`covered_len` / (4096 × 32,768))", u64::from(fec::DATA_COUNT_MAX)),
        ("shards of parity, 2 to 4096", u64::from(fec::PARITY_COUNT_MAX)),
        (
            "The table has one entry for each block, in the order in which the blocks lie. Its first 1024",
            u64::from(entry::ENTRIES_PER_PAGE),
        ),
    ] {
        let text = text.replace("`format_version` | 1 |", "format_version | 1 |");
        assert!(SPEC.contains(&text), "SPEC no longer says: {text}");
        assert!(text.replace(',', "").contains(&value.to_string()), "{text}: the code has {value}");
    }
    assert!(SPEC.contains("format, version 1\n"));
    let text = trailer::signed_text(&ashlarfs::Digest([0xab; 32]), 12);
    assert_eq!(text, format!("ashlar image\nroot-digest {}\nimage-version 12\n", "ab".repeat(32)));
}

#[test]
fn every_type_has_its_bits() {
    let (_, rows) = tables(SPEC).into_iter().find(|(_, rows)| rows[0][0] == "type").unwrap();
    for row in &rows[2..] {
        let bits = u16::try_from(number(&row[1]).unwrap()).unwrap();
        let kind = inode::Kind::from_mode(bits).unwrap_or_else(|| panic!("{} is unknown", row[0]));
        assert_eq!(kind.mode_bits(), bits);
    }
    assert_eq!(rows.len() - 2, 7);
}

#[test]
fn what_an_update_writes_is_what_its_page_says() {
    let (_, rows) = tables(UPDATE).into_iter().find(|(_, rows)| rows[0][0] == "number").unwrap();
    let spec: Vec<_> = rows[2..].iter().map(|row| (number(&row[0]).unwrap(), &*row[1])).collect();
    let code: Vec<_> = Why::ALL.map(|why| (usize::from(why.number()), why.word())).to_vec();
    assert_eq!(spec, code);
    let raw = record::Record::default().encode();
    let context = "ashlar update: boot record, version 1";
    let checksum = blake3::Hasher::new_derive_key(context).update(&raw[..0x1e0]).finalize();
    assert_eq!(raw[0x1e0..], *checksum.as_bytes());
    let shown = |magic: [u8; 8]| format!("`{}`", String::from_utf8(magic.to_vec()).unwrap());
    let texts = [
        format!("`H(\"{context}\", [0:0x1e0])`"),
        format!(
            "| magic | {} |\n| 0x008 | 4 | version | {} |",
            shown(record::MAGIC),
            record::VERSION
        ),
        format!("| magic | {} |\n| 0x08 | 4 | version | {} |", shown(delta::MAGIC), delta::VERSION),
        format!("images in `bad`, 0 to {BAD_MAX} |"),
        format!("as many tries as were asked for, {TRIES} if nobody said"),
        format!("at most {} bytes", latest::LEN_MAX),
        format!("1 to {} of `A-Z", latest::NAME_MAX),
    ];
    for text in texts {
        assert!(UPDATE.contains(&text), "UPDATE.md no longer says: {text}");
    }
    // The example is a manifest, but for its digest.
    let start = UPDATE.find("ashlar latest\n").unwrap();
    let example = UPDATE[start..].split_inclusive("```").next().unwrap().trim_end_matches("```");
    let example = example.replace("9f0c\u{2026}", &"9f0c".repeat(16));
    assert_eq!(latest::Latest::decode(example.as_bytes()).unwrap().encode().unwrap(), example);
}
