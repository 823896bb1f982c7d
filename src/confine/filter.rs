//! How does the kernel learn which system calls are allowed? As a filter for all threads of the process (seccomp(2)).
//!
//! What is not allowed fails with ENOSYS, as on a kernel that does not have it. Not with death, for a call that was
//! forgotten here (a new C library makes new ones) would stop a machine that `/` hangs from. Not with EPERM, for the C
//! library has an older way where a call is not there, but takes a "not permitted" for an answer: with `clone3`, whose flags
//! a filter cannot see, it goes back to `clone`, whose flags it can. And not with a line in the audit log: whoever writes
//! one waits while that is full, for up to a minute, and who would empty it may be waiting for us.
//!
//! The library hands the filter over; the filter is written here. Its own compiler has death for what comes by another
//! architecture's numbers, and was most of what confinement added to the boot binary.

use rustix::thread::SecureComputingMode;
use seccompiler::sock_filter;

use super::Network;
use super::allowed::{ALLOWED, Call, NETWORK, Test};

/// Forbids all threads of this process what is not allowed, and to gain privileges by starting programs.
pub(super) fn install(network: Network) -> Result<(), String> {
    let program = compile(std::env::consts::ARCH, network)
        .ok_or_else(|| format!("there is no filter for {}", std::env::consts::ARCH))?;
    seccompiler::apply_filter_all_threads(&program).map_err(|err| {
        // Ours is never there before: who is started by one that has it does not come here.
        let is_filtered =
            rustix::thread::secure_computing_mode() == Ok(SecureComputingMode::Filter);
        let whose =
            if is_filtered { " (somebody else's filter is in force: a container's?)" } else { "" };
        format!("{err}{whose}")
    })
}

/// The numbers of `linux/audit.h` for architectures, by their names here. On others the numbers of calls mean something else.
const ARCHITECTURES: [(&str, u32); 3] =
    [("x86_64", 0xc000_003e), ("aarch64", 0xc000_00b7), ("riscv64", 0xc000_00f3)];

// Where what is looked at stands in `struct seccomp_data` (`linux/seccomp.h`). All of these architectures have the low half of
// an argument first.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;
const ARGUMENT_LEN: u32 = 8;

/// `SECCOMP_RET_ALLOW`.
const ALLOW: u32 = 0x7fff_0000;
/// `SECCOMP_RET_ERRNO`, with ENOSYS: the same number on all of these architectures.
const REFUSE: u32 = 0x0005_0026;

/// The filter as a program for the kernel (`linux/filter.h`). What calls without conditions get is the same whatever else is
/// true, so the kernel remembers it (since Linux 5.11) and does not run this for them.
fn compile(architecture: &str, network: Network) -> Option<Vec<sock_filter>> {
    let (_, architecture) = ARCHITECTURES.into_iter().find(|(name, _)| *name == architecture)?;
    // A call by the numbers of another architecture is none of ours.
    let mut program =
        vec![load(ARCHITECTURE_AT), skip_one_if(architecture), answer(REFUSE), load(NUMBER_AT)];
    for call in calls(network) {
        let body = body(call)?;
        program.push(skip_unless(u32::try_from(call.number).ok()?, u8::try_from(body.len()).ok()?));
        program.extend(body);
    }
    program.push(answer(REFUSE));
    Some(program)
}

/// What is allowed. Of two for the same call the first one counts.
fn calls(network: Network) -> impl Iterator<Item = &'static Call> {
    let more = if network == Network::Open { NETWORK } else { &[] };
    more.iter().chain(ALLOWED.iter().flat_map(|(_, calls)| *calls))
}

/// What is done about a call that has the right number.
fn body(call: &Call) -> Option<Vec<sock_filter>> {
    if call.ways.is_empty() {
        return Some(vec![answer(ALLOW)]);
    }
    let mut body = Vec::new();
    for tests in call.ways {
        // Three instructions for each test, and one behind the last.
        let mut left = u8::try_from(tests.len()).ok()?.checked_mul(3)?;
        for Test { argument, mask, value } in *tests {
            left = left.checked_sub(3)?;
            let at = argument.checked_mul(ARGUMENT_LEN)?.checked_add(ARGUMENTS_AT)?;
            body.extend([load(at), and(*mask), skip_unless(*value, left.checked_add(1)?)]);
        }
        body.push(answer(ALLOW));
    }
    body.push(answer(REFUSE));
    Some(body)
}

