//! A layer as an EROFS image whose files are pieces of the layer's own tar.
//!
//! In: the entries of a layer. Out: the bytes of a small image: inodes, directories, xattrs, and for each file where its
//! data lie in the tar, which is the image's second device. Blocks have 512 bytes, as tar's do, so that every file begins
//! at one. The format is the kernel's (`fs/erofs/erofs_fs.h`, Documentation/filesystems/erofs.rst).
//!
//! [`tree`] collects entries, this file lays them out. Neither touches the disk.

pub(crate) mod tree;

use std::io::{self, Write};
use tree::{Content, Node, Tree};

/// A block, in bytes: 1 << 9.
const BLOCK: u64 = 512;
const BLOCK_BITS: u8 = 9;
/// The superblock lies here; the kernel leaves the first kilobyte alone.
const SUPER_OFFSET: u64 = 1024;
const SUPER_MAGIC: u32 = 0xE0F5_E1E2;
/// Inodes say when they were modified.
const COMPAT_MTIME: u32 = 0x2;
/// Files are given by chunks.
const INCOMPAT_CHUNKED: u32 = 0x4;
/// There is a second device.
const INCOMPAT_DEVICES: u32 = 0x8;
/// A slot of the device table, in bytes; the one slot follows the superblock.
const DEVICE_SLOT: u64 = 128;
const DEVICE_SLOT_BYTES: usize = 128;
/// The unit in which inodes are numbered, in bytes.
const INODE_UNIT: u64 = 32;
/// An extended inode, in bytes. Inodes begin at multiples of it, so that none crosses a block.
const INODE_BYTES: u64 = 64;
const INODE_LENGTH: usize = 64;
/// Bit 0 of an inode's format: extended. Bits 1 to 3: how its data lie.
const FORMAT_EXTENDED: u16 = 1;
const LAYOUT_PLAIN: u16 = 0 << 1;
const LAYOUT_INLINE: u16 = 2 << 1;
const LAYOUT_CHUNKS: u16 = 4 << 1;
/// Chunks are given by eight-byte entries that name a device.
const CHUNK_INDEXES: u32 = 0x20;
/// The largest chunk, as a power of two above the block size.
const CHUNK_BITS_MAX: u32 = 31;
/// The most chunks of one file: 32 MiB of index. A sparse file with more is unpacked instead.
const CHUNKS_MAX: u64 = 4 << 20;
/// A chunk that is a hole.
const HOLE: u32 = u32::MAX;
/// The most bytes of xattrs of one inode, by the 16-bit count of 4-byte units.
const XATTR_BYTES_MAX: usize = 65_535 * 4;

/// Why a layer cannot be indexed; it is unpacked into a directory instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotIndexable(pub(crate) String);

/// Where things lie in the image.
struct Plan<'a> {
    tree: &'a Tree,
    /// The offset of each inode, by node.
    inodes: Vec<u64>,
    /// The first block of data that an inode does not hold itself, by node.
    data: Vec<u32>,
    /// The chunk layout of files, by node.
    chunks: Vec<Option<Chunks>>,
    blocks: u32,
    device_blocks: u32,
}

/// The chunks of a file: their size as a power of two above the block, and where each is in the tar.
struct Chunks {
    bits: u32,
    blocks: Vec<u32>,
}

/// Writes the image of `tree` over a tar of `tar_bytes`.
pub(crate) fn write(tree: &Tree, tar_bytes: u64, out: &mut dyn Write) -> Result<io::Result<()>, NotIndexable> {
    let plan = Plan::new(tree, tar_bytes)?;
    Ok(plan.write(out))
}

