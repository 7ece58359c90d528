//! Earlier versions of policies that are still in force, read from disk and written to disk.

use std::path::Path;

use ringfence_policy::index::Index;

use crate::forms::Forms;

/// The stored forms, and failures to store them.
#[derive(Debug)]
pub(super) struct Kept {
    forms: Forms,
    /// The index' change counter when they were last written; `None` before the first time.
    written: Option<u64>,
    faults: Vec<String>,
}

impl Kept {
    /// Reads the forms that were in force and passes them to an index that has no objects yet.
    /// Forms that can't be read are reported and left out.
    pub(super) fn read(socket: &Path, index: &mut Index) -> Self {
        let mut kept = Self {
            forms: Forms::beside(socket),
            written: None,
            faults: Vec::new(),
        };
        match kept.forms.read() {
            Ok(forms) => {
                for form in forms {
                    let name = form.describe();
                    if let Err(reason) = index.remember(form) {
                        kept.fault(format!("kept form of {name}: {reason}; it isn't used"));
                    }
                }
            }
            Err(error) => kept.fault(format!(
                "{error}; what policies were before isn't known, so that those that can't be \
                 used are closed"
            )),
        }
        kept
    }

    /// Writes changed forms, after policy is in force: no change waits for the disk, and a policy
    /// whose form is missing there is closed after a restart, not open.
    pub(super) fn write(&mut self, index: &mut Index) {
        let now = index.forms_changed();
        if self.written == Some(now) {
            return;
        }
        if self.written.is_none() {
            index.forget_remembered();
        }
        let first = self.written.is_none();
        match self.forms.write(index.forms_in_force()) {
            Ok(left_out) => {
                self.written = Some(now);
                if !first {
                    self.faults.clear();
                }
                for name in left_out {
                    self.fault(format!(
                        "{name}: the form in force is too large to be kept; it is closed after \
                         a restart of the agent"
                    ));
                }
            }
            Err(error) => {
                let fault = format!(
                    "{error}; policies whose last valid form is in force are closed after a restart"
                );
                if !self.faults.contains(&fault) {
                    self.fault(fault);
                }
            }
        }
    }

    /// Returns the failures, for `status`.
    pub(super) fn faults(&self) -> &[String] {
        &self.faults
    }

    fn fault(&mut self, fault: String) {
        tracing::warn!("{fault}");
        self.faults.push(fault);
    }
}
