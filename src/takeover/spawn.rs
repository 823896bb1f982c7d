//! How does a process start from a program that has no path? With `execveat(2)`.
#![allow(unsafe_code, reason = "what runs between fork and exec: see there")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{SigSet, Signal};

use crate::heal::distant::ENVIRONMENT;

/// Starts `program` as `name`, with a socket for its standard input, and deaf to signals. Of the environment it has what it needs to
/// reach a server to heal from, and nothing else.
pub(super) fn spawn(program: BorrowedFd<'_>, name: &[u8], socket: OwnedFd) -> io::Result<Child> {
    let name = CString::new(name)?;
    let command = CString::new(super::COMMAND)?;
    let program = program.try_clone_to_owned()?;
    let variables: Vec<CString> = ENVIRONMENT.iter().filter_map(|name| variable(name)).collect();
    let exec = move || -> io::Result<()> {
        // The library has unblocked them. A hang-up in between would end the new process before it can say so.
        // What a fault of its own raises is not blocked: the kernel would not ask its handler.
        let mut signals = SigSet::all();
        for own in [Signal::SIGBUS, Signal::SIGSEGV, Signal::SIGFPE, Signal::SIGILL] {
            signals.remove(own);
        }
        signals.thread_block()?;
        let args = [name.as_ptr(), command.as_ptr(), std::ptr::null()];
        // The last one stays null.
        let mut environment = [std::ptr::null::<libc::c_char>(); ENVIRONMENT.len() + 1];
        for (to, variable) in environment.iter_mut().zip(&variables) {
            *to = variable.as_ptr();
        }
        // SAFETY: all pointers are to memory that lives on; both lists end with a null.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                program.as_raw_fd(),
                c"".as_ptr(),
                args.as_ptr(),
                environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        Err(io::Error::last_os_error())
    };
    let mut command = Command::new("ashlar");
    command.env_clear().stdin(Stdio::from(socket)).stdout(Stdio::inherit());
    // SAFETY: between fork and exec only system calls are made, without a lock and without memory that is not there yet.
    unsafe { command.pre_exec(exec) };
    command.spawn()
}

/// A variable of our environment, as it is handed on.
fn variable(name: &str) -> Option<CString> {
    let value = std::env::var_os(name)?;
    CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
}
