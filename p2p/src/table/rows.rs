//! The rows in memory, ordered by position, with running sums. In: packed rows. Out: which row stands, sums of ranges.
//! Never decides who may write and never makes conflict rows; see [`super::replica`].
//!
//! A position is `scope bit · table (15 bits) · 112 bits of BLAKE3(scope, id)`: rows of one table lie together, in an order
//! that no writer chooses. The sum of a set of rows is the wrapping sum of their 64-bit fingerprints.

use std::collections::{BTreeMap, BTreeSet};

use super::codec::{self, VersionHead};
use super::row::{Key, Row, Scope, Table};
use super::tombstone;

/// Where a row lies; see the module.
pub type Position = u128;

/// Scope bit and table: the upper sixteen bits of a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(pub u16);

impl Class {
    /// The class of rows of `table`, replicated everywhere or (`sited`) within one site.
    #[must_use]
    pub fn of(table: Table, sited: bool) -> Self {
        Self(table.0 & 0x7fff | if sited { 0x8000 } else { 0 })
    }

    /// The class a position belongs to.
    #[must_use]
    pub fn at(position: Position) -> Self {
        Self(u16::try_from(position >> 112).expect("sixteen bits are left"))
    }

    /// Its table.
    #[must_use]
    pub fn table(self) -> Table {
        Table(self.0 & 0x7fff)
    }

    /// Whether its rows stay within one site.
    #[must_use]
    pub fn sited(self) -> bool {
        self.0 & 0x8000 != 0
    }

    /// The first position of the class.
    #[must_use]
    pub fn first(self) -> Position {
        u128::from(self.0) << 112
    }

    /// The last position of the class.
    #[must_use]
    pub fn last(self) -> Position {
        self.first() | ((1 << 112) - 1)
    }
}

/// How many rows a set has and the sum of their fingerprints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    /// How many rows.
    pub count: u32,
    /// Wrapping sum of their fingerprints.
    pub print: u64,
}

impl Sum {
    fn add(&mut self, print: u64) {
        self.count += 1;
        self.print = self.print.wrapping_add(print);
    }

    fn sub(&mut self, print: u64) {
        self.count -= 1;
        self.print = self.print.wrapping_sub(print);
    }

    /// Both sets together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { count: self.count + other.count, print: self.print.wrapping_add(other.print) }
    }
}

#[derive(Debug, Clone)]
struct Entry {
    print: u64,
    packed: Box<[u8]>,
}

/// What a merge did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merged {
    /// The held row stays: the incoming one is the same or older.
    Unchanged,
    /// The incoming row stands; it descends from the held one or nothing was held.
    Replaced,
    /// The incoming row stands and the held one was concurrent: here it is, packed.
    Won(Box<[u8]>),
    /// The held row stands and the incoming one was concurrent.
    Lost,
}

/// Every row of a node.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    map: BTreeMap<Position, Entry>,
    sums: BTreeMap<Class, Sum>,
    tombstones: BTreeMap<u32, BTreeSet<Position>>,
}

/// The position of a key.
#[must_use]
pub fn position(key: &Key) -> Position {
    position_of(key.table, if let Scope::Site(site) = &key.scope { Some(site) } else { None }, &key.id)
}

fn position_of(table: Table, site: Option<&str>, id: &str) -> Position {
    let hash = match site {
        None => blake3::hash(id.as_bytes()),
        Some(site) => {
            let mut hasher = blake3::Hasher::new();
            hasher.update(site.as_bytes()).update(&[0]).update(id.as_bytes());
            hasher.finalize()
        }
    };
    let mut low = [0u8; 16];
    low[2..].copy_from_slice(&hash.as_bytes()[..14]);
    Class::of(table, site.is_some()).first() | u128::from_be_bytes(low)
}

fn fingerprint(packed: &[u8]) -> u64 {
    u64::from_be_bytes(blake3::hash(packed).as_bytes()[..8].try_into().expect("eight of 32 bytes"))
}

/// Whether the incoming version stands over the held one, and whether they are concurrent.
fn judge(held: &VersionHead<'_>, incoming: &VersionHead<'_>, bytes: impl Fn() -> std::cmp::Ordering) -> (bool, bool) {
    match (*held, *incoming) {
        (VersionHead::Owned(_, e1, s1), VersionHead::Owned(_, e2, s2)) => match (e2, s2).cmp(&(e1, s1)) {
            // Two contents under one version cannot come from one writer; the choice must still be the same everywhere.
            std::cmp::Ordering::Equal => (bytes().is_gt(), false),
            order => (order.is_gt(), false),
        },
        (VersionHead::Shared(g1, t1, w1, i1, _), VersionHead::Shared(g2, t2, w2, i2, _)) => {
            if i1 == i2 {
                return (bytes().is_gt(), false);
            }
            if incoming.descends_from(i1) {
                return (true, false);
            }
            if held.descends_from(i2) {
                return (false, false);
            }
            ((g2, t2, w2, i2) > (g1, t1, w1, i1), true)
        }
        // A table changed its kind between builds: the shared writing stands, on every node.
        (VersionHead::Owned(..), VersionHead::Shared(..)) => (true, false),
        (VersionHead::Shared(..), VersionHead::Owned(..)) => (false, false),
    }
}

impl Rows {
    /// How many rows are held, tombstones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether no row is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// How many tombstones are held.
    #[must_use]
    pub fn tombstones(&self) -> usize {
        self.tombstones.values().map(BTreeSet::len).sum()
    }