impl<'a> Plan<'a> {
    fn new(tree: &'a Tree, tar_bytes: u64) -> Result<Self, NotIndexable> {
        let too_large = || NotIndexable("its index would have more blocks than the format can number".into());
        let count = tree.nodes.len();
        let mut plan = Plan {
            tree,
            inodes: vec![0; count],
            data: vec![0; count],
            chunks: Vec::with_capacity(count),
            blocks: 0,
            device_blocks: u32::try_from(tar_bytes.div_ceil(BLOCK)).map_err(|_| too_large())?,
        };
        let mut at = (SUPER_OFFSET + 128 + DEVICE_SLOT).next_multiple_of(INODE_BYTES);
        // The root is node 0 and comes first: its number has only 16 bits.
        for (id, node) in tree.nodes.iter().enumerate() {
            if node.links == 0 {
                plan.chunks.push(None);
                continue;
            }
            let chunks = chunks(node)?;
            let xattrs = xattr_bytes(node)?;
            let tail = match (&node.content, &chunks) {
                (_, Some(chunks)) => 8 * chunks.blocks.len() as u64,
                (Content::Symlink(target), None) if is_inline(node, xattrs) => target.len() as u64,
                _ => 0,
            };
            // Data within an inode's own block must not cross into the next one.
            let inline = matches!(node.content, Content::Symlink(_)) && tail > 0;
            let length = INODE_BYTES + xattrs + tail;
            if inline && at % BLOCK + length > BLOCK {
                at = at.next_multiple_of(BLOCK);
            }
            plan.inodes[id] = at;
            plan.chunks.push(chunks);
            at += if inline { length } else { (INODE_BYTES + xattrs).next_multiple_of(8) + tail };
            at = at.next_multiple_of(INODE_BYTES);
        }
        let mut block = at.div_ceil(BLOCK);
        for (id, node) in tree.nodes.iter().enumerate().filter(|(_, node)| node.links > 0) {
            let bytes = match &node.content {
                Content::Directory(_) => directory_blocks(tree, id) * BLOCK,
                Content::Symlink(target) if !is_inline(node, xattr_bytes(node)?) => target.len() as u64,
                _ => continue,
            };
            plan.data[id] = u32::try_from(block).map_err(|_| too_large())?;
            block += bytes.div_ceil(BLOCK);
        }
        plan.blocks = u32::try_from(block).map_err(|_| too_large())?;
        Ok(plan)
    }

    fn nid(&self, id: usize) -> u64 {
        self.inodes[id] / INODE_UNIT
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut out = Counted { out, at: 0 };
        out.pad_to(SUPER_OFFSET)?;
        self.write_super(&mut out)?;
        for (id, node) in self.live() {
            out.pad_to(self.inodes[id])?;
            self.write_inode(&mut out, id, node)?;
        }
        for (id, node) in self.live().filter(|(id, _)| self.data[*id] != 0) {
            out.pad_to(u64::from(self.data[id]) * BLOCK)?;
            match &node.content {
                Content::Directory(_) => self.write_directory(&mut out, id)?,
                Content::Symlink(target) => out.put(target)?,
                _ => {}
            }
        }
        out.pad_to(u64::from(self.blocks) * BLOCK)
    }

    fn live(&self) -> impl Iterator<Item = (usize, &'a Node)> {
        self.tree.nodes.iter().enumerate().filter(|(_, node)| node.links > 0)
    }

    fn write_super(&self, out: &mut Counted<'_>) -> io::Result<()> {
        let mut block = [0u8; 128];
        block[0..4].copy_from_slice(&SUPER_MAGIC.to_le_bytes());
        block[8..12].copy_from_slice(&COMPAT_MTIME.to_le_bytes());
        block[12] = BLOCK_BITS;
        let root = u16::try_from(self.nid(0)).expect("the root is the first inode");
        block[14..16].copy_from_slice(&root.to_le_bytes());
        block[16..24].copy_from_slice(&(self.live().count() as u64).to_le_bytes());
        block[36..40].copy_from_slice(&self.blocks.to_le_bytes());
        block[80..84].copy_from_slice(&(INCOMPAT_CHUNKED | INCOMPAT_DEVICES).to_le_bytes());
        block[86..88].copy_from_slice(&1u16.to_le_bytes());
        let slot = u16::try_from((SUPER_OFFSET + 128) / DEVICE_SLOT).expect("a small constant");
        block[88..90].copy_from_slice(&slot.to_le_bytes());
        out.put(&block)?;
        let mut device = [0u8; DEVICE_SLOT_BYTES];
        device[64..68].copy_from_slice(&self.device_blocks.to_le_bytes());
        out.put(&device)
    }

