//! Where each content lies: about 50 bytes of memory a content.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use trainyard_content::pack::Index;
use trainyard_content::{Digest, Manifest};
use uuid::Uuid;

use crate::content_records::PackRecord;

/// Half of a digest: two contents share it by chance once in 2^64 contents, and whoever reads checks the whole.
type Key = [u8; 16];

fn key(digest: &Digest) -> Key {
    let mut key = [0; 16];
    key.copy_from_slice(&digest.0[..16]);
    key
}

#[derive(Debug, Clone, Copy)]
struct Place {
    pack: u32,
    /// Packs of several contents are small; a large content begins its own.
    offset: u32,
    size_bytes: u64,
}

/// A content is listed with another size than it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongSize {
    /// The file that lists it, by its place.
    pub file: u32,
    pub known: u64,
}

#[derive(Debug)]
struct Pack {
    record: PackRecord,
    /// The time at which the pack was written.
    written: SystemTime,
    /// Pushes under way that count on it.
    pins: usize,
    /// The moment when a push began or ceased to count on it.
    touched: u64,
    /// Since when it is known that no version needs it; what it holds is not offered any more.
    condemned: Option<SystemTime>,
    is_removed: bool,
}

#[derive(Debug, Default)]
struct State {
    places: HashMap<Key, Place>,
    /// Where contents lie as well that several packs hold: one may go before the other.
    others: HashMap<Key, Vec<Place>>,
    packs: Vec<Pack>,
    /// Counts the pushes that began or ended.
    moment: u64,
}

impl State {
    fn add(&mut self, key: Key, place: Place) {
        match self.places.entry(key) {
            Entry::Vacant(vacant) => drop(vacant.insert(place)),
            Entry::Occupied(_) => self.others.entry(key).or_default().push(place),
        }
    }

    /// What lies in `packs` is not there any more, unless it lies elsewhere, too.
    fn drop_contents_of(&mut self, packs: &HashSet<u32>) {
        self.others.retain(|_, others| {
            others.retain(|other| !packs.contains(&other.pack));
            !others.is_empty()
        });
        let others = &mut self.others;
        self.places.retain(|key, place| {
            if !packs.contains(&place.pack) {
                return true;
            }
            let other = take_other(others, key);
            other.into_iter().for_each(|other| *place = other);
            other.is_some()
        });
    }

    fn pin(&mut self, packs: &HashSet<u32>, change: impl Fn(usize) -> usize) {
        self.moment += 1;
        for pack in packs {
            let pack = &mut self.packs[*pack as usize];
            pack.pins = change(pack.pins);
            pack.touched = self.moment;
        }
    }
}

fn take_other(others: &mut HashMap<Key, Vec<Place>>, key: &Key) -> Option<Place> {
    let places = others.get_mut(key)?;
    let other = places.pop();
    if places.is_empty() {
        others.remove(key);
    }
    other
}

/// All packs, and what lies in them.
#[derive(Debug, Default)]
pub struct Places(Mutex<State>);

/// Keeps packs while a push counts on them.
#[derive(Debug)]
pub struct Pins {
    places: Arc<Places>,
    packs: HashSet<u32>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        self.places.state().pin(&self.packs, |pins| pins - 1);
    }
}

impl Places {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a pack that was written at a time. What lies elsewhere already stays there.
    pub fn add(&self, record: PackRecord, index: &Index, written: SystemTime) {
        self.add_pinned(record, index, written, None);
    }

    /// The same for a pack that a push has just written.
    pub fn add_for(&self, record: PackRecord, index: &Index, pins: &mut Pins) {
        self.add_pinned(record, index, SystemTime::now(), Some(pins));
    }

