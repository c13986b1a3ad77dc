//! Names, their versions, and who uses them just now. Pure: what is stored is somebody else's to change.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use trainyard_content::{Digest, Kind};
use trainyard_types::{Reference, Time};

use crate::content_records::{ContentRecords, PackRecord, VersionRecord};

/// A version among all.
pub type VersionKey = (Kind, String, Digest);

/// Why a reference leads to no version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unresolved {
    /// Nothing has that name; one that is spelled almost so.
    NoName(Option<String>),
    /// The name has no version that begins so.
    NoVersion,
    /// Several begin so.
    Ambiguous,
}

/// Why a version cannot be removed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    /// A submission that names it is under way.
    Submission,
    /// Somebody else removes it.
    Removal,
}

/// All versions by kind and name, the newest of a name last.
#[derive(Debug, Default)]
pub struct Catalog {
    revision: Option<u64>,
    names: BTreeMap<(Kind, String), Vec<Arc<VersionRecord>>>,
    /// Submissions under way that name a version.
    uses: HashMap<VersionKey, usize>,
    /// Versions that are being removed: nobody else finds them.
    removals: Vec<VersionKey>,
}

fn key(record: &VersionRecord) -> VersionKey {
    (record.kind, record.name.clone(), record.id)
}

impl Catalog {
    /// The revision of the store that this is; `None` before it was first read.
    pub fn revision(&self) -> Option<u64> {
        self.revision
    }

    /// Takes what is stored.
    pub fn replace(&mut self, records: ContentRecords) {
        // An answer that was overtaken by a newer one tells nothing.
        if self.revision.is_some_and(|known| known > records.revision) {
            return;
        }
        self.revision = Some(records.revision);
        self.names.clear();
        for record in records.versions {
            self.names.entry((record.kind, record.name.clone())).or_default().push(Arc::new(record));
        }
        for versions in self.names.values_mut() {
            versions.sort_by_key(|version| (version.created, version.id));
        }
    }

    /// All versions by kind and name, the newest of a name first, with whether each is that.
    pub fn all(&self) -> impl Iterator<Item = (&Arc<VersionRecord>, bool)> {
        self.names
            .values()
            .flat_map(|versions| versions.iter().rev().enumerate().map(|(at, version)| (version, at == 0)))
    }