    fn write_inode(&self, out: &mut Counted<'_>, id: usize, node: &Node) -> io::Result<()> {
        let chunks = self.chunks[id].as_ref();
        let xattrs = xattr_body(node);
        let inline = is_inline(node, xattrs.len() as u64);
        let (kind, size, layout, word) = match &node.content {
            Content::Directory(_) => (0o040_000, directory_blocks(self.tree, id) * BLOCK, LAYOUT_PLAIN, self.data[id]),
            Content::File { size, .. } => match chunks {
                Some(chunks) => (0o100_000, *size, LAYOUT_CHUNKS, CHUNK_INDEXES | chunks.bits),
                None => (0o100_000, 0, LAYOUT_PLAIN, HOLE),
            },
            Content::Symlink(target) if inline => (0o120_000, target.len() as u64, LAYOUT_INLINE, HOLE),
            Content::Symlink(target) => (0o120_000, target.len() as u64, LAYOUT_PLAIN, self.data[id]),
            Content::Char(major, minor) => (0o020_000, 0, LAYOUT_PLAIN, device_number(*major, *minor)),
            Content::Block(major, minor) => (0o060_000, 0, LAYOUT_PLAIN, device_number(*major, *minor)),
            Content::Fifo => (0o010_000, 0, LAYOUT_PLAIN, 0),
            Content::Whiteout => (0o020_000, 0, LAYOUT_PLAIN, 0),
        };
        let mode = u16::try_from(kind | (node.mode & 0o7777)).expect("a kind and twelve bits");
        let mut raw = [0u8; INODE_LENGTH];
        raw[0..2].copy_from_slice(&(FORMAT_EXTENDED | layout).to_le_bytes());
        let count = if xattrs.is_empty() { 0 } else { (xattrs.len() - 12) / 4 + 1 };
        raw[2..4].copy_from_slice(&u16::try_from(count).expect("bounded in the plan").to_le_bytes());
        raw[4..6].copy_from_slice(&mode.to_le_bytes());
        raw[8..16].copy_from_slice(&size.to_le_bytes());
        raw[16..20].copy_from_slice(&word.to_le_bytes());
        raw[20..24].copy_from_slice(&u32::try_from(id + 1).unwrap_or(u32::MAX).to_le_bytes());
        raw[24..28].copy_from_slice(&node.uid.to_le_bytes());
        raw[28..32].copy_from_slice(&node.gid.to_le_bytes());
        raw[32..40].copy_from_slice(&node.mtime.0.to_le_bytes());
        raw[40..44].copy_from_slice(&node.mtime.1.to_le_bytes());
        raw[44..48].copy_from_slice(&node.links.to_le_bytes());
        out.put(&raw)?;
        out.put(&xattrs)?;
        if let (Content::Symlink(target), true) = (&node.content, inline) {
            out.put(target)?;
        }
        if let Some(chunks) = chunks {
            out.pad_to(out.at.next_multiple_of(8))?;
            for block in &chunks.blocks {
                let device = u16::from(*block != HOLE);
                out.put(&[0, 0])?;
                out.put(&device.to_le_bytes())?;
                out.put(&block.to_le_bytes())?;
            }
        }
        Ok(())
    }

    fn write_directory(&self, out: &mut Counted<'_>, id: usize) -> io::Result<()> {
        let entries = entries(self.tree, id);
        let mut rest = entries.as_slice();
        while !rest.is_empty() {
            let count = fit(rest);
            let (block, next) = rest.split_at(count);
            let mut names = Vec::new();
            let mut head = Vec::with_capacity(12 * count);
            for (name, child) in block {
                let offset = u16::try_from(12 * count + names.len()).expect("within a block");
                head.extend_from_slice(&self.nid(*child).to_le_bytes());
                head.extend_from_slice(&offset.to_le_bytes());
                head.push(file_type(&self.tree.nodes[*child].content));
                head.push(0);
                names.extend_from_slice(name);
            }
            out.put(&head)?;
            out.put(&names)?;
            out.pad_to(out.at.next_multiple_of(BLOCK))?;
            rest = next;
        }
        Ok(())
    }
}

