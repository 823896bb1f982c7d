//! Which system calls does a server make, or its holder? A table with reasons; what is not in it is refused.
//!
//! A server that takes over was started by one that lives with this table, or by a holder that does, and so lives with it from
//! its first instruction on: what a program needs to start, with a dynamic loader or without, is here too. What is missing on
//! purpose:
//!
//! * `clone3`, `unshare`, `setns`: no name space is ever made; the C library starts threads and processes with `clone` then.
//! * `execve`: a successor is held open, in memory, which is what `execveat` is for. The filter cannot see whether a name is empty.
//! * `open`, `creat`, `openat2`, `mkdir`, `unlink`, `rename`, `truncate`, `chmod` and their like: nothing is changed by its name.
//! * `mount` and all that belongs to it; `chroot`, `pivot_root`.
//! * `ptrace`, `process_vm_readv`, `kill`: others are left alone. (`tgkill` is what `abort` is made of, and a process that
//!   is held as a descriptor may be signalled.)
//! * `bpf`, `perf_event_open`, `io_uring_setup`, `userfaultfd`, `keyctl`: large, and often at fault.

use libc::c_long;

/// A system call that is allowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    /// Its number on this architecture.
    pub(super) number: c_long,
    /// With which arguments, where that matters: all tests of one of these.
    pub(super) ways: &'static [&'static [Test]],
}

/// Whether an argument, of which some bits count, has a value. The kernel itself looks at 32 bits of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Test {
    /// Counted from 0.
    pub(super) argument: u32,
    pub(super) mask: u32,
    pub(super) value: u32,
}

/// With any arguments.
const fn any(number: c_long) -> Call {
    Call { number, ways: &[] }
}

const fn only(number: c_long, ways: &'static [&'static [Test]]) -> Call {
    Call { number, ways }
}

const fn equals(argument: u32, value: u32) -> Test {
    Test { argument, mask: 0xffff_ffff, value }
}

const fn has_none_of(argument: u32, mask: u32) -> Test {
    Test { argument, mask, value: 0 }
}

/// Reading only: no `O_WRONLY`, `O_RDWR`, `O_CREAT` or `O_TRUNC`.
const WRITING: u32 = O_ACCMODE | O_CREAT | O_TRUNC;
const O_ACCMODE: u32 = 0o3;
const O_CREAT: u32 = 0o100;
const O_TRUNC: u32 = 0o1000;

/// Flags of clone(2) that make name spaces: mounts, control groups, names of the host, IPC, users, processes, network.
const CLONE_NEW: u32 =
    0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000;

/// Memory that can be written to and executed; no code is made here. Each of the two by itself is needed to load a program.
const PROT_WRITE: u32 = 2;
const PROT_EXEC: u32 = 4;
const NOT_BOTH: &[&[Test]] = &[&[has_none_of(2, PROT_WRITE)], &[has_none_of(2, PROT_EXEC)]];

const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;

const AT_EMPTY_PATH: u32 = 0x1000;

/// What may be asked of ioctl(2): whether a descriptor waits, whether it outlives an exec, and how much can be read.
const FIONBIO: u32 = 0x5421;
const FIOCLEX: u32 = 0x5451;
const FIONREAD: u32 = 0x541b;

/// What may be asked of prctl(2).
const PR_SET_PDEATHSIG: u32 = 1;
const PR_GET_DUMPABLE: u32 = 3;
const PR_SET_DUMPABLE: u32 = 4;
const PR_SET_NAME: u32 = 15;
const PR_GET_NAME: u32 = 16;
const PR_GET_SECCOMP: u32 = 21;
const PR_CAPBSET_READ: u32 = 23;
const PR_CAPBSET_DROP: u32 = 24;
const PR_SET_NO_NEW_PRIVS: u32 = 38;
const PR_GET_NO_NEW_PRIVS: u32 = 39;
const PR_CAP_AMBIENT: u32 = 47;
const PR_SET_IO_FLUSHER: u32 = 57;
const PR_GET_IO_FLUSHER: u32 = 58;
const PR_SET_VMA: u32 = 0x5356_4d41;

