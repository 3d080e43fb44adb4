//! `descriptors.json`: what the standard streams of a checkpointed process were, kept beside CRIU's images.
//!
//! In and out: a list of texts, in the open image folder. The folder may belong to somebody else: what lies there under
//! the name is replaced and never written through, and only a plain file of moderate length is read.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::sys::open::openat2;
use crate::error::{During, Error, Result};

const NAME: &str = "descriptors.json";

/// Three names of pipes and files are far shorter.
const FILE_LEN_MAX: u64 = 1 << 20;

const RULES: u64 = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS;

/// Writes the list into the folder `images`, in place of an earlier one.
pub(super) fn save(images: BorrowedFd<'_>, streams: &[String]) -> Result<()> {
    let operation = || format!("write {NAME} into the image folder");
    let text = serde_json::to_vec(streams).map_err(|cause| Error::Bug { what: cause.to_string() })?;
    match unlinkat(images, NAME, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno).during(operation),
    }
    // A new file: whoever is quick enough to put something there in between only makes this fail.
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    let file = openat2(images, NAME.as_bytes(), flags, 0o600, RULES).during(operation)?;
    File::from(file).write_all(&text).during(operation)
}

/// Reads the list of the folder `images`; empty where there is none.
pub(super) fn load(images: BorrowedFd<'_>) -> Vec<String> {
    let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let Ok(file) = openat2(images, NAME.as_bytes(), flags, 0, RULES).map(File::from) else { return Vec::new() };
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        return Vec::new();
    }
    let mut text = Vec::new();
    match file.take(FILE_LEN_MAX).read_to_end(&mut text) {
        Ok(_) => serde_json::from_slice(&text).unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use std::os::fd::AsFd;

    #[test]
    fn nothing_is_written_or_read_through_what_was_planted() {
        let base = std::env::temp_dir().join(format!("shoal-descriptors-{}", std::process::id()));
        let folder = base.join("images");
        std::fs::create_dir_all(&folder).expect("writable");
        let images = File::open(&folder).expect("it is there");
        let streams = ["pipe:[7]".to_owned(), "/dev/null".to_owned()];
        assert!(load(images.as_fd()).is_empty());
        save(images.as_fd(), &streams).expect("saved");
        save(images.as_fd(), &streams[..1]).expect("saved again");
        assert_eq!(load(images.as_fd()), streams[..1]);

        let (planted, victim) = (folder.join(NAME), base.join("victim"));
        std::fs::write(&victim, "[\"mine\"]").expect("writable");
        std::fs::remove_file(&planted).expect("ours");
        std::os::unix::fs::symlink(&victim, &planted).expect("free");
        assert!(load(images.as_fd()).is_empty(), "read through a link");
        save(images.as_fd(), &streams).expect("saved");
        assert_eq!(std::fs::read_to_string(&victim).expect("readable"), "[\"mine\"]");
        assert!(std::fs::symlink_metadata(&planted).expect("there").is_file());

        std::fs::remove_file(&planted).expect("ours");
        nix::unistd::mkfifo(&planted, Mode::from_bits_truncate(0o600)).expect("free");
        assert!(load(images.as_fd()).is_empty(), "waited for a fifo");
        std::fs::remove_file(&planted).expect("ours");
        std::fs::create_dir(&planted).expect("free");
        assert!(save(images.as_fd(), &streams).is_err());
        std::fs::remove_dir_all(&base).expect("ours");
    }
}