/// `BPF_LD | BPF_W | BPF_ABS`
fn load(at: u32) -> sock_filter {
    sock_filter { code: 0x20, jt: 0, jf: 0, k: at }
}

/// `BPF_ALU | BPF_AND | BPF_K`
fn and(mask: u32) -> sock_filter {
    sock_filter { code: 0x54, jt: 0, jf: 0, k: mask }
}

/// `BPF_JMP | BPF_JEQ | BPF_K`: skips so many instructions unless what was loaded is this.
fn skip_unless(value: u32, count: u8) -> sock_filter {
    sock_filter { code: 0x15, jt: 0, jf: count, k: value }
}

/// The same: skips an instruction if it is.
fn skip_one_if(value: u32) -> sock_filter {
    sock_filter { code: 0x15, jt: 1, jf: 0, k: value }
}

/// `BPF_RET | BPF_K`
fn answer(answer: u32) -> sock_filter {
    sock_filter { code: 0x06, jt: 0, jf: 0, k: answer }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel makes of the program, for a call with these arguments.
    fn run(program: &[sock_filter], architecture: u32, number: u32, arguments: [u32; 6]) -> u32 {
        let (mut at, mut held) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            match code {
                0x20 => {
                    held = match k {
                        NUMBER_AT => number,
                        ARCHITECTURE_AT => architecture,
                        k => arguments[usize::try_from((k - ARGUMENTS_AT) / ARGUMENT_LEN).unwrap()],
                    }
                }
                0x54 => held &= k,
                0x15 => at += usize::from(if held == k { jt } else { jf }),
                0x06 => return k,
                _ => panic!("{code:#x}"),
            }
        }
    }

    #[test]
    fn a_filter_for_each_architecture_says_what_the_table_says() {
        assert_eq!(rustix::io::Errno::NOSYS.raw_os_error(), 0x26);
        let filters = ARCHITECTURES.into_iter().map(|it| (it, Network::Closed));
        for ((name, architecture), network) in filters.chain([(ARCHITECTURES[0], Network::Open)]) {
            let program = compile(name, network).unwrap();
            // BPF_MAXINSNS
            assert!(program.len() < 4096, "{}", program.len());
            for number in 0..480 {
                let call = calls(network).find(|call| call.number == i64::from(number));
                // None of the bits, all, and each pattern of a single bit, in each argument.
                let patterns =
                    (0..6).flat_map(|argument| (0..32).map(move |bit| (argument, 1 << bit)));
                let others = [
                    (0, 0),
                    (0, u32::MAX),
                    (2, u32::MAX),
                    (0, 15),
                    (0, 57),
                    (4, 0x1000),
                    (1, 0x5421),
                    (1, 0x541b),
                    (0, 10),
                ];
                for (argument, pattern) in patterns.chain(others) {
                    let mut arguments = [0; 6];
                    arguments[argument] = pattern;
                    let fits = |test: &Test| {
                        arguments[usize::try_from(test.argument).unwrap()] & test.mask == test.value
                    };
                    let is_allowed = call.is_some_and(|call| {
                        call.ways.is_empty() || call.ways.iter().any(|tests| tests.iter().all(fits))
                    });
                    let expected = if is_allowed { ALLOW } else { REFUSE };
                    let found = run(&program, architecture, number, arguments);
                    assert_eq!(found, expected, "call {number}, {arguments:?}");
                    let elsewhere = run(&program, architecture ^ 1, number, arguments);
                    assert_eq!(elsewhere, REFUSE, "call {number}");
                }
            }
        }
        assert!(compile("pdp11", Network::Closed).is_none());
    }

    /// Whoever has a filter that forbids another one, as some containers do, is told that ours is not in force.
    #[test]
    fn a_filter_of_somebody_else_is_none_of_ours() {
        let number = u32::try_from(libc::SYS_seccomp).unwrap();
        let forbid = vec![load(NUMBER_AT), skip_unless(number, 1), answer(REFUSE), answer(ALLOW)];
        let installed = std::thread::spawn(move || {
            // For this thread alone, which ends with the test.
            seccompiler::apply_filter(&forbid).unwrap();
            install(Network::Closed)
        });
        let why = installed.join().unwrap().unwrap_err();
        assert!(why.contains("somebody else's filter"), "{why}");
    }
}
