//! One store's database and central's, filled once and copied for each benchmark that needs so many items: to fill a large
//! one takes longer than to measure it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use tempfile::TempDir;

use crate::setup::Setup;

/// What was filled so far, by the number of items.
#[derive(Default)]
pub(crate) struct Prepared(BTreeMap<u64, TempDir>);

impl Prepared {
    /// One store with so many items, which central knows.
    pub(crate) fn setup(&mut self, items: u64) -> anyhow::Result<Setup> {
        let folder = match self.0.entry(items) {
            Entry::Occupied(made) => made.into_mut(),
            Entry::Vacant(place) => {
                println!("  filling databases of {items} items");
                let folder = tempfile::Builder::new().prefix("shelfstream-prepared-").tempdir()?;
                Setup::one_store(items)?.into_files(folder.path())?;
                place.insert(folder)
            }
        };
        Setup::from_copy(folder.path(), items)
    }
}
