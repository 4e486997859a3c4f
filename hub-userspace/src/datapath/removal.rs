//! Takes a datapath away. It forwards nothing from the first moment on; to detach all programs can take longer.

use super::{
    DatapathError, Instance, groups,
    pins::{AttachmentKind, Pins},
};

/// A datapath whose programs forward nothing any more. They pass all packets unmarked, so that the nftables table drops
/// those from and to sites.
pub struct Removal {
    pins: Pins,
}

impl Removal {
    /// Ends the forwarding of an instance; `None` without a datapath.
    ///
    /// # Errors
    /// When its agent runs.
    pub fn begin(instance: &Instance) -> Result<Option<Self>, DatapathError> {
        let pins = Pins::take(instance)?;
        pins.iter().for_each(groups::deny);
        Ok(pins.map(Self::of))
    }

    /// Of a datapath that has been denied.
    pub(super) fn of(pins: Pins) -> Self {
        Self { pins }
    }

    /// Detaches all programs and removes the pins; returns the number of programs. Reports how many are detached, of
    /// how many. If the process is interrupted, the rest stays attached and denied.
    ///
    /// # Errors
    /// When the directory of the pins cannot be removed.
    pub fn finish(self, mut progress: impl FnMut(usize, usize)) -> Result<usize, DatapathError> {
        self.remove(|pins, (ifindex, kind), (done, all)| {
            pins.detach(kind, ifindex);
            progress(done, all);
        })
    }

    /// The same without waiting: the kernel detaches the TCX links within 10 ms each.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub fn finish_later(self) -> Result<usize, DatapathError> {
        // The file is the last reference to the link.
        self.remove(|pins, (ifindex, kind), _| pins.forget_link(kind, ifindex))
    }

    /// XDP first: TC still processes the packets meanwhile.
    fn remove(
        self,
        mut remove_tcx: impl FnMut(&Pins, (u32, AttachmentKind), (usize, usize)),
    ) -> Result<usize, DatapathError> {
        let Self { pins } = self;
        let live = pins.live_links().len();
        let (tcx, others): (Vec<_>, Vec<_>) = pins.links().into_iter().partition(|(_, kind)| kind.is_tcx());
        let (xdp, filters): (Vec<_>, Vec<_>) = others.into_iter().partition(|(_, kind)| kind.is_xdp());
        for (ifindex, kind) in xdp.into_iter().chain(filters) {
            pins.detach(kind, ifindex);
        }
        for (index, link) in tcx.iter().enumerate() {
            remove_tcx(&pins, *link, (index + 1, tcx.len()));
        }
        pins.remove()?;
        Ok(live)
    }
}
