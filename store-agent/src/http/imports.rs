//! Which imports go on, and how far they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use protocol::time::Millis;
use runtime::http::openapi::schema;
use serde::Serialize;
use utoipa::ToSchema;

/// At once; more are told to come back.
const IMPORTS: usize = 4;

/// How many records became what: together, all that were read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ImportTotals)]
pub(super) struct Totals {
    pub(super) created: usize,
    pub(super) updated: usize,
    pub(super) unchanged: usize,
    pub(super) refused: usize,
}

impl Totals {
    pub(super) fn sum(self) -> usize {
        self.created + self.updated + self.unchanged + self.refused
    }
}

/// An import that goes on.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RunningImport)]
pub(super) struct Running {
    #[schema(value_type = schema::Time)]
    started_at: Millis,
    dry_run: bool,
    totals: Totals,
}

/// The imports of this process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Imports(Arc<Mutex<BTreeMap<u64, Running>>>);

impl Imports {
    /// A place for one more; none: too many go on.
    pub(super) fn begin(&self, dry_run: bool) -> Option<Progress> {
        let mut running = self.0.lock();
        if running.len() == IMPORTS {
            return None;
        }
        let number = running.last_key_value().map_or(0, |(last, _)| last + 1);
        running.insert(number, Running { started_at: runtime::clock::now(), dry_run, totals: Totals::default() });
        Some(Progress { imports: self.clone(), number })
    }

    /// Those that go on, the oldest first.
    pub(super) fn running(&self) -> Vec<Running> {
        self.0.lock().values().cloned().collect()
    }
}

/// An import's place, which is free again when it is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    imports: Imports,
    number: u64,
}

impl Progress {
    /// So far it has come.
    pub(super) fn report(&self, totals: Totals) {
        if let Some(running) = self.imports.0.lock().get_mut(&self.number) {
            running.totals = totals;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.imports.0.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_import_ends() {
        let imports = Imports::default();
        let mut going: Vec<Progress> = (0..IMPORTS).map(|_| imports.begin(true).expect("a place")).collect();
        assert!(imports.begin(true).is_none());
        going.remove(1);
        let again = imports.begin(false).expect("a place");
        again.report(Totals { created: 3, ..Totals::default() });
        let running = imports.running();
        assert_eq!((running.len(), running[3].totals.sum(), running[3].dry_run), (IMPORTS, 3, false));
    }
}