    /// The versions of a name, the newest last.
    pub fn versions(&self, kind: Kind, name: &str) -> &[Arc<VersionRecord>] {
        self.names.get(&(kind, name.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// The user whose the name is: who has pushed its first version that is still there.
    pub fn owner(&self, kind: Kind, name: &str) -> Option<&str> {
        self.versions(kind, name).first().map(|version| version.user.as_str())
    }

    /// The version that a reference means, for one to whom `sees` shows the versions of a user.
    ///
    /// # Errors
    /// The reference means no version, or several.
    pub fn resolve(
        &self,
        kind: Kind,
        reference: &Reference,
        sees: impl Fn(&str) -> bool,
    ) -> Result<Arc<VersionRecord>, Unresolved> {
        let is_shown =
            |version: &&Arc<VersionRecord>| sees(&version.user) && !self.removals.contains(&key(version));
        let versions = self.versions(kind, reference.name());
        let mut shown = versions.iter().rev().filter(is_shown).peekable();
        if shown.peek().is_none() {
            let others = self.names.iter().filter(|((other, _), versions)| {
                *other == kind && versions.iter().any(|version| sees(&version.user))
            });
            let wanted = reference.name().to_lowercase();
            let near = others.map(|((_, name), _)| name).find(|name| {
                let is_other = *name != reference.name();
                let name = name.to_lowercase();
                is_other && (name == wanted || name.starts_with(&wanted) || wanted.starts_with(&name))
            });
            return Err(Unresolved::NoName(near.cloned()));
        }
        let mut found = shown.filter(|version| version.id.to_string().starts_with(reference.version()));
        match (found.next(), found.next()) {
            (Some(newest), _) if reference.version().is_empty() => Ok(Arc::clone(newest)),
            (Some(only), None) => Ok(Arc::clone(only)),
            (None, _) => Err(Unresolved::NoVersion),
            (Some(_), Some(_)) => Err(Unresolved::Ambiguous),
        }
    }

    /// Bytes that a user's versions take, each pack once; and the versions with what each names, the largest first.
    pub fn usage(&self, user: &str) -> (u64, Vec<Arc<VersionRecord>>) {
        let own = self.names.values().flatten().filter(|version| version.user == user);
        let mut own: Vec<_> = own.cloned().collect();
        let packs: BTreeMap<_, _> =
            own.iter().flat_map(|version| &version.packs).map(|pack| (pack.id, pack.size_bytes)).collect();
        own.sort_by_key(|version| std::cmp::Reverse(version.size_bytes));
        (packs.values().sum(), own)
    }

    /// Bytes of those packs that no version of anybody has yet.
    pub fn new_bytes(&self, packs: &[PackRecord]) -> u64 {
        let known: HashSet<_> =
            self.names.values().flatten().flat_map(|version| &version.packs).map(|pack| pack.id).collect();
        packs.iter().filter(|pack| !known.contains(&pack.id)).map(|pack| pack.size_bytes).sum()
    }

    /// A submission names a version; [`Self::release`] follows.
    pub fn hold(&mut self, version: &VersionRecord) {
        *self.uses.entry(key(version)).or_default() += 1;
    }

    /// That submission is over.
    pub fn release(&mut self, version: &VersionRecord) {
        if let Some(count) = self.uses.get_mut(&key(version)) {
            *count -= 1;
            if *count == 0 {
                self.uses.remove(&key(version));
            }
        }
    }

    /// Hides versions that are to be removed; [`Self::end_removal`] follows.
    ///
    /// # Errors
    /// One is in use, or is being removed already. Nothing is hidden.
    pub fn begin_removal(&mut self, versions: &[Arc<VersionRecord>]) -> Result<(), Busy> {
        if versions.iter().any(|version| self.uses.contains_key(&key(version))) {
            return Err(Busy::Submission);
        }
        if versions.iter().any(|version| self.removals.contains(&key(version))) {
            return Err(Busy::Removal);
        }
        self.removals.extend(versions.iter().map(|version| key(version)));
        Ok(())
    }

    /// Shows again what was not removed.
    pub fn end_removal(&mut self, versions: &[Arc<VersionRecord>]) {
        self.removals.retain(|removed| !versions.iter().any(|version| key(version) == *removed));
    }
}

/// When a version is pushed again it becomes the newest, also where the clock stands still.
pub fn pushed_at(now: Time, versions: &[Arc<VersionRecord>]) -> Time {
    let newest = versions.last().map(|version| Time(version.created.0 + 1));
    newest.map_or(now, |after| after.max(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(name: &str, text: &str, user: &str, created: u64) -> VersionRecord {
        VersionRecord {
            kind: Kind::DataSet,
            name: name.into(),
            id: Digest::of(text.as_bytes()),
            user: user.into(),
            created: Time(created),
            files: 1,
            size_bytes: created,
            description: String::new(),
            packs: vec![PackRecord { id: uuid::Uuid::from_u128(u128::from(created)), size_bytes: 10 }],
            is_of_job: false,
        }
    }

    fn catalog(versions: Vec<VersionRecord>) -> Catalog {
        let mut catalog = Catalog::default();
        catalog.replace(ContentRecords { revision: 1, versions });
        catalog
    }

    fn resolve(catalog: &Catalog, text: &str) -> Result<u64, Unresolved> {
        let found = catalog.resolve(Kind::DataSet, &text.parse().unwrap(), |user| user != "eve");
        found.map(|version| version.created.0)
    }

    #[test]
    fn a_reference_means_the_newest_or_the_one_that_it_names() {
        let (old, new) = (version("cells", "a", "ada", 1), version("cells", "b", "ada", 2));
        let (old_id, new_id) = (old.id.to_string(), new.id.to_string());
        let catalog = catalog(vec![new, old, version("secret", "c", "eve", 3)]);
        assert_eq!(resolve(&catalog, "cells"), Ok(2));
        assert_eq!(resolve(&catalog, &format!("cells@{}", &old_id[..8])), Ok(1));
        assert_eq!(resolve(&catalog, &format!("cells@{new_id}")), Ok(2));
        assert_eq!(resolve(&catalog, "cells@0000"), Err(Unresolved::NoVersion));
        assert_eq!(resolve(&catalog, "Cells"), Err(Unresolved::NoName(Some("cells".into()))));
        assert_eq!(resolve(&catalog, "secret"), Err(Unresolved::NoName(None)));
        let weights = catalog.resolve(Kind::Weights, &"cells".parse().unwrap(), |_| true);
        assert_eq!(weights, Err(Unresolved::NoName(None)));
    }

    #[test]
    fn what_a_submission_names_cannot_be_removed_and_what_is_removed_cannot_be_named() {
        let mut catalog = catalog(vec![version("cells", "a", "ada", 1)]);
        let versions = catalog.versions(Kind::DataSet, "cells").to_vec();
        catalog.hold(&versions[0]);
        catalog.hold(&versions[0]);
        catalog.release(&versions[0]);
        assert_eq!(catalog.begin_removal(&versions), Err(Busy::Submission));
        catalog.release(&versions[0]);
        assert_eq!(catalog.begin_removal(&versions), Ok(()));
        assert_eq!(catalog.begin_removal(&versions), Err(Busy::Removal));
        assert_eq!(resolve(&catalog, "cells"), Err(Unresolved::NoName(None)));
        catalog.end_removal(&versions);
        assert_eq!(resolve(&catalog, "cells"), Ok(1));
    }

    #[test]
    fn shared_packs_count_once_and_older_answers_of_the_store_not_at_all() {
        let mut second = version("cells", "b", "ada", 2);
        second.packs.push(PackRecord { id: uuid::Uuid::from_u128(1), size_bytes: 10 });
        let mut catalog = catalog(vec![version("cells", "a", "ada", 1), second]);
        let (bytes, versions) = catalog.usage("ada");
        assert_eq!((bytes, versions[0].created), (20, Time(2)));
        catalog.replace(ContentRecords { revision: 0, versions: Vec::new() });
        assert_eq!(catalog.all().count(), 2);
        assert_eq!(pushed_at(Time(1), catalog.versions(Kind::DataSet, "cells")), Time(3));
    }
}
