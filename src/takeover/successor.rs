//! What does a process do that was called to take over? It reads its letter, and becomes what that says.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::channel;
use super::guard::{self, Guard};
use super::letter::{Kit, Letter};
use super::peer::{HEAL_PATIENCE, Peer};
use crate::error::Error;
use crate::fuse::errno;
use crate::fuse::journal::Journal;
use crate::fuse::session::{self, Mounted, Work};
use crate::heal::distant::Distant;
use crate::heal::handed::Handed;
use crate::{Anchor, CacheLimits, Method, Options, image};

/// What came with the call.
#[derive(Debug)]
pub struct Called {
    /// What there is to know.
    pub letter: Letter,
    /// The descriptors.
    pub kit: Kit,
    /// Who called.
    pub(super) starter: Peer,
}

/// Reads the letter from standard input.
pub fn called() -> io::Result<Called> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let (message, descriptors) = channel::receive(socket.as_fd())?;
    let (letter, kit) = Letter::decode(&message, descriptors).inspect_err(|err| {
        let failed = channel::Word::Failed(err.to_string());
        channel::say(socket.as_fd(), &failed).unwrap_or_default();
    })?;
    // At once: later its number may be another process's.
    let starter = Peer::of_sender(socket, letter.sender);
    Ok(Called { letter, kit, starter })
}

/// Serves the mount from here on. `distant` is asked last for what the image does not have any more.
pub fn succeed(called: Called, distant: Option<Distant>) -> io::Result<(Mounted, Arc<Guard>)> {
    let Called { letter, kit, starter } = called;
    let mounted = take_up(&letter, &kit, distant).inspect_err(|err| {
        starter.say(&if err.kind() == io::ErrorKind::NotConnected {
            channel::Word::Over
        } else {
            channel::Word::Failed(err.to_string())
        });
    })?;
    guard::note_panics(&mounted.connection().journal);
    let guard = Guard::join(mounted.connection(), letter.clone(), kit.again()?, starter)?;
    Ok((mounted, guard))
}

