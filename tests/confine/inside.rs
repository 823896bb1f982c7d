//! What can a confined process do? Each case runs in a process of its own, which is not the same afterwards.
#![allow(unsafe_code, reason = "what is forbidden has no safe way either")]

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ashlarfs::confine::{Confinement, Network, quit_privileges};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Advice, CWD, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::{DupFlags, Errno, ReadWriteFlags};
use rustix::mm::{MapFlags, MlockAllFlags, ProtFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions};
use rustix::thread::UnshareFlags;

#[test]
#[ignore = "the tests of confine.rs run it"]
fn in_a_process_of_its_own() {
    let case = std::env::var("ASHLAR_INSIDE").unwrap();
    match case.as_str() {
        "refused" => refused(),
        "allowed" => allowed(),
        "network" => network(),
        "successor" => successor(),
        "heir" => heir(),
        "threads" => threads(),
        _ => panic!("no case {case}"),
    }
}

/// Confines this process. Faults of the test harness's own thread are not ours: it has what it had.
fn confine() {
    confine_with(Network::Closed);
}

fn confine_with(network: Network) {
    let faults = Confinement::prepare(network).close();
    let ours: Vec<_> = faults.iter().filter(|fault| !fault.starts_with("Cap")).collect();
    assert!(ours.is_empty(), "{faults:?}");
}

/// What no server does, nor a successor: a filter that is there before is taken for somebody else's, and said to be.
fn confine_again() {
    let faults = Confinement::prepare(Network::Closed).close();
    assert!(faults.iter().any(|fault| fault.contains("somebody else's filter")), "{faults:?}");
    assert_eq!(status("Seccomp_filters"), "1");
}

fn status(name: &str) -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap().trim().to_owned()
}

fn assert_refused<T: std::fmt::Debug>(what: &str, result: Result<T, impl Into<io::Error>>) {
    let errno = result.map_err(|err| err.into().raw_os_error()).unwrap_err();
    assert_eq!(errno, Some(Errno::NOSYS.raw_os_error()), "{what}");
}