    fn add_pinned(&self, record: PackRecord, index: &Index, written: SystemTime, pins: Option<&mut Pins>) {
        let mut state = self.state();
        let Ok(pack) = u32::try_from(state.packs.len()) else { return };
        let held = usize::from(pins.is_some());
        let touched = state.moment;
        state.packs.push(Pack { record, written, pins: held, touched, condemned: None, is_removed: false });
        if let Some(pins) = pins {
            pins.packs.insert(pack);
        }
        for row in index.rows() {
            if let Ok(offset) = u32::try_from(row.offset) {
                let place = Place { pack, offset, size_bytes: row.size_bytes };
                state.add(key(&row.digest), place);
            }
        }
    }

    /// The files whose contents are nowhere, each content once, in order; and the other packs, kept while the pins
    /// live.
    ///
    /// # Errors
    /// A content is listed with another size than it has, or with two.
    pub fn missing(self: &Arc<Self>, manifest: &Manifest) -> Result<(Vec<u32>, Pins), WrongSize> {
        let mut state = self.state();
        let mut missing = Vec::new();
        let mut asked: HashMap<Key, u64> = HashMap::new();
        let mut packs = HashSet::new();
        for (at, entry) in (0..).zip(manifest.entries()) {
            let key = key(&entry.digest);
            let known = match state.places.get(&key) {
                Some(place) => {
                    packs.insert(place.pack);
                    place.size_bytes
                }
                None => *asked.entry(key).or_insert_with(|| {
                    missing.push(at);
                    entry.size_bytes
                }),
            };
            if known != entry.size_bytes {
                return Err(WrongSize { file: at, known });
            }
        }
        state.pin(&packs, |pins| pins + 1);
        drop(state);
        Ok((missing, Pins { places: Arc::clone(self), packs }))
    }

    /// The packs that a version lies in, sorted, kept while the pins live: other pushes may have written some of them.
    /// `None` when a content is nowhere.
    pub fn packs_of(self: &Arc<Self>, manifest: &Manifest) -> Option<(Vec<PackRecord>, Pins)> {
        let mut state = self.state();
        let mut packs = HashSet::new();
        for entry in manifest.entries() {
            packs.insert(state.places.get(&key(&entry.digest))?.pack);
        }
        let mut records: Vec<PackRecord> =
            packs.iter().map(|pack| state.packs[*pack as usize].record).collect();
        records.sort();
        state.pin(&packs, |pins| pins + 1);
        drop(state);
        Some((records, Pins { places: Arc::clone(self), packs }))
    }

    /// Where a content of this size lies: its pack, and from which byte on.
    pub fn find(&self, digest: &Digest, size_bytes: u64) -> Option<(Uuid, u64)> {
        let state = self.state();
        let place = state.places.get(&key(digest)).filter(|place| place.size_bytes == size_bytes)?;
        Some((state.packs[place.pack as usize].record.id, place.offset.into()))
    }

    /// A content was found damaged in a pack: it is asked for again with the next push, unless it lies elsewhere, too.
    pub fn forget(&self, digest: &Digest, pack: Uuid) {
        let (key, mut state) = (key(digest), self.state());
        let State { places, others, packs, .. } = &mut *state;
        let Some(place) = places.get_mut(&key) else { return };
        if packs[place.pack as usize].record.id != pack {
            return;
        }
        match take_other(others, &key) {
            Some(other) => *place = other,
            None => drop(places.remove(&key)),
        }
    }

    /// A pack that nobody has condemned, kept while the pins live.
    pub fn pin(self: &Arc<Self>, id: Uuid) -> Option<Pins> {
        let mut state = self.state();
        let is_it = |pack: &Pack| pack.record.id == id && pack.condemned.is_none() && !pack.is_removed;
        let at = u32::try_from(state.packs.iter().position(is_it)?).ok()?;
        let packs = HashSet::from([at]);
        state.pin(&packs, |pins| pins + 1);
        drop(state);
        Some(Pins { places: Arc::clone(self), packs })
    }

