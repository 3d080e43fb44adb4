//! Whiteouts: names that say that something of a lower layer is gone. image-spec layer.md "Whiteouts".
//!
//! In: the last component of an entry's path. Out: what it means.

/// The prefix of whiteouts.
const PREFIX: &[u8] = b".wh.";
/// The name that hides everything of lower layers in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What the name of an entry means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name<'a> {
    /// Itself.
    Plain,
    /// The name behind the prefix is gone.
    Removes(&'a [u8]),
    /// Everything of lower layers in the directory is gone.
    Opaque,
    /// Bookkeeping of aufs, which no layer's content is: passed over.
    Reserved,
}

/// What `name`, the last component of a path, means.
#[must_use]
pub fn name(name: &[u8]) -> Name<'_> {
    match name.strip_prefix(PREFIX) {
        None => Name::Plain,
        Some(_) if name == OPAQUE => Name::Opaque,
        Some(rest) if rest.starts_with(PREFIX) => Name::Reserved,
        Some(b"" | b"." | b"..") => Name::Reserved,
        Some(rest) => Name::Removes(rest),
    }
}

/// Whether an xattr of a layer is set on the file: those of overlayfs are not, because they would redirect, hide or
/// re-own files of other layers.
#[must_use]
pub fn is_kept_xattr(name: &[u8]) -> bool {
    !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_the_specification_says() {
        assert_eq!(name(b"file"), Name::Plain);
        assert_eq!(name(b".wh.file"), Name::Removes(b"file"));
        assert_eq!(name(b".wh..wh..opq"), Name::Opaque);
        assert_eq!(name(b".wh..wh.plnk"), Name::Reserved);
        assert_eq!(name(b".wh."), Name::Reserved);
        assert_eq!(name(b".wh..."), Name::Reserved, "the parent directory cannot be removed");
        assert_eq!(name(b".wh..hidden"), Name::Removes(b".hidden"));
    }
}