/// Reasons, and the calls that they are for.
pub(super) const ALLOWED: &[(&str, &[Call])] = &[
    (
        "answer the kernel, read the image, write a line to a log that is open",
        &[
            any(libc::SYS_read),
            any(libc::SYS_readv),
            any(libc::SYS_pread64),
            any(libc::SYS_preadv),
            any(libc::SYS_preadv2),
            any(libc::SYS_write),
            any(libc::SYS_writev),
            any(libc::SYS_lseek),
            any(libc::SYS_fadvise64),
            any(libc::SYS_fstatfs),
        ],
    ),
    (
        "look at other images beside this one, to heal from them, and at where a client runs; always for reading",
        &[
            only(libc::SYS_openat, &[&[has_none_of(2, WRITING)]]),
            any(libc::SYS_getdents64),
            any(libc::SYS_fstat),
            any(libc::SYS_newfstatat),
            any(libc::SYS_statx),
        ],
    ),
    (
        "keep descriptors in order",
        &[
            any(libc::SYS_close),
            any(libc::SYS_close_range),
            any(libc::SYS_dup),
            any(libc::SYS_dup3),
            any(libc::SYS_fcntl),
            any(libc::SYS_pipe2),
            only(libc::SYS_ioctl, &[&[equals(1, FIONBIO)], &[equals(1, FIOCLEX)]]),
        ],
    ),
    (
        "memory, also for a program that is loaded, and none of it both written and executed",
        &[
            any(libc::SYS_brk),
            only(libc::SYS_mmap, NOT_BOTH),
            only(libc::SYS_mprotect, NOT_BOTH),
            any(libc::SYS_mremap),
            any(libc::SYS_munmap),
            any(libc::SYS_madvise),
            any(libc::SYS_mlock),
            any(libc::SYS_mlock2),
            any(libc::SYS_mlockall),
            any(libc::SYS_munlock),
            any(libc::SYS_memfd_create),
            any(libc::SYS_ftruncate),
        ],
    ),
    (
        "threads: start, wait for each other, run where they should, end",
        &[
            only(libc::SYS_clone, &[&[has_none_of(0, CLONE_NEW)]]),
            any(libc::SYS_set_robust_list),
            any(libc::SYS_set_tid_address),
            any(libc::SYS_rseq),
            any(libc::SYS_futex),
            any(libc::SYS_membarrier),
            any(libc::SYS_sched_yield),
            any(libc::SYS_sched_getaffinity),
            any(libc::SYS_sched_setaffinity),
            any(libc::SYS_sched_getparam),
            any(libc::SYS_sched_getscheduler),
            any(libc::SYS_sched_setscheduler),
            // Of the thread that asks.
            only(libc::SYS_setpriority, &[&[equals(0, 0), equals(1, 0)]]),
            any(libc::SYS_getcpu),
            any(libc::SYS_gettid),
            any(libc::SYS_exit),
            any(libc::SYS_exit_group),
        ],
    ),
    (
        "signals and time: `boot::resume`, the guard of a map, abort",
        &[
            any(libc::SYS_rt_sigaction),
            any(libc::SYS_rt_sigprocmask),
            any(libc::SYS_rt_sigreturn),
            any(libc::SYS_rt_sigtimedwait),
            any(libc::SYS_restart_syscall),
            any(libc::SYS_sigaltstack),
            any(libc::SYS_tgkill),
            any(libc::SYS_timer_create),
            any(libc::SYS_timer_settime),
            any(libc::SYS_timer_gettime),
            any(libc::SYS_timer_delete),
            any(libc::SYS_timerfd_create),
            any(libc::SYS_timerfd_settime),
            any(libc::SYS_clock_gettime),
            any(libc::SYS_clock_getres),
            any(libc::SYS_clock_nanosleep),
            any(libc::SYS_nanosleep),
            any(libc::SYS_gettimeofday),
            any(libc::SYS_getrandom),
        ],
    ),
    (
        "wait for descriptors",
        &[
            any(libc::SYS_ppoll),
            any(libc::SYS_epoll_create1),
            any(libc::SYS_epoll_ctl),
            any(libc::SYS_epoll_pwait),
            any(libc::SYS_eventfd2),
        ],
    ),
    (
        "say what a mount did so far, reach the system's log, hand descriptors over: on this machine only",
        &[
            only(libc::SYS_socket, &[&[equals(0, AF_UNIX)]]),
            only(libc::SYS_socketpair, &[&[equals(0, AF_UNIX)]]),
            any(libc::SYS_bind),
            any(libc::SYS_listen),
            any(libc::SYS_accept4),
            any(libc::SYS_connect),
            any(libc::SYS_sendto),
            any(libc::SYS_sendmsg),
            any(libc::SYS_recvfrom),
            any(libc::SYS_recvmsg),
            any(libc::SYS_shutdown),
            any(libc::SYS_setsockopt),
            any(libc::SYS_getsockopt),
            any(libc::SYS_getsockname),
            any(libc::SYS_getpeername),
        ],
    ),
    (
        "start a successor from memory, and see how it fares",
        &[
            only(libc::SYS_execveat, &[&[equals(4, AT_EMPTY_PATH)]]),
            any(libc::SYS_wait4),
            any(libc::SYS_waitid),
            any(libc::SYS_pidfd_open),
            any(libc::SYS_pidfd_send_signal),
            any(libc::SYS_setsid),
            any(libc::SYS_setpgid),
        ],
    ),
    (
        "know itself, and give up what is left",
        &[
            any(libc::SYS_getpid),
            any(libc::SYS_getppid),
            any(libc::SYS_getuid),
            any(libc::SYS_geteuid),
            any(libc::SYS_getgid),
            any(libc::SYS_getegid),
            any(libc::SYS_uname),
            any(libc::SYS_sysinfo),
            any(libc::SYS_capget),
            any(libc::SYS_capset),
            only(libc::SYS_prlimit64, &[&[equals(0, 0)]]),
            only(
                libc::SYS_prctl,
                &[
                    &[equals(0, PR_SET_PDEATHSIG)],
                    &[equals(0, PR_GET_DUMPABLE)],
                    &[equals(0, PR_SET_DUMPABLE)],
                    &[equals(0, PR_SET_NAME)],
                    &[equals(0, PR_GET_NAME)],
                    &[equals(0, PR_GET_SECCOMP)],
                    &[equals(0, PR_CAPBSET_READ)],
                    &[equals(0, PR_CAPBSET_DROP)],
                    &[equals(0, PR_SET_NO_NEW_PRIVS)],
                    &[equals(0, PR_GET_NO_NEW_PRIVS)],
                    &[equals(0, PR_CAP_AMBIENT)],
                    &[equals(0, PR_SET_IO_FLUSHER)],
                    &[equals(0, PR_GET_IO_FLUSHER)],
                    &[equals(0, PR_SET_VMA)],
                ],
            ),
        ],
    ),
    OLD_WAYS,
];