fn take_up(letter: &Letter, kit: &Kit, distant: Option<Distant>) -> io::Result<Mounted> {
    let duty = &letter.duty;
    let method = if duty.is_mapped { Method::Map } else { Method::Pread };
    let file = File::from(kit.image.try_clone()?);
    let descriptors = kit.healing.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
    let (mut ladder, last_resort) =
        Handed { plan: duty.healing.clone(), descriptors }.take_up(&file);
    ladder.distant = distant;
    let source = image::from_file(file, method)?;
    let digest = duty.root_digest.parse().map_err(io::Error::other)?;
    let mut options = Options::new(Anchor::RootDigest(digest));
    options.cache =
        CacheLimits { data_bytes_max: duty.cache_bytes.0, metadata_bytes_max: duty.cache_bytes.1 };
    let io_timeout = Duration::from_secs(duty.io_timeout_secs);
    options.io_timeout = Some(io_timeout).filter(|patience| !patience.is_zero());
    options.healers = ladder.into_healers();
    if letter.is_to_serve_alone() {
        options.heal_until = Instant::now().checked_add(HEAL_PATIENCE);
    }
    let tree = crate::open_source(source, &options).map_err(|err| {
        if kit.is_over() {
            return io::ErrorKind::NotConnected.into();
        }
        // Without these bytes nobody can serve, and whoever asks would not even get an error. The image was well-formed when it was
        // mounted: what is not so now is lost, too.
        let is_lost = errno::is_loss(&err) || matches!(err, Error::Corrupt(_));
        let is_the_end = letter.is_to_serve_alone() && is_lost;
        if let Some(last_resort) = last_resort.as_ref().filter(|_| is_the_end) {
            last_resort.take(&err.to_string());
        }
        io::Error::other(err.to_string())
    })?;
    tree.store().end_patience();
    let work = Work {
        workers: duty.workers,
        readahead_kb: duty.readahead_kb,
        digest_xattr: duty.digest_xattr,
        image: kit.beside.as_ref().map(OwnedFd::try_clone).transpose()?,
        proc: kit.proc.as_ref().map(OwnedFd::try_clone).transpose()?,
        recorder: None,
        anchor: letter.facts.anchor.clone(),
        last_resort,
        // This process has had nothing from its start that a thread could give up.
        first: || {},
    };
    let journal = Journal::open(kit.journal.try_clone()?)?;
    let device = kit.device.try_clone()?;
    session::take_up(tree, device, letter.facts.clone(), journal, letter.before, work)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::io::{Read, Seek};
    use std::path::Path;

    use super::*;
    use crate::fuse::connection::{Before, Facts};
    use crate::fuse::journal::Death;
    use crate::heal::corruption::OnCorruption;
    use crate::heal::handed::Plan;
    use crate::takeover::{Duty, Namespace, Role};

    /// What a machine is told to do when its image is gone, in a file; nothing where the mount is gone, too, or another one serves.
    fn told(image: &Path, digest: &str, device: OwnedFd, before: Before) -> (String, io::Error) {
        let mut sysrq = tempfile::tempfile().unwrap();
        let mut plan = Plan::default();
        plan.on_corruption = OnCorruption::Restart;
        let mut healing = serde_json::to_value(plan).unwrap();
        healing["kinds"] = serde_json::json!(["Sysrq"]);
        let nothing = || OwnedFd::from(File::open("/dev/null").unwrap());
        let duty = Duty {
            root_digest: digest.to_owned(),
            workers: 1,
            readahead_kb: None,
            digest_xattr: false,
            cache_bytes: (0, 0),
            is_mapped: true,
            log_level: "error".to_owned(),
            is_root: true,
            namespace: Namespace::own().unwrap(),
            is_foreground: false,
            io_timeout_secs: 0,
            watchdog_secs: 0,
            healing: serde_json::from_value(healing).unwrap(),
        };
        let kit = Kit {
            device,
            image: File::open(image).unwrap().into(),
            program: nothing(),
            journal: nothing(),
            beside: None,
            proc: None,
            log: None,
            unmounter: None,
            healing: vec![sysrq.try_clone().unwrap().into()],
        };
        let facts = Facts {
            greeting: Vec::new(),
            mountpoint: b"/".to_vec(),
            source: Vec::new(),
            device: (0, 0),
            anchor: String::new(),
        };
        let letter = Letter::new(facts, duty, OsStr::new("ashlar"), &kit);
        let err = take_up(&letter.to(Role::Server, before), &kit, None).unwrap_err();
        let mut said = String::new();
        sysrq.rewind().unwrap();
        sysrq.read_to_string(&mut said).unwrap();
        (said, err)
    }

    #[test]
    fn a_machine_ends_when_its_image_is_gone_and_somebody_asks() {
        let directory = tempfile::tempdir().unwrap();
        let [tree, image] = ["tree", "a.img"].map(|name| directory.path().join(name));
        fs::create_dir(&tree).unwrap();
        let args = ["mkimage", "-q", tree.to_str().unwrap(), image.to_str().unwrap()];
        let digest = ashlarfs_mkimage::run(args).unwrap().root_digest;
        let len = fs::metadata(&image).unwrap().len();
        // A device that nobody is at the other end of says so, like the kernel's when there is no mount any more.
        let mounted = || OwnedFd::from(File::open("/dev/null").unwrap());
        let unmounted = || OwnedFd::from(io::pipe().unwrap().1);
        let dead = Before::Dead(Death::Killed);
        for left in [len, 4096, 1, 0] {
            fs::write(&image, vec![0; usize::try_from(left).unwrap()]).unwrap();
            let told = |device, before| told(&image, &digest, device, before);
            assert_eq!(told(mounted(), dead).0, "b", "{left}");
            assert_eq!(told(mounted(), Before::Leaving).0, "", "{left}");
            let (said, err) = told(unmounted(), dead);
            assert_eq!((&*said, err.kind()), ("", io::ErrorKind::NotConnected), "{left}");
        }
    }
}
