//! The program's tables: compiled, compared, written.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::Result;
use rustix::thread::{MembarrierCommand, membarrier};
use tokio::task::spawn_blocking;

use super::{Agent, Step, inputs};
use crate::{compile, id_allocator::Full};

impl Agent {
    /// Leads the groups of next hops around what went down, or back. Touches nothing else, so that it takes as long with
    /// a hundred thousand routes as with ten.
    pub(super) fn steer(&mut self) -> Result<()> {
        let inputs = inputs(&self.config, &self.host, &self.states, &self.agreements, &self.tc_only);
        let compiled = compile::egress_tables(inputs, &self.rib, &mut self.layout)?;
        self.dataplane.steer(&compiled.egress)?;
        // Routes that are still to be changed lead to groups that nobody else uses any more.
        if self.rib.changed().len() == 0 {
            self.layout.egress.end();
            self.begin_release();
        }
        Ok(())
    }

    /// Makes the tables what they should be. `ingress`: more than the ways out and routes may differ.
    pub(super) fn write_tables(&mut self, ingress: bool) -> Result<()> {
        let inputs = inputs(&self.config, &self.host, &self.states, &self.agreements, &self.tc_only);
        if ingress {
            self.policy_tables = compile::policy_tables(inputs, &mut self.layout)?;
        }
        let compiled = compile::egress_tables(inputs, &self.rib, &mut self.layout)?;
        let any = self.rib.changed().len() > 0;
        // Copied if a snapshot is being looked at: not for nothing.
        let changed = if any { Arc::make_mut(&mut self.rib).take_changed() } else { BTreeSet::new() };
        let routes = compiled.routes(&self.rib, &changed);
        if let Err(error) = self.dataplane.apply(&self.policy_tables, &compiled.egress, &routes) {
            Arc::make_mut(&mut self.rib).keep_changed(changed);
            // The memory of what has been replaced until then may be what is needed.
            self.begin_release();
            return Err(error.into());
        }
        if ingress {
            self.layout.policy.end();
        }
        self.layout.egress.end();
        self.begin_release();
        Ok(())
    }

    /// Finds out, beside the loop, when no packet is on its way any more with what it read from the old tables.
    fn begin_release(&mut self) {
        if self.grace.is_some() {
            return;
        }
        let (numbers, memory) = (self.layout.begin_release(), self.dataplane.numbers().begin_release());
        if !numbers && !memory {
            return;
        }
        self.grace = Some(spawn_blocking(|| {
            // An RCU grace period. A kernel with nohz_full does not offer it; then a time in which every packet has
            // long gone.
            if membarrier(MembarrierCommand::Global).is_err() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }));
    }

    /// The grace period is over.
    pub(super) fn release(&mut self) {
        self.grace = None;
        self.layout.release();
        self.dataplane.numbers().release();
        self.begin_release();
    }

    /// Whether the tables have room for a change. Leaves everything as it was.
    pub(super) fn rehearse(&mut self, step: &Step) -> Result<(), Full> {
        let (config, routes) = (step.config.as_ref().unwrap_or(&self.config), &step.difference.routes);
        let rib = Arc::make_mut(&mut self.rib);
        rib.change(routes);
        rib.follow(config.vpc.as_ref(), &self.host);
        let inputs = inputs(config, &self.host, &self.states, &self.agreements, &self.tc_only);
        let layout = &mut self.layout.clone();
        let room = compile::policy_tables(inputs, layout).and_then(|_| compile::egress_tables(inputs, rib, layout));
        rib.follow(self.config.vpc.as_ref(), &self.host);
        rib.change(&routes.inverse());
        room.map(drop)
    }
}