/// A writer that knows where it is.
struct Counted<'a> {
    out: &'a mut dyn Write,
    at: u64,
}

impl Counted<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn pad_to(&mut self, to: u64) -> io::Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        assert!(to >= self.at, "the plan leaves room for everything");
        while self.at < to {
            let want = usize::try_from(to - self.at).unwrap_or(usize::MAX).min(ZEROS.len());
            self.put(&ZEROS[..want])?;
        }
        Ok(())
    }
}

/// The names of a directory with what they name, sorted by bytes, `.` and `..` among them.
fn entries(tree: &Tree, id: usize) -> Vec<(&[u8], usize)> {
    let node = &tree.nodes[id];
    let Content::Directory(children) = &node.content else { return Vec::new() };
    let mut entries: Vec<(&[u8], usize)> = children.iter().map(|(name, child)| (name.as_ref(), *child)).collect();
    for (name, target) in [(&b"."[..], id), (&b".."[..], node.parent)] {
        let place = entries.partition_point(|(other, _)| *other < name);
        entries.insert(place, (name, target));
    }
    entries
}

/// How many of these entries fit into one block.
fn fit(entries: &[(&[u8], usize)]) -> usize {
    let mut bytes = 0;
    let count = entries
        .iter()
        .take_while(|(name, _)| {
            bytes += 12 + name.len() as u64;
            bytes <= BLOCK
        })
        .count();
    count.max(1)
}

fn directory_blocks(tree: &Tree, id: usize) -> u64 {
    let entries = entries(tree, id);
    let mut rest = entries.as_slice();
    let mut blocks = 0;
    while !rest.is_empty() {
        rest = &rest[fit(rest)..];
        blocks += 1;
    }
    blocks
}

/// Whether a symbolic link's target lies behind its inode, in the same block.
fn is_inline(node: &Node, xattrs: u64) -> bool {
    matches!(&node.content, Content::Symlink(target) if INODE_BYTES + xattrs + target.len() as u64 <= BLOCK)
}

/// The chunks of a file with data; `None` for everything else.
fn chunks(node: &Node) -> Result<Option<Chunks>, NotIndexable> {
    let Content::File { size, offset, extents } = &node.content else { return Ok(None) };
    if *size == 0 {
        return Ok(None);
    }
    let address = |at: u64| -> Result<u32, NotIndexable> {
        if !at.is_multiple_of(BLOCK) {
            return Err(NotIndexable("the data of a sparse file do not begin at a block".into()));
        }
        u32::try_from(at / BLOCK)
            .ok()
            .filter(|block| *block != HOLE)
            .ok_or_else(|| NotIndexable("the layer is larger than 2 TiB".into()))
    };
    let Some(extents) = extents else {
        let bits = size.div_ceil(BLOCK).next_power_of_two().trailing_zeros();
        if bits > CHUNK_BITS_MAX {
            return Err(NotIndexable("a file is larger than 1 TiB".into()));
        }
        return Ok(Some(Chunks { bits, blocks: vec![address(*offset)?] }));
    };
    // The largest chunk at whose borders all data begin and end.
    let mut borders = BLOCK << CHUNK_BITS_MAX.min(20);
    for extent in extents {
        borders |= extent.offset;
        let end = extent.offset + extent.length;
        if end != *size {
            borders |= end;
        }
    }
    let bits = borders.trailing_zeros().checked_sub(u32::from(BLOCK_BITS));
    let bits = bits.ok_or_else(|| NotIndexable("the data of a sparse file do not begin at a block".into()))?;
    let chunk = BLOCK << bits;
    if size.div_ceil(chunk) > CHUNKS_MAX {
        return Err(NotIndexable("a sparse file is too large for an index".into()));
    }
    let mut blocks = vec![HOLE; usize::try_from(size.div_ceil(chunk)).expect("bounded above")];
    let mut stored = *offset;
    for extent in extents {
        for step in 0..extent.length.div_ceil(chunk) {
            let place = usize::try_from(extent.offset / chunk + step).expect("bounded above");
            blocks[place] = address(stored + step * chunk)?;
        }
        stored += extent.length;
    }
    Ok(Some(Chunks { bits, blocks }))
}