/// What one does besides that may reach other machines: a question to a name server, an answer of an update server. These count
/// before the table above; where a call is in both, they have its rules, too.
pub(super) const NETWORK: &[Call] = &[
    only(
        libc::SYS_socket,
        &[
            &[equals(0, AF_UNIX)],
            &[equals(0, AF_INET)],
            &[equals(0, AF_INET6)],
            // Which addresses this machine has: asked before names are.
            &[equals(0, AF_NETLINK)],
        ],
    ),
    only(libc::SYS_ioctl, &[&[equals(1, FIONBIO)], &[equals(1, FIOCLEX)], &[equals(1, FIONREAD)]]),
    any(libc::SYS_sendmmsg),
];

/// Calls that newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const OLD_WAYS: (&str, &[Call]) = (
    "what this architecture has in an older form, too, and where it keeps the threads' own memory",
    &[
        any(libc::SYS_poll),
        any(libc::SYS_dup2),
        any(libc::SYS_epoll_wait),
        any(libc::SYS_arch_prctl),
        // What the kernel puts into a process when somebody looks at how its functions return (uretprobe, uprobe): refused, it dies.
        any(335),
        any(336),
    ],
);
#[cfg(not(target_arch = "x86_64"))]
const OLD_WAYS: (&str, &[Call]) = ("nothing older than the others", &[]);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_numbers_are_the_kernels() {
        let number = |value: i32| value.cast_unsigned();
        assert_eq!(WRITING, number(libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC));
        // To make a nameless file is writing, too.
        assert_ne!(number(libc::O_TMPFILE | libc::O_RDWR) & WRITING, 0);
        let new = libc::CLONE_NEWNS
            | libc::CLONE_NEWCGROUP
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET;
        assert_eq!(CLONE_NEW, number(new));
        assert_eq!((PROT_WRITE, PROT_EXEC), (number(libc::PROT_WRITE), number(libc::PROT_EXEC)));
        assert_eq!((AF_UNIX, AT_EMPTY_PATH), (number(libc::AF_UNIX), number(libc::AT_EMPTY_PATH)));
        assert_eq!(
            (AF_INET, AF_INET6, AF_NETLINK),
            (number(libc::AF_INET), number(libc::AF_INET6), number(libc::AF_NETLINK))
        );
        assert_eq!((u64::from(FIONBIO), u64::from(FIOCLEX)), (libc::FIONBIO, libc::FIOCLEX));
        assert_eq!(u64::from(FIONREAD), libc::FIONREAD);
        for (ours, theirs) in [
            (PR_SET_PDEATHSIG, libc::PR_SET_PDEATHSIG),
            (PR_GET_DUMPABLE, libc::PR_GET_DUMPABLE),
            (PR_SET_DUMPABLE, libc::PR_SET_DUMPABLE),
            (PR_SET_NAME, libc::PR_SET_NAME),
            (PR_GET_NAME, libc::PR_GET_NAME),
            (PR_GET_SECCOMP, libc::PR_GET_SECCOMP),
            (PR_CAPBSET_READ, libc::PR_CAPBSET_READ),
            (PR_CAPBSET_DROP, libc::PR_CAPBSET_DROP),
            (PR_SET_NO_NEW_PRIVS, libc::PR_SET_NO_NEW_PRIVS),
            (PR_GET_NO_NEW_PRIVS, libc::PR_GET_NO_NEW_PRIVS),
            (PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT),
            (PR_SET_VMA, libc::PR_SET_VMA),
        ] {
            assert_eq!(ours, number(theirs));
        }
    }

    #[test]
    fn no_call_has_two_rules() {
        let mut seen = BTreeSet::new();
        for (why, calls) in ALLOWED {
            assert!(!why.is_empty());
            for call in *calls {
                assert!(seen.insert(call.number), "{call:?} is there twice");
            }
        }
    }

    #[test]
    fn with_a_network_nothing_is_lost() {
        let calls = || ALLOWED.iter().flat_map(|(_, calls)| *calls);
        for more in NETWORK {
            let Some(call) = calls().find(|call| call.number == more.number) else { continue };
            assert!(!call.ways.is_empty() && more.ways.starts_with(call.ways), "{call:?}");
        }
    }
}
