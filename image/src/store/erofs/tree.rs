//! The tree that the entries of one layer make, in memory: what the kernel will show when the index is mounted.
//!
//! In: entries of a tar in order, later ones replacing earlier ones. Out: nodes. Whiteouts become overlayfs's forms. Names
//! are resolved inside the tree, links included, exactly as the unpacker resolves them inside a directory.

use crate::layer::extract::{ExtractError, split};
use crate::layer::tar::{Entry, Extent, Kind};
use crate::layer::whiteout::{self, Name};
use crate::store::layers::RootEntry;
use std::cell::Cell;
use std::collections::BTreeMap;

/// The most nodes of a layer: some 2 GiB of memory. Real layers have fewer than a million.
const NODES_MAX: usize = 8 << 20;
/// How many links are followed in one name (the kernel's MAXSYMLINKS).
const LINKS_MAX: usize = 40;

/// Steps from directory to directory that all names of a layer may take: thirty for each of [`NODES_MAX`] nodes.
const STEPS_MAX: u64 = 1 << 28;
/// Bytes of the paths of directories that no entry mentions. They are kept; real layers have a handful.
const IMPLIED_BYTES_MAX: usize = 64 << 20;

/// A file, a directory or something else.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) content: Content,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// How many names it has; 0 once it was replaced.
    pub(crate) links: u32,
    /// The directory it is in (for directories).
    pub(crate) parent: usize,
    /// Whether it hides the directory of lower layers.
    pub(crate) opaque: bool,
    /// Whether it is a directory that no entry mentions, made for what is in it.
    pub(crate) implied: bool,
}

/// What a node is.
#[derive(Debug)]
pub(crate) enum Content {
    /// A directory: names and nodes.
    Directory(BTreeMap<Box<[u8]>, usize>),
    /// A file: its size, and where its data begin in the tar; of a sparse one, where they belong.
    File { size: u64, offset: u64, extents: Option<Vec<Extent>> },
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A character device: major and minor number.
    Char(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
    /// Something that hides what lower layers have under its name.
    Whiteout,
}

impl Node {
    pub(crate) fn new(content: Content, parent: usize) -> Self {
        Self {
            content,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: Vec::new(),
            links: 1,
            parent,
            opaque: false,
            implied: false,
        }
    }
}

/// The tree; node 0 is the root.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) nodes: Vec<Node>,
    pub(crate) root_entry: Option<RootEntry>,
    /// The directory of the last entry.
    last: Option<(Vec<u8>, usize)>,
    /// Steps taken so far.
    steps: Cell<u64>,
    /// Bytes of the implied directories' paths so far.
    implied_bytes: usize,
}

/// Why an entry does not fit.
#[derive(Debug)]
pub(crate) enum TreeError {
    /// It must not be unpacked at all.
    Extract(ExtractError),
    /// It means something only together with the layers below.
    Below(String),
}

impl Tree {
    pub(crate) fn new() -> Self {
        let mut root = Node::new(Content::Directory(BTreeMap::new()), 0);
        root.links = 2;
        Self { nodes: vec![root], root_entry: None, last: None, steps: Cell::new(0), implied_bytes: 0 }
    }

    /// Takes the next entry.
    pub(crate) fn add(&mut self, entry: &Entry) -> Result<(), TreeError> {
        if self.nodes.len() > NODES_MAX {
            return Err(refused(entry, "the layer has too many entries"));
        }
        let (directory, name) = split(&entry.path);
        if name.is_empty() {
            if entry.kind != Kind::Directory {
                return Err(refused(entry, "the root can only be a directory"));
            }
            self.root_entry = Some(RootEntry::of(entry));
            self.set(0, entry);
            return Ok(());
        }
        let whiteout = whiteout::name(name);
        if whiteout == Name::Reserved || (whiteout != Name::Plain && entry.kind == Kind::Directory) {
            return Ok(());
        }
        let parent = match &self.last {
            Some((path, node)) if path == directory => *node,
            _ => {
                let node = self.directory(directory, entry)?;
                self.last = Some((directory.to_vec(), node));
                node
            }
        };
        match whiteout {
            Name::Opaque => {
                self.nodes[parent].opaque = true;
                Ok(())
            }
            Name::Removes(target) => {
                self.white_out(parent, target);
                Ok(())
            }
            Name::Plain | Name::Reserved => self.make(parent, name, entry),
        }
    }