    /// The packed row at a position.
    #[must_use]
    pub fn packed(&self, at: Position) -> Option<&[u8]> {
        self.map.get(&at).map(|entry| &*entry.packed)
    }

    /// The head of the row at a position.
    #[must_use]
    pub fn head(&self, at: Position) -> Option<codec::Head<'_>> {
        self.packed(at).map(|packed| codec::head(packed).expect("only rows that were read are held"))
    }

    /// The row under a key, tombstones included.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Row> {
        let head = self.head(position(key))?;
        (head.id == key.id).then(|| head.to_row())
    }

    /// Takes in a packed row. `packed` must have been read by [`codec::head`] into `incoming`.
    pub fn merge(&mut self, incoming: &codec::Head<'_>, packed: &[u8]) -> (Position, Merged) {
        let at = position_of(incoming.table, incoming.site, incoming.id);
        let mut loser = None;
        if let Some(entry) = self.map.get(&at) {
            if *entry.packed == *packed {
                return (at, Merged::Unchanged);
            }
            let held = codec::head(&entry.packed).expect("only rows that were read are held");
            let (stands, concurrent) = judge(&held.version, &incoming.version, || packed.cmp(&*entry.packed));
            // The same content written twice at once is no conflict.
            let concurrent = concurrent && (held.deleted, held.body) != (incoming.deleted, incoming.body);
            match (stands, concurrent) {
                (false, false) => return (at, Merged::Unchanged),
                (false, true) => return (at, Merged::Lost),
                (true, false) => {}
                (true, true) => loser = Some(entry.packed.clone()),
            }
        }
        self.insert(at, packed, incoming.deleted.then(|| tombstone::day_of(incoming.body)));
        (at, loser.map_or(Merged::Replaced, Merged::Won))
    }

    fn insert(&mut self, at: Position, packed: &[u8], tombstone: Option<u32>) {
        self.remove(at);
        let print = fingerprint(packed);
        self.map.insert(at, Entry { print, packed: packed.into() });
        self.sums.entry(Class::at(at)).or_default().add(print);
        if let Some(day) = tombstone {
            self.tombstones.entry(day).or_default().insert(at);
        }
    }

    /// Forgets the row at a position without a trace.
    pub fn remove(&mut self, at: Position) -> Option<Row> {
        let entry = self.map.remove(&at)?;
        if let Some(sum) = self.sums.get_mut(&Class::at(at)) {
            sum.sub(entry.print);
        }
        let head = codec::head(&entry.packed).expect("only rows that were read are held");
        if head.deleted {
            let day = tombstone::day_of(head.body);
            if let Some(bucket) = self.tombstones.get_mut(&day) {
                bucket.remove(&at);
                if bucket.is_empty() {
                    self.tombstones.remove(&day);
                }
            }
        }
        Some(head.to_row())
    }

    /// The sum of each class that has rows, hot tables left out, in the order of classes.
    pub fn sums(&self) -> impl Iterator<Item = (Class, Sum)> + '_ {
        self.sums
            .iter()
            .filter(|(class, sum)| sum.count > 0 && !class.table().is_hot())
            .map(|(class, sum)| (*class, *sum))
    }

    /// The sum of one class, hot or not.
    #[must_use]
    pub fn sum(&self, class: Class) -> Sum {
        self.sums.get(&class).copied().unwrap_or_default()
    }

    /// The sum of all rows that take part in repair: (replicated everywhere, within the site).
    #[must_use]
    pub fn root(&self) -> (Sum, Sum) {
        self.sums().fold((Sum::default(), Sum::default()), |(global, site), (class, sum)| {
            if class.sited() { (global, site.and(sum)) } else { (global.and(sum), site) }
        })
    }

    /// Positions and fingerprints from `first` to `last`, both included.
    pub fn range(&self, first: Position, last: Position) -> impl Iterator<Item = (Position, u64)> + '_ {
        self.map.range(first..=last).map(|(at, entry)| (*at, entry.print))
    }

    /// Heads of all rows of a table, of both scopes, in no meaningful order.
    pub fn table(&self, table: Table) -> impl Iterator<Item = (Position, codec::Head<'_>)> + '_ {
        let class = |sited| Class::of(table, sited);
        self.map
            .range(class(false).first()..=class(false).last())
            .chain(self.map.range(class(true).first()..=class(true).last()))
            .map(|(at, entry)| (*at, codec::head(&entry.packed).expect("only rows that were read are held")))
    }

    /// Every row in the order of positions.
    pub fn all(&self) -> impl Iterator<Item = (Position, &[u8])> + '_ {
        self.map.iter().map(|(at, entry)| (*at, &*entry.packed))
    }

    /// The days that have tombstones, with the sum of each day's.
    pub fn tombstone_days(&self) -> impl Iterator<Item = (u32, Sum)> + '_ {
        self.tombstones.iter().map(|(day, bucket)| {
            let mut sum = Sum::default();
            for at in bucket {
                sum.add(self.map[at].print);
            }
            (*day, sum)
        })
    }

    /// The positions of one day's tombstones.
    #[must_use]
    pub fn tombstones_of(&self, day: u32) -> Vec<Position> {
        self.tombstones.get(&day).map(|bucket| bucket.iter().copied().collect()).unwrap_or_default()
    }
}
