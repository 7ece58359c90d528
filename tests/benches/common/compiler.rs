//! The incremental compiler's API over the whole compilation.

use ringfence_policy::index::{Index, Scope};
use ringfence_policy::tables::Tables;

/// Keeps tables up to date with an index.
pub(crate) struct Compiler {
    scope: Scope,
    tables: Tables,
}

impl Compiler {
    /// A compiler of nothing yet.
    pub(crate) fn new(scope: Scope) -> Self {
        Self {
            scope,
            tables: Tables::default(),
        }
    }

    /// Brings the tables to what the index says.
    pub(crate) fn update(&mut self, index: &mut Index) {
        self.tables = index.compile(&self.scope);
    }

    /// The tables as of the last update.
    pub(crate) fn tables(&self) -> &Tables {
        &self.tables
    }
}
