//! From an ACL in words, as tar carries it, to the bytes in which the kernel keeps it (`system.posix_acl_*`).

use std::collections::HashMap;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

const VERSION: u32 = 2;
/// The id of entries that name nobody.
const NO_ID: u32 = u32::MAX;

/// Finds ids of users and groups that an ACL names. As tar does when it unpacks, it asks the machine it runs on.
#[derive(Debug, Default)]
pub(super) struct Names {
    users: Option<HashMap<Vec<u8>, u32>>,
    groups: Option<HashMap<Vec<u8>, u32>>,
}

impl Names {
    fn find(&mut self, tag: u16, name: &[u8]) -> Option<u32> {
        let (table, path) = match tag {
            USER => (&mut self.users, "/etc/passwd"),
            _ => (&mut self.groups, "/etc/group"),
        };
        table.get_or_insert_with(|| read_names(path)).get(name).copied()
    }
}

/// The third field of each line by its first.
fn read_names(path: &str) -> HashMap<Vec<u8>, u32> {
    let text = std::fs::read(path).unwrap_or_default();
    let line = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next()?.to_vec();
        Some((name, id(fields.nth(1)?)?))
    };
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

fn id(digits: &[u8]) -> Option<u32> {
    super::pax::decimal(digits).and_then(|id| u32::try_from(id).ok()).filter(|id| *id != NO_ID)
}

/// Which of a file's ACLs: a directory's default one says what its new files get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Access,
    Default,
}

/// The kernel's form of an ACL; `None` for one that the kernel would not keep.
pub(super) fn encode(
    text: &[u8],
    which: Which,
    names: &mut Names,
) -> Result<Option<Vec<u8>>, String> {
    let mut entries = Vec::new();
    for entry in text.split(|byte| matches!(byte, b'\n' | b',')) {
        // getfacl's way to tell what the mask leaves.
        let entry = entry.split(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii();
        if !entry.is_empty() {
            entries.push(
                parse(entry, names).map_err(|why| {
                    format!("the ACL entry `{}` {why}", crate::text::shown(entry))
                })?,
            );
        }
    }
    entries.sort_unstable();
    // Three entries are what the mode says already; but a default ACL has no mode beside it.
    let is_mode = entries.iter().all(|(tag, ..)| matches!(*tag, USER_OBJ | GROUP_OBJ | OTHER));
    let is_kept = if which == Which::Access { !is_mode } else { !entries.is_empty() };
    Ok(is_kept.then(|| bytes(&entries)))
}

fn bytes(entries: &[(u16, u32, u16)]) -> Vec<u8> {
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// Tag, id and permissions of `user:NAME:rwx`; star adds the id as a fourth field.
fn parse(entry: &[u8], names: &mut Names) -> Result<(u16, u32, u16), &'static str> {
    let fields: Vec<_> = entry.split(|byte| *byte == b':').map(<[u8]>::trim_ascii).collect();
    let (kind, name, permissions, number) = match fields.as_slice() {
        // Solaris and old tools leave the name away where there is none.
        [kind @ (b"other" | b"o" | b"mask" | b"m"), permissions] => {
            (*kind, &b""[..], *permissions, None)
        }
        [kind, name, permissions] => (*kind, *name, *permissions, None),
        [kind, name, permissions, number] => (*kind, *name, *permissions, Some(*number)),
        _ => return Err("is malformed"),
    };
    let tag = match (kind, name.is_empty()) {
        (b"user" | b"u", true) => USER_OBJ,
        (b"user" | b"u", false) => USER,
        (b"group" | b"g", true) => GROUP_OBJ,
        (b"group" | b"g", false) => GROUP,
        (b"mask" | b"m", true) => MASK,
        (b"other" | b"o", true) => OTHER,
        _ => return Err("is of no known kind"),
    };
    let id = if name.is_empty() {
        NO_ID
    } else {
        number
            .and_then(id)
            .or_else(|| id(name))
            .or_else(|| names.find(tag, name))
            .ok_or("names somebody whom this machine does not know")?
    };
    let bits = permissions.iter().try_fold(0, |bits, letter| match letter {
        b'r' => Some(bits | 4),
        b'w' => Some(bits | 2),
        b'x' => Some(bits | 1),
        b'-' => Some(bits),
        _ => None,
    });
    Ok((tag, id, bits.ok_or("has permissions other than r, w and x")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> String {
        let encoded = encode(text.as_bytes(), Which::Access, &mut Names::default())
            .unwrap()
            .unwrap_or_default();
        encoded.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    }

    #[test]
    fn the_kernel_form() {
        // setfacl -m u:1000:rw,g:50:r FILE; getfattr -e hex -n system.posix_acl_access FILE
        let expected = "0200000001000600ffffffff02000600e803000004000400ffffffff080004003200000010000600ffffffff20000400ffffffff";
        assert_eq!(
            hex("user::rw-\nuser:1000:rw-\ngroup::r--\ngroup:50:r--\nmask::rw-\nother::r--\n"),
            expected
        );
        assert_eq!(
            hex(
                "other::r--,mask::rw-,group:50:r--:50,user:nobody-here:rw-:1000,user::rw-,group::r--"
            ),
            expected
        );
        assert_eq!(hex("u::rw\nu:1000:rw-\t#effective:r--\ng::r\ng:50:r\nm:rw\no:r"), expected);
        assert!(
            hex("user::rw-\nuser:root:rw-\ngroup::r--\nmask::rw-\nother::r--")
                .contains("0200060000000000")
        );
    }

    #[test]
    fn a_mode_in_words_is_no_acl_but_a_default_one_is() {
        let text = b"user::rw-\ngroup::r--\nother::r--";
        assert_eq!(encode(text, Which::Access, &mut Names::default()), Ok(None));
        let bytes = encode(text, Which::Default, &mut Names::default()).unwrap().unwrap();
        assert_eq!(bytes.len(), 4 + 3 * 8);
        assert_eq!(encode(b"", Which::Default, &mut Names::default()), Ok(None));
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for bad in
            ["user", "user:x", "king::rwx", "user::rwz", "user:no such user:rwx", "mask:5:rwx"]
        {
            assert!(encode(bad.as_bytes(), Which::Access, &mut Names::default()).is_err(), "{bad}");
        }
    }
}
