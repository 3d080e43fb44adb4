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
        let (store, found) = Store::open_backend(disk.clone(), move |upto| told.send(upto.unwrap()).unwrap()).unwrap();
        assert_eq!((found.epoch, found.rows.len()), (0, 0));
        store.keep_epoch(seed + 1).unwrap();
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
    let (store, _) = Store::open(&path, move |upto| told.send(upto.unwrap()).unwrap()).unwrap();
    store.put(1, vec![(1, Some(vec![1])), (2, Some(vec![2]))]).unwrap();
    store.put(2, vec![(1, None)]).unwrap();
    while durable.recv().unwrap() < 2 {}
    drop(store);
    let (_, found) = Store::open(&path, |_| ()).unwrap();
    assert_eq!(found.rows, [vec![2]]);
}