fn refused() {
    let directory = tempfile::tempdir().unwrap();
    let beside = directory.path().join("beside");
    fs::write(&beside, "stays").unwrap();
    let own = rustix::process::getpid();
    confine();
    // Nothing is changed by its name.
    assert_refused("create", File::create(directory.path().join("new")));
    assert_refused("open for writing", File::options().write(true).open(&beside));
    assert_refused("append", File::options().append(true).open(&beside));
    let truncating = OFlags::RDONLY | OFlags::TRUNC;
    assert_refused("truncate", rustix::fs::openat(CWD, &beside, truncating, Mode::empty()));
    let nameless = OFlags::RDWR | OFlags::TMPFILE;
    assert_refused("nameless", rustix::fs::openat(CWD, directory.path(), nameless, Mode::RUSR));
    assert_refused("remove", fs::remove_file(&beside));
    assert_refused("rename", fs::rename(&beside, directory.path().join("new")));
    assert_refused("link", fs::hard_link(&beside, directory.path().join("new")));
    assert_refused("mkdir", fs::create_dir(directory.path().join("new")));
    assert_refused("chmod", rustix::fs::chmod(&beside, Mode::RWXU));
    // No program is started by its name.
    let name = CString::new("/bin/true").unwrap();
    let arguments = [name.as_ptr(), std::ptr::null()];
    // SAFETY: both lists end with a null pointer, and the strings live as long as the call.
    let executed = unsafe { libc::execv(name.as_ptr(), arguments.as_ptr()) };
    assert_eq!((executed, last()), (-1, libc::ENOSYS));
    assert!(Command::new("/bin/true").status().is_err());
    let program = File::open("/bin/true").unwrap();
    // SAFETY: as above; an absolute path, so that the descriptor does not count.
    let executed = unsafe {
        let environment = std::ptr::null::<*const libc::c_char>();
        let number = program.as_raw_fd();
        libc::syscall(
            libc::SYS_execveat,
            number,
            name.as_ptr(),
            arguments.as_ptr(),
            environment,
            libc::AT_SYMLINK_NOFOLLOW,
        )
    };
    assert_eq!((executed, last()), (-1, libc::ENOSYS));
    // No network.
    assert_refused("listen", TcpListener::bind("127.0.0.1:0"));
    for family in [AddressFamily::INET, AddressFamily::INET6, AddressFamily::NETLINK] {
        assert_refused("socket", rustix::net::socket(family, SocketType::DGRAM, None));
    }
    // No mounts, no name spaces, no other roots.
    let nothing: Option<&std::ffi::CStr> = None;
    let mounted =
        rustix::mount::mount("none", directory.path(), "tmpfs", MountFlags::empty(), nothing);
    assert_refused("mount", mounted);
    assert_refused("umount", rustix::mount::unmount("/proc", UnmountFlags::DETACH));
    assert_refused("chroot", rustix::process::chroot("/"));
    // SAFETY: no memory is shared by it.
    let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) };
    assert_refused("unshare", unshared);
    // SAFETY: a child that it makes ends at once, and does nothing else.
    let cloned = unsafe {
        let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
        let cloned = libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0);
        if cloned == 0 {
            libc::_exit(0);
        }
        cloned
    };
    assert_eq!((cloned, last()), (-1, libc::ENOSYS));
    // Others are left alone, and so is the kernel.
    assert_refused("kill", rustix::process::kill_process(own, Signal::CONT));
    // SAFETY: a null pointer at worst, which the kernel refuses.
    for call in [
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_io_uring_setup,
        libc::SYS_userfaultfd,
        libc::SYS_keyctl,
        libc::SYS_init_module,
        libc::SYS_reboot,
        libc::SYS_setuid,
        libc::SYS_clone3,
        libc::SYS_seccomp,
        libc::SYS_openat2,
    ] {
        // SAFETY: refused before the kernel looks at any argument, all of which are 0.
        let result = unsafe { libc::syscall(call, 0, 0, 0, 0, 0, 0) };
        assert_eq!((result, last()), (-1, libc::ENOSYS), "system call {call}");
    }
    // No memory for code.
    let both = ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC;
    // SAFETY: a new map, which nothing refers to.
    let mapped =
        unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), 4096, both, MapFlags::PRIVATE) };
    assert_refused("mmap", mapped);
    // prctl(2) has much; PR_SET_MM (35) would be one of it.
    // SAFETY: refused before the kernel looks at the other arguments.
    let asked = unsafe { libc::prctl(libc::PR_SET_MM, 0, 0, 0, 0) };
    assert_eq!((asked, last()), (-1, libc::ENOSYS));
    assert_eq!(fs::read_to_string(&beside).unwrap(), "stays");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    // It could not be removed by this process.
    std::mem::forget(directory);
}

fn last() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap()
}

fn allowed() {
    let unlimited = Rlimit { current: None, maximum: None };
    let may_lock = rustix::process::setrlimit(Resource::Memlock, unlimited).is_ok();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("image"), "content").unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::open(directory.path(), flags, Mode::empty()).unwrap();
    let log = File::options().append(true).create(true).open(directory.path().join("log")).unwrap();
    confine();
    // Threads, clocks, pipes, poll.
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(7)).join().unwrap().unwrap();
    assert_eq!(receiver.recv_timeout(Duration::from_secs(5)), Ok(7));
    thread::sleep(Duration::from_millis(1));
    // Images beside this one.
    let file = rustix::fs::openat(&open, "image", OFlags::RDONLY, Mode::empty()).unwrap();
    let mut content = String::new();
    File::from(file).read_to_string(&mut content).unwrap();
    assert_eq!(content, "content");
    look_into_images(&open);
    start_others();
    assert!(rustix::fs::Dir::read_from(&open).unwrap().count() >= 2);
    // A log that is open.
    (&log).write_all(b"line\n").unwrap();
    // Descriptors, handed over.
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [log.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let sent = [IoSlice::new(b"x")];
    rustix::net::sendmsg(&ours, &sent, &mut control, SendFlags::empty()).unwrap();
    let mut byte = [0];
    (&theirs).read_exact(&mut byte).unwrap();
    // Memory that has no name, and cannot be changed in the end.
    let memfd =
        rustix::fs::memfd_create("copy", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&memfd, 100).unwrap();
    File::from(memfd.try_clone().unwrap()).write_all(b"program").unwrap();
    rustix::fs::fcntl_add_seals(&memfd, SealFlags::WRITE).unwrap();
    if may_lock {
        let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
        rustix::mm::mlockall(all).unwrap();
    }
    rustix::thread::set_name(c"confined").unwrap();
    rustix::process::setsid()
        .map(drop)
        .or_else(|err| if err == Errno::PERM { Ok(()) } else { Err(err) })
        .unwrap();
    confine_again();
    std::mem::forget(directory);
}