    /// The packs that were written `grace` ago, that no push counts on, and that nobody has condemned; with the bytes of
    /// their contents.
    pub fn settled(&self, grace: Duration, now: SystemTime) -> HashMap<Uuid, u64> {
        let is_past = |since: SystemTime| now.duration_since(since).is_ok_and(|age| age >= grace);
        let is_settled = |pack: &&Pack| {
            pack.pins == 0 && pack.condemned.is_none() && !pack.is_removed && is_past(pack.written)
        };
        let state = self.state();
        state.packs.iter().filter(is_settled).map(|pack| (pack.record.id, pack.record.size_bytes)).collect()
    }

    /// How many bytes of each pack a version's files are read from.
    pub fn bytes_by_pack(&self, manifest: &Manifest) -> HashMap<Uuid, u64> {
        let state = self.state();
        let mut bytes: HashMap<Uuid, u64> = HashMap::new();
        for place in manifest.entries().filter_map(|entry| state.places.get(&key(&entry.digest))) {
            *bytes.entry(state.packs[place.pack as usize].record.id).or_default() += place.size_bytes;
        }
        bytes
    }

    /// Those of `packs` that are not known here.
    pub fn unknown(&self, packs: &HashSet<Uuid>) -> BTreeSet<Uuid> {
        let state = self.state();
        let known: HashSet<Uuid> = state.packs.iter().map(|pack| pack.record.id).collect();
        packs.difference(&known).copied().collect()
    }

    /// Now, as pushes begin and end.
    pub fn moment(&self) -> u64 {
        self.state().moment
    }

    /// Packs that are not among `live`, were not counted on since `moment`, and were written or condemned `grace` ago:
    /// those that have been condemned for so long are returned, to be removed; the others are condemned now.
    pub fn condemn(&self, live: &HashSet<Uuid>, moment: u64, grace: Duration, now: SystemTime) -> Vec<Uuid> {
        let mut state = self.state();
        let is_past = |since: SystemTime| now.duration_since(since).is_ok_and(|age| age >= grace);
        let (mut over, mut condemned) = (Vec::new(), HashSet::new());
        for (at, pack) in (0_u32..).zip(&mut state.packs) {
            if pack.is_removed || pack.pins > 0 || pack.touched > moment || live.contains(&pack.record.id) {
                continue;
            }
            match pack.condemned {
                Some(since) if is_past(since) => over.push(pack.record.id),
                Some(_) => {}
                None if is_past(pack.written) => {
                    pack.condemned = Some(now);
                    condemned.insert(at);
                }
                None => {}
            }
        }
        if !condemned.is_empty() {
            state.drop_contents_of(&condemned);
        }
        over
    }

    /// A pack that [`Self::condemn`] has returned is removed.
    pub fn removed(&self, id: Uuid) {
        let mut state = self.state();
        let pack = state.packs.iter_mut().find(|pack| pack.record.id == id);
        pack.into_iter().for_each(|pack| pack.is_removed = true);
    }

    /// Number of contents that lie somewhere.
    pub fn len(&self) -> usize {
        self.state().places.len()
    }
}

#[cfg(test)]
mod tests {
    use trainyard_content::{Builder, Kind};

    use super::*;

    fn pack(number: u128, contents: &[&str]) -> (PackRecord, Index) {
        let mut index = Index::default();
        contents.iter().for_each(|text| index.add(Digest::of(text.as_bytes()), text.len() as u64));
        (PackRecord { id: Uuid::from_u128(number), size_bytes: index.content_bytes() }, index)
    }

    fn manifest(contents: &[&str]) -> Manifest {
        let mut builder = Builder::new(Kind::DataSet);
        let path = |at: usize| if at == 0 { "data.yaml".to_owned() } else { format!("f{at:03}") };
        for (at, text) in contents.iter().enumerate() {
            builder.add(&path(at), text.len() as u64, Digest::of(text.as_bytes())).unwrap();
        }
        builder.finish().unwrap()
    }

