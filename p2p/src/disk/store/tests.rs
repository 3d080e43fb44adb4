//! What is durable stays, whatever the disk does between two syncs.

use std::sync::{Arc, Mutex, mpsc};

use super::*;

/// A write that was not synced yet: where, and what.
type Write = (usize, Vec<u8>);

/// A disk that forgets or tears writes that were not synced when it is cut.
#[derive(Debug, Clone, Default)]
struct Torn {
    now: Arc<Mutex<Vec<u8>>>,
    synced: Arc<Mutex<Vec<u8>>>,
    pending: Arc<Mutex<Vec<Write>>>,
    full: Arc<std::sync::atomic::AtomicBool>,
}

/// Passes on which batches are durable.
fn tell(told: &mpsc::Sender<u64>, it: Told) {
    match it {
        Told::Batch(upto) => told.send(upto).unwrap(),
        Told::Epoch(_) => {}
        Told::Failed(error) => panic!("{error}"),
    }
}

impl Torn {
    /// The disk after a cut: of the writes since the last sync some happened, some did not, one is torn in half.
    fn cut(&self, seed: u64) -> Self {
        let mut image = self.synced.lock().unwrap().clone();
        let mut dice = crate::node::Dice(seed);
        for (at, data) in self.pending.lock().unwrap().iter() {
            let keep = match dice.below(3) {
                0 => 0,
                1 => data.len() / 2,
                _ => data.len(),
            };
            if image.len() < at + keep {
                image.resize(at + keep, 0);
            }
            image[*at..at + keep].copy_from_slice(&data[..keep]);
        }
        let copy = Self::default();
        *copy.now.lock().unwrap() = image.clone();
        *copy.synced.lock().unwrap() = image;
        copy
    }
}

impl StorageBackend for Torn {
    fn len(&self) -> Result<u64, std::io::Error> {
        Ok(self.now.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        let at = usize::try_from(offset).unwrap();
        let now = self.now.lock().unwrap();
        out.copy_from_slice(now.get(at..at + out.len()).ok_or_else(|| std::io::Error::other("beyond the end"))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        let len = usize::try_from(len).unwrap();
        self.now.lock().unwrap().resize(len, 0);
        self.synced.lock().unwrap().resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.pending.lock().unwrap().clear();
        *self.synced.lock().unwrap() = self.now.lock().unwrap().clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        if self.full.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(std::io::Error::from(std::io::ErrorKind::StorageFull));
        }
        let at = usize::try_from(offset).unwrap();
        self.now.lock().unwrap()[at..at + data.len()].copy_from_slice(data);
        self.pending.lock().unwrap().push((at, data.to_vec()));
        Ok(())
    }
}

#[test]
fn what_was_said_to_be_durable_survives_a_cut_at_any_write() {
    for seed in 0..40 {
        let disk = Torn::default();
        let (told, durable) = mpsc::channel();
        let (store, found) = Store::open_backend(disk.clone(), move |it| tell(&told, it)).unwrap();
        assert_eq!((found.epoch, found.rows.len()), (0, 0));
        store.keep_epoch(seed + 1).unwrap();
        store.put(0, vec![]).unwrap();
        assert_eq!(durable.recv().unwrap(), 0, "and with it the epoch before it");
        let mut said = 0;
        let last = 3 + seed % 7;
        for number in 1..=last {
            store
                .put(
                    number,
                    vec![(u128::from(number), Some(vec![1; 300])), (u128::from(number % 3) << 100, Some(vec![2; 40]))],
                )
                .unwrap();
            if number % 2 == 0 {
                while said < number {
                    said = durable.recv().unwrap();
                }
            }
        }
        // The cut comes while the last batches may be under way.
        let after = disk.cut(seed);
        while let Ok(upto) = durable.try_recv() {
            let _ = upto;
        }
        let (_, found) = Store::open_backend(after, |_| ()).unwrap();
        assert_eq!(found.epoch, seed + 1);
        for number in 1..=said {
            assert!(
                found.rows.iter().filter(|row| row.len() == 300).count() >= usize::try_from(number).unwrap(),
                "seed {seed}"
            );
        }
        drop(store);
    }
}

#[test]
fn a_store_reads_back_what_it_kept_and_forgets_what_it_was_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.redb");
    let (told, durable) = mpsc::channel();
    let (store, _) = Store::open(&path, move |it| tell(&told, it)).unwrap();
    store.put(1, vec![(1, Some(vec![1])), (2, Some(vec![2]))]).unwrap();
    store.put(2, vec![(1, None)]).unwrap();
    while durable.recv().unwrap() < 2 {}
    drop(store);
    let (_, found) = Store::open(&path, |_| ()).unwrap();
    assert_eq!(found.rows, [vec![2]]);
}

#[test]
fn a_full_disk_is_told_and_the_same_disk_opens_again_with_what_was_durable() {
    let disk = Torn::default();
    let (told, heard) = mpsc::channel();
    let (store, _) = Store::open_backend(disk.clone(), move |it| told.send(it).unwrap()).unwrap();
    store.put(1, vec![(1, Some(vec![1; 300]))]).unwrap();
    assert!(matches!(heard.recv().unwrap(), Told::Batch(1)));
    disk.full.store(true, std::sync::atomic::Ordering::Relaxed);
    store.put(2, vec![(2, Some(vec![2; 300]))]).unwrap();
    assert!(matches!(heard.recv().unwrap(), Told::Failed(_)), "nothing after it is called durable");
    drop(store);
    disk.full.store(false, std::sync::atomic::Ordering::Relaxed);
    let (told, heard) = mpsc::channel();
    let (store, found) = Store::open_backend(disk, move |it| told.send(it).unwrap()).unwrap();
    assert!(found.positions.contains(&1));
    store.put(3, vec![(2, Some(vec![2; 300]))]).unwrap();
    assert!(matches!(heard.recv().unwrap(), Told::Batch(3)));
}

#[test]
fn a_store_whose_listener_waits_makes_nobody_wait_who_hands_over_batches() {
    let (gate, opened) = mpsc::channel::<()>();
    let opened = Mutex::new(opened);
    let (store, _) = Store::open_backend(Torn::default(), move |_| {
        let _ = opened.lock().unwrap().recv();
    })
    .unwrap();
    let mut given_back = 0;
    for number in 1..=3 * BATCHES_MAX as u64 {
        given_back += usize::from(store.put(number, vec![(1, Some(vec![0]))]).unwrap().is_some());
    }
    assert!(given_back > 0, "a full queue gives batches back");
    drop(gate);
}
