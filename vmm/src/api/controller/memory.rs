//! `/memory` and what lies below it.

use super::{Answer, Controller, Fault};
use crate::api::schema::{Discarded, MemoryPolicy, MemoryRange, MemoryReport};

impl Controller {
    pub(in crate::api) fn memory(&mut self) -> Result<MemoryReport, Fault> {
        Ok(self.started("a report of guest memory")?.memory()?)
    }

    pub(in crate::api) fn put_memory_policy(&mut self, policy: &MemoryPolicy) -> Result<Answer, Fault> {
        let machine = self.started("a policy for guest memory")?;
        policy.check()?;
        machine.set_policy(policy)?;
        Ok(Answer::Done)
    }

    pub(in crate::api) fn discard_memory(&mut self, range: MemoryRange) -> Result<Discarded, Fault> {
        let machine = self.started("a discard of guest memory")?;
        Ok(machine.discard(range.check()?)?)
    }
}