    #[test]
    fn each_missing_content_is_asked_for_once() {
        let places = Arc::new(Places::default());
        let (record, index) = pack(1, &["aa", "b"]);
        places.add(record, &index, SystemTime::UNIX_EPOCH);
        let wanted = manifest(&["b", "c", "aa", "c", "d"]);
        assert_eq!(places.missing(&wanted).unwrap().0, [1, 4]);
        assert_eq!(places.find(&Digest::of(b"b"), 1), Some((record.id, 2)));
        assert!(places.packs_of(&wanted).is_none());
        assert_eq!(places.packs_of(&manifest(&["b"])).unwrap().0, [record]);
        assert_eq!(places.find(&Digest::of(b"b"), 2), None);
        let mut liar = Builder::new(Kind::DataSet);
        liar.add("data.yaml", 7, Digest::of(b"b")).unwrap();
        assert_eq!(places.missing(&liar.finish().unwrap()).unwrap_err(), WrongSize { file: 0, known: 1 });
        places.forget(&Digest::of(b"b"), Uuid::from_u128(7));
        assert_eq!(places.missing(&manifest(&["b"])).unwrap().0, [0; 0]);
        places.forget(&Digest::of(b"b"), record.id);
        assert_eq!(places.missing(&manifest(&["b"])).unwrap().0, [0]);
    }

    #[test]
    fn a_content_of_two_packs_is_there_as_long_as_one_of_them() {
        let places = Arc::new(Places::default());
        for number in 1..=3 {
            let (record, index) = pack(number, &["both", &number.to_string()]);
            places.add(record, &index, SystemTime::UNIX_EPOCH);
        }
        let later = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let second = HashSet::from([Uuid::from_u128(2), Uuid::from_u128(3)]);
        places.condemn(&second, places.moment(), Duration::from_secs(10), later);
        let found = || places.find(&Digest::of(b"both"), 4).map(|(pack, _)| pack.as_u128());
        let first = found().unwrap();
        assert!(first == 2 || first == 3, "{first}");
        assert_eq!(places.find(&Digest::of(b"1"), 1), None);
        // What is damaged in one of them is whole in the other.
        places.forget(&Digest::of(b"both"), Uuid::from_u128(first));
        assert_eq!(found(), Some(5 - first));
        places.forget(&Digest::of(b"both"), Uuid::from_u128(5 - first));
        assert_eq!(found(), None);
    }

    #[test]
    fn a_pack_goes_in_two_steps_and_never_under_a_push() {
        let places = Arc::new(Places::default());
        let second = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for number in 1..=3 {
            let (record, index) = pack(number, &[&number.to_string()]);
            places.add(record, &index, second(0));
        }
        let live = HashSet::from([Uuid::from_u128(1)]);
        let grace = Duration::from_secs(10);
        let (_, pins) = places.missing(&manifest(&["2"])).unwrap();
        let condemn = |at| places.condemn(&live, places.moment(), grace, second(at));
        assert!(condemn(9).is_empty());
        // Condemned: not offered any more, and still there.
        assert!(condemn(10).is_empty());
        assert_eq!(places.missing(&manifest(&["1", "2", "3"])).unwrap().0, [2]);
        assert!(condemn(19).is_empty());
        assert_eq!(condemn(20), [Uuid::from_u128(3)]);
        let moment = places.moment();
        drop(pins);
        // That push may have made a version since.
        assert_eq!(places.condemn(&live, moment, grace, second(21)), [Uuid::from_u128(3)]);
        assert_eq!(condemn(22), [Uuid::from_u128(3)]);
        assert_eq!(condemn(31), [Uuid::from_u128(3)]);
        let over = condemn(32);
        assert_eq!(over, [Uuid::from_u128(2), Uuid::from_u128(3)]);
        over.into_iter().for_each(|id| places.removed(id));
        assert!(condemn(40).is_empty());
        assert_eq!(places.len(), 1);
    }
}