    fn make(&mut self, parent: usize, name: &[u8], entry: &Entry) -> Result<(), TreeError> {
        let content = match entry.kind {
            Kind::HardLink => return self.link(parent, name, entry),
            Kind::Directory => Content::Directory(BTreeMap::new()),
            Kind::File => Content::File { size: entry.size, offset: entry.data_offset, extents: entry.sparse.clone() },
            Kind::Symlink => Content::Symlink(entry.link.clone()),
            Kind::Char if entry.device == (0, 0) => {
                return Err(refused(entry, "a character device 0:0 would hide files of lower layers"));
            }
            Kind::Char => Content::Char(entry.device.0, entry.device.1),
            Kind::Block => Content::Block(entry.device.0, entry.device.1),
            Kind::Fifo => Content::Fifo,
        };
        let there = self.child(parent, name);
        if let Some(there) = there
            && entry.kind == Kind::Directory
            && matches!(self.nodes[there].content, Content::Directory(_))
        {
            self.set(there, entry);
            return Ok(());
        }
        let hides = there.is_some_and(|there| matches!(self.nodes[there].content, Content::Whiteout));
        if let Some(there) = there {
            self.unlink(parent, name, there);
        }
        let mut node = Node::new(content, parent);
        node.opaque = hides && entry.kind == Kind::Directory;
        let id = self.insert(parent, name, node);
        self.set(id, entry);
        Ok(())
    }

    fn link(&mut self, parent: usize, name: &[u8], entry: &Entry) -> Result<(), TreeError> {
        let (directory, target) = split(&entry.link);
        let found = match self.resolve(0, directory, &mut 0, entry)? {
            Some(node) => self.child(node, target),
            None => None,
        };
        let Some(node) = found.filter(|node| !matches!(self.nodes[*node].content, Content::Whiteout)) else {
            return Err(below(entry, "it is a hard link to a file that this layer does not have"));
        };
        if matches!(self.nodes[node].content, Content::Directory(_)) {
            return Err(refused(entry, "a hard link to a directory"));
        }
        match self.child(parent, name) {
            Some(there) if there == node => return Ok(()),
            Some(there) => self.unlink(parent, name, there),
            None => {}
        }
        self.nodes[node].links += 1;
        self.name(parent, name, node);
        Ok(())
    }

    fn white_out(&mut self, parent: usize, target: &[u8]) {
        match self.child(parent, target) {
            Some(there) => {
                // The layer's own entry stays; a directory hides the one below.
                if matches!(self.nodes[there].content, Content::Directory(_)) {
                    self.nodes[there].opaque = true;
                }
            }
            None => {
                let mut node = Node::new(Content::Whiteout, parent);
                node.mode = 0;
                self.insert(parent, target, node);
            }
        }
    }