fn xattr_bytes(node: &Node) -> Result<u64, NotIndexable> {
    let bytes = xattr_body(node).len();
    if bytes > XATTR_BYTES_MAX || node.xattrs.iter().any(|(_, value)| value.len() > usize::from(u16::MAX)) {
        return Err(NotIndexable("a file has more extended attributes than the format can hold".into()));
    }
    Ok(bytes as u64)
}

/// The xattrs behind an inode: a header of 12 bytes, then name and value of each, filled up to 4 bytes.
fn xattr_body(node: &Node) -> Vec<u8> {
    const PREFIXES: [(&[u8], u8); 5] = [
        (b"user.", 1),
        (b"system.posix_acl_access", 2),
        (b"system.posix_acl_default", 3),
        (b"trusted.", 4),
        (b"security.", 6),
    ];
    let opaque = [(b"trusted.overlay.opaque".to_vec(), b"y".to_vec())];
    let own = if node.opaque { &opaque[..] } else { &[] };
    let mut body = Vec::new();
    for (name, value) in own.iter().chain(&node.xattrs) {
        if body.is_empty() {
            body.resize(12, 0);
        }
        let (rest, index) = PREFIXES
            .iter()
            .find_map(|(prefix, index)| name.strip_prefix(*prefix).map(|rest| (rest, *index)))
            .unwrap_or((name, 0));
        body.push(u8::try_from(rest.len()).unwrap_or(u8::MAX));
        body.push(index);
        body.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
        body.extend_from_slice(rest);
        body.extend_from_slice(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    body
}

/// The kernel's 32-bit encoding of a device number.
fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)
}

fn file_type(content: &Content) -> u8 {
    match content {
        Content::File { .. } => 1,
        Content::Directory(_) => 2,
        Content::Char(..) | Content::Whiteout => 3,
        Content::Block(..) => 4,
        Content::Fifo => 5,
        Content::Symlink(_) => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tar::Extent;

    fn file(size: u64, extents: Option<Vec<(u64, u64)>>) -> Node {
        let extents = extents.map(|list| list.into_iter().map(|(offset, length)| Extent { offset, length }).collect());
        Node::new(Content::File { size, offset: 1024, extents }, 0)
    }

    #[test]
    fn a_file_is_one_chunk_where_it_lies_in_the_tar() {
        let layout = chunks(&file(5000, None)).unwrap().unwrap();
        assert_eq!((layout.bits, layout.blocks), (4, vec![2]));
        assert!(chunks(&file(0, None)).unwrap().is_none());
    }

    #[test]
    fn holes_of_sparse_files_are_holes() {
        let layout = chunks(&file(8192 + 100, Some(vec![(4096, 2048), (8192, 100)]))).unwrap().unwrap();
        assert_eq!(layout.bits, 2);
        assert_eq!(layout.blocks, [HOLE, HOLE, 2, HOLE, 6]);
        assert!(chunks(&file(4000, Some(vec![(100, 512)]))).is_err());
        assert!(chunks(&file(1 << 60, Some(vec![(512, 512)]))).is_err());
    }

    #[test]
    fn device_numbers_are_the_kernels() {
        assert_eq!(device_number(8, 1), 0x801);
        assert_eq!(device_number(259, 0x1ff), 0x0011_03ff | ((0x1ff & !0xff) << 12));
    }
}
