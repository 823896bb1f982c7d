//! Where are the pieces of a sparse file? GNU's old way keeps the map in the header and records after it, its newer
//! ones in extended headers (0.0 and 0.1) or before the content (1.0).

use super::content::{Extent, Place};
use super::header::{Header, NoNumber, RECORD_LEN};
use super::input::Input;
use super::pax::{EXTENTS_MAX, Sparse, decimal};
use crate::Failure;

/// Digits of the longest number that a map can have: 2^64 - 1.
const DIGITS_MAX: usize = 20;

/// Offsets and lengths, the file's whole size, and how many bytes before the content the map took.
type Map = (Vec<(u64, u64)>, Option<u64>, u64);

/// Passes over a file's content of `stored_len` bytes; tells where it was kept.
pub(super) fn content(
    input: &mut Input,
    header: Header<'_>,
    sparse: &Sparse,
    stored_len: u64,
) -> Result<Place, Failure> {
    let map = match (header.type_flag(), sparse.major, &sparse.map) {
        (b'S', ..) => {
            let map = old_map(input, header)?;
            let size = header.sparse_size().map_err(|err| no_number(input, &err))?;
            (map, u64::try_from(size).ok(), 0)
        }
        (_, None | Some(0), Some(map)) => (map.clone(), sparse.size, 0),
        (_, Some(1), _) if sparse.minor.unwrap_or(0) == 0 => {
            let (map, map_len) = leading_map(input, stored_len)?;
            (map, sparse.size, map_len)
        }
        (_, None, None) => {
            let kept_at = input.keep(stored_len)?;
            return Ok(Place::Whole { kept_at, size: stored_len });
        }
        _ => return Err(input.damaged("a file is sparse in a way that is not known")),
    };
    let (mut extents, size, stored_len) =
        check(map, stored_len).ok_or_else(|| impossible(input))?;
    let kept_at = input.keep(stored_len)?;
    for extent in &mut extents {
        extent.kept_at += kept_at;
    }
    Ok(Place::Sparse { extents: extents.into(), size })
}

/// Pieces counted from the start of what is stored, the file's size, and how much is stored.
fn check((map, size, map_len): Map, stored_len: u64) -> Option<(Vec<Extent>, u64, u64)> {
    let size = size.filter(|size| i64::try_from(*size).is_ok())?;
    let stored_len = stored_len.checked_sub(map_len)?;
    let mut extents = Vec::with_capacity(map.len());
    let (mut end, mut taken) = (0_u64, 0_u64);
    for (offset, len) in map {
        if offset < end {
            return None;
        }
        end = offset.checked_add(len).filter(|end| *end <= size)?;
        if len > 0 {
            extents.push(Extent { offset, len, kept_at: taken });
        }
        taken = taken.checked_add(len)?;
    }
    (taken == stored_len).then_some((extents, size, stored_len))
}

fn old_map(input: &mut Input, header: Header<'_>) -> Result<Vec<(u64, u64)>, Failure> {
    let (mut map, mut more) = header.sparse_map().map_err(|err| no_number(input, &err))?;
    while more {
        let record = input.record()?.ok_or_else(|| input.cut_off())?;
        let entries = Header(&record).more_sparse_map();
        let (entries, again) = entries.map_err(|err| no_number(input, &err))?;
        map.extend(entries);
        more = again;
        if map.len() > EXTENTS_MAX {
            return Err(input.damaged("a sparse file has too many pieces"));
        }
    }
    map.into_iter()
        .map(|(offset, len)| Some((u64::try_from(offset).ok()?, u64::try_from(len).ok()?)))
        .collect::<Option<_>>()
        .ok_or_else(|| impossible(input))
}

/// The map of version 1.0, and the length of the records in which it stands: decimal numbers, one a line, the first of
/// which tells how many pairs follow.
fn leading_map(input: &mut Input, stored_len: u64) -> Result<(Vec<(u64, u64)>, u64), Failure> {
    let mut numbers: Vec<u64> = Vec::new();
    let mut wanted = 1;
    let mut digits = Vec::new();
    let mut map_len = 0;
    while numbers.len() < wanted {
        map_len += RECORD_LEN as u64;
        if map_len > stored_len {
            return Err(input.damaged("the map of a sparse file has no end"));
        }
        let record = input.record()?.ok_or_else(|| input.cut_off())?;
        for byte in record {
            if byte != b'\n' {
                if digits.len() == DIGITS_MAX {
                    return Err(impossible(input));
                }
                digits.push(byte);
                continue;
            }
            let number = decimal(&digits).ok_or_else(|| impossible(input))?;
            digits.clear();
            if numbers.is_empty() {
                let pairs = usize::try_from(number).ok().filter(|pairs| *pairs <= EXTENTS_MAX);
                let pairs = pairs.ok_or_else(|| impossible(input))?;
                // A pair takes four bytes at least.
                if 4 * pairs as u64 > stored_len {
                    return Err(input.damaged("the map of a sparse file has no end"));
                }
                wanted += 2 * pairs;
            }
            numbers.push(number);
            if numbers.len() == wanted {
                break;
            }
        }
    }
    let (pairs, _) = numbers[1..].as_chunks::<2>();
    Ok((pairs.iter().map(|[offset, len]| (*offset, *len)).collect(), map_len))
}

fn impossible(input: &Input) -> Failure {
    input.damaged("the map of a sparse file is impossible")
}

fn no_number(input: &Input, NoNumber(field): &NoNumber) -> Failure {
    input.damaged(format!("the {field} of a header is no number"))
}