    /// The directory `path`; missing parts are made: 0755, root's. Each part is looked at once, in the directory that the
    /// parts before it led to.
    fn directory(&mut self, path: &[u8], entry: &Entry) -> Result<usize, TreeError> {
        let mut end = 0;
        let mut at = 0;
        let mut followed = 0;
        for component in path.split(|b| *b == b'/').filter(|component| !component.is_empty()) {
            end += component.len() + usize::from(end > 0);
            if let Some(node) = self.resolve(at, component, &mut followed, entry)? {
                at = node;
                continue;
            }
            at = match self.child(at, component).map(|there| (there, &self.nodes[there].content)) {
                Some((_, Content::Symlink(_))) => {
                    return Err(below(entry, "its directory is a link to something that this layer does not have"));
                }
                Some((there, Content::Whiteout)) => {
                    self.unlink(at, component, there);
                    let mut node = Node::new(Content::Directory(BTreeMap::new()), at);
                    node.opaque = true;
                    self.insert(at, component, node)
                }
                Some(_) => return Err(refused(entry, "its directory is not a directory")),
                None => {
                    self.implied_bytes += end;
                    if self.implied_bytes > IMPLIED_BYTES_MAX {
                        return Err(refused(entry, "the layer has too many directories that it does not mention"));
                    }
                    let mut node = Node::new(Content::Directory(BTreeMap::new()), at);
                    node.implied = true;
                    self.insert(at, component, node)
                }
            };
        }
        Ok(at)
    }

    /// The directory that `path` leads to from `at`, links followed with the root as `/`; `None` when something is missing
    /// or in the way. `followed` counts the links of one name.
    fn resolve(&self, at: usize, path: &[u8], followed: &mut usize, entry: &Entry) -> Result<Option<usize>, TreeError> {
        let mut todo: Vec<&[u8]> = path.split(|b| *b == b'/').rev().collect();
        let mut at = at;
        while let Some(component) = todo.pop() {
            self.steps.set(self.steps.get() + 1);
            if self.steps.get() > STEPS_MAX {
                return Err(refused(entry, "the names of the layer are too deep altogether"));
            }
            at = match component {
                b"" | b"." => at,
                b".." => self.nodes[at].parent,
                name => match self.child(at, name) {
                    None => return Ok(None),
                    Some(child) => match &self.nodes[child].content {
                        Content::Directory(_) => child,
                        Content::Symlink(target) => {
                            *followed += 1;
                            if *followed > LINKS_MAX {
                                return Err(refused(entry, "its directory has too many symbolic links"));
                            }
                            todo.extend(target.split(|b| *b == b'/').rev());
                            if target.first() == Some(&b'/') { 0 } else { at }
                        }
                        _ => return Ok(None),
                    },
                },
            };
        }
        Ok(Some(at))
    }

    fn child(&self, parent: usize, name: &[u8]) -> Option<usize> {
        match &self.nodes[parent].content {
            Content::Directory(children) => children.get(name).copied(),
            _ => None,
        }
    }

    fn insert(&mut self, parent: usize, name: &[u8], node: Node) -> usize {
        let id = self.nodes.len();
        let is_directory = matches!(node.content, Content::Directory(_));
        self.nodes.push(node);
        if is_directory {
            self.nodes[id].links = 2;
            self.nodes[parent].links += 1;
        }
        self.name(parent, name, id);
        id
    }

    fn name(&mut self, parent: usize, name: &[u8], id: usize) {
        if let Content::Directory(children) = &mut self.nodes[parent].content {
            children.insert(name.into(), id);
        }
    }

    fn unlink(&mut self, parent: usize, name: &[u8], id: usize) {
        if let Content::Directory(children) = &mut self.nodes[parent].content {
            children.remove(name);
        }
        let children = match &mut self.nodes[id].content {
            Content::Directory(children) => std::mem::take(children),
            _ => {
                self.nodes[id].links -= 1;
                return;
            }
        };
        self.last = None;
        self.nodes[parent].links -= 1;
        self.nodes[id].links = 0;
        for (name, child) in children {
            self.unlink(id, &name, child);
        }
    }

    /// The directories that no entry mentions.
    pub(crate) fn implied(&self) -> Vec<Vec<u8>> {
        let mut implied = Vec::new();
        // Names and the length of the path before them: one path is written, whatever the depth.
        let mut todo: Vec<(usize, usize, &[u8])> = vec![(0, 0, b"")];
        let mut path: Vec<u8> = Vec::new();
        while let Some((id, before, name)) = todo.pop() {
            path.truncate(before);
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let Content::Directory(children) = &self.nodes[id].content else { continue };
            if self.nodes[id].implied {
                implied.push(path.clone());
            }
            for (name, child) in children {
                if matches!(self.nodes[*child].content, Content::Directory(_)) {
                    todo.push((*child, path.len(), name));
                }
            }
        }
        implied
    }