/// What heals blocks looks at other images, and past the page cache.
fn look_into_images(directory: &impl AsFd) {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(directory, "image", flags, Mode::empty()).unwrap();
    assert_eq!(rustix::fs::fstat(&file).unwrap().st_size, 7);
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    let mut bytes = [0; 7];
    let into = &mut [io::IoSliceMut::new(&mut bytes)];
    // Not in memory, perhaps, but not refused.
    let at_once = rustix::io::preadv2(&file, into, 0, ReadWriteFlags::NOWAIT);
    assert!(matches!(at_once, Ok(7) | Err(Errno::AGAIN | Errno::OPNOTSUPP)), "{at_once:?}");
    // Not every file system can do that.
    let direct = rustix::fs::openat(directory, "image", flags | OFlags::DIRECT, Mode::empty());
    assert!(!matches!(direct, Err(Errno::NOSYS | Errno::PERM)), "{direct:?}");
    // SAFETY: a map of its own, read while the file is as long as it was.
    let first = unsafe {
        let null = std::ptr::null_mut();
        let map = rustix::mm::mmap(null, 7, ProtFlags::READ, MapFlags::SHARED, &file, 0).unwrap();
        let first = map.cast::<u8>().read();
        rustix::mm::munmap(map, 7).unwrap();
        first
    };
    assert_eq!(first, b'c');
}

/// What a takeover does with the other process, besides starting it.
fn start_others() {
    let (ours, mut theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::io::dup3(&ours, &mut theirs, DupFlags::CLOEXEC).unwrap();
    let mut polled = [PollFd::new(&ours, PollFlags::IN)];
    let limit = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut polled, Some(&limit)).unwrap();
    // SAFETY: the child calls nothing but pause(2) and is ended below.
    let child = unsafe {
        let child = libc::fork();
        if child == 0 {
            let mut never = libc::timespec { tv_sec: 1000, tv_nsec: 0 };
            libc::nanosleep(&raw const never, &raw mut never);
            libc::_exit(1);
        }
        child
    };
    let child = Pid::from_raw(child).unwrap();
    let handle = rustix::process::pidfd_open(child, PidfdFlags::empty()).unwrap();
    rustix::process::pidfd_send_signal(&handle, Signal::KILL).unwrap();
    let (_, status) = rustix::process::waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.terminating_signal(), Some(9));
}

fn network() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    confine_with(Network::Open);
    // Names, a connection that is waited for, an answer.
    assert!(("localhost", address.port()).to_socket_addrs().unwrap().count() >= 1);
    let mut client = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(b"bytes").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"bytes");
    UdpSocket::bind("127.0.0.1:0").unwrap();
    // And nothing else.
    let packets = rustix::net::socket(AddressFamily::PACKET, SocketType::RAW, None);
    assert_refused("packets", packets);
    assert_refused("create", File::create("/tmp/ashlar-network"));
    assert!(Command::new("/bin/true").status().is_err());
}

/// A flag of the kernel's on a thread (`PF_MEMALLOC_NOIO`, `include/linux/sched.h`): what `PR_SET_IO_FLUSHER` sets.
const PF_MEMALLOC_NOIO: u64 = 0x0008_0000;

fn is_io_flusher() -> bool {
    let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
    let rest = stat.rsplit_once(')').unwrap().1;
    // Field 9 of proc(5); the first behind the bracket is 3.
    let flags: u64 = rest.split_whitespace().nth(6).unwrap().parse().unwrap();
    flags & PF_MEMALLOC_NOIO != 0
}