    /// Gives a node what the entry says of it.
    fn set(&mut self, id: usize, entry: &Entry) {
        let node = &mut self.nodes[id];
        node.implied = false;
        node.mode = entry.mode;
        node.uid = entry.uid;
        node.gid = entry.gid;
        node.mtime = entry.mtime;
        node.xattrs = entry.xattrs.iter().filter(|(name, _)| whiteout::is_kept_xattr(name)).cloned().collect();
    }
}

fn below(entry: &Entry, reason: &str) -> TreeError {
    TreeError::Below(format!("{}: {reason}", String::from_utf8_lossy(&entry.path)))
}

fn refused(entry: &Entry, reason: &str) -> TreeError {
    TreeError::Extract(ExtractError::Refused {
        path: String::from_utf8_lossy(&entry.path).into_owned(),
        reason: reason.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tar::Reader;
    use crate::layer::write::Writer;

    /// The tree of these names: a directory when it ends in `/`, `name -> target` a symbolic link, else an empty file.
    fn tree(names: impl IntoIterator<Item = String>) -> Result<Tree, TreeError> {
        let mut tree = Tree::new();
        for name in names {
            let mut tar = Writer::new(Vec::new());
            tar.plain_file("x", 0, &mut &b""[..]).unwrap();
            let raw = tar.finish().unwrap();
            let mut entry = Reader::new(&raw[..]).next_entry().unwrap().unwrap();
            match name.split_once(" -> ") {
                Some((name, target)) => {
                    entry.kind = Kind::Symlink;
                    entry.path = name.as_bytes().to_vec();
                    entry.link = target.as_bytes().to_vec();
                }
                None => {
                    entry.kind = if name.ends_with('/') { Kind::Directory } else { Kind::File };
                    entry.path = name.trim_end_matches('/').as_bytes().to_vec();
                }
            }
            tree.add(&entry)?;
        }
        Ok(tree)
    }

    #[test]
    fn the_steps_of_a_name_are_as_many_as_its_parts() {
        // 200 directories at the bottom of 2000: each entry walks down once.
        let deep = "d/".repeat(2000);
        let tree = tree((0..200).map(|number| format!("{deep}{number}/file"))).unwrap();
        assert_eq!(tree.implied().len(), 2200);
        assert!(tree.steps.get() < 200 * 2010, "{} steps", tree.steps.get());
        assert_eq!(tree.implied()[1999].len(), 2000 * 2 - 1);
    }

    #[test]
    fn links_in_the_middle_of_a_name_lead_where_they_led() {
        let names =
            ["a/b/", "l -> a", "a/up -> ../c", "abs -> /a/b", "c/", "l/b/one", "l/up/two", "abs/three", "l/b/new/four"];
        let tree = tree(names.map(str::to_owned)).unwrap();
        let there = |path: &str| {
            let node = path.split('/').try_fold(0, |at, name| tree.child(at, name.as_bytes()));
            assert!(node.is_some(), "{path}");
        };
        for path in ["a/b/one", "c/two", "a/b/three", "a/b/new/four"] {
            there(path);
        }
        let implied = tree.implied();
        assert_eq!(implied, [b"a".to_vec(), b"a/b/new".to_vec()]);
    }

    #[test]
    fn too_many_implied_directories_are_refused() {
        let part = "d".repeat(255);
        let deep = [part.as_str(); 15].join("/");
        assert!(matches!(tree((0..20_000).map(|number| format!("{deep}/{number}/file"))), Err(TreeError::Extract(_))));
    }
}