fn successor() {
    let is_flusher = rustix::process::configure_io_flusher_behavior(true).is_ok();
    let unlimited = Rlimit { current: None, maximum: None };
    let may_lock = rustix::process::setrlimit(Resource::Memlock, unlimited).is_ok();
    // A program in memory, as a takeover has it.
    let mut copy = File::from(rustix::fs::memfd_create("ashlar", MemfdFlags::empty()).unwrap());
    io::copy(&mut File::open("/proc/self/exe").unwrap(), &mut copy).unwrap();
    let copy = copy.into_raw();
    confine();
    let words = ["heir", "--exact", "inside::in_a_process_of_its_own", "--ignored", "--nocapture"];
    let words = words.map(|word| CString::new(word).unwrap());
    let mut arguments: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
    arguments.push(std::ptr::null());
    let expected = format!("ASHLAR_EXPECTED={is_flusher},{may_lock}");
    let variables = ["ASHLAR_INSIDE=heir", "RUST_TEST_THREADS=1", &expected];
    let variables = variables.map(|text| CString::new(text).unwrap());
    let mut environment: Vec<_> = variables.iter().map(|text| text.as_ptr()).collect();
    environment.push(std::ptr::null());
    // SAFETY: the child calls nothing but execveat and _exit; lists end with null pointers.
    let child = unsafe {
        let child = libc::fork();
        if child == 0 {
            let (empty, number) = (c"".as_ptr(), copy);
            let (arguments, environment) = (arguments.as_ptr(), environment.as_ptr());
            libc::syscall(
                libc::SYS_execveat,
                number,
                empty,
                arguments,
                environment,
                libc::AT_EMPTY_PATH,
            );
            libc::_exit(99);
        }
        child
    };
    let child = Pid::from_raw(child).unwrap();
    let (_, status) = rustix::process::waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.exit_status(), Some(0));
}

trait IntoRaw {
    fn into_raw(self) -> i32;
}

impl IntoRaw for File {
    fn into_raw(self) -> i32 {
        std::os::fd::IntoRawFd::into_raw_fd(self)
    }
}

fn heir() {
    let expected = std::env::var("ASHLAR_EXPECTED").unwrap();
    let (is_flusher, may_lock) = expected.split_once(',').unwrap();
    assert_eq!((status("Seccomp").as_str(), status("NoNewPrivs").as_str()), ("2", "1"));
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(status(set), "0000000000000000", "{set}");
    }
    assert_eq!(is_io_flusher().to_string(), is_flusher);
    if may_lock == "true" {
        rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE).unwrap();
    }
    confine_again();
    assert_refused("create", File::create("/tmp/ashlar-heir"));
    thread::spawn(|| assert_eq!(status("Seccomp"), "2")).join().unwrap();
}

fn threads() {
    // One gives its privileges up and one does not: that is seen.
    let (end, wait) = mpsc::channel::<()>();
    let (end_too, wait_too) = mpsc::channel::<()>();
    let (ready, begun) = mpsc::channel();
    let good = thread::Builder::new().name("good".to_owned());
    let good = good.spawn({
        let ready = ready.clone();
        move || {
            quit_privileges();
            ready.send(()).unwrap();
            wait.recv().unwrap_err();
            assert_refused("create", File::create("/tmp/ashlar-thread"));
            status("Seccomp")
        }
    });
    let bad = thread::Builder::new().name("bad".to_owned());
    let bad = bad.spawn(move || {
        ready.send(()).unwrap();
        wait_too.recv().unwrap_err();
        assert_refused("create", File::create("/tmp/ashlar-thread"));
        status("Seccomp")
    });
    begun.recv().unwrap();
    begun.recv().unwrap();
    let had_any = status("CapPrm") != "0000000000000000";
    let faults = Confinement::prepare(Network::Closed).close();
    let about =
        |name: &str| faults.iter().any(|fault| fault.contains(&format!("thread {name} is")));
    assert!(!about("good"), "{faults:?}");
    assert_eq!(about("bad"), had_any, "{faults:?}");
    drop((end, end_too));
    assert_eq!(good.unwrap().join().unwrap(), "2");
    assert_eq!(bad.unwrap().join().unwrap(), "2");
}
