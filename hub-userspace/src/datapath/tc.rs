//! Attaches the TC programs, by TCX or as filters of the `clsact` qdisc.

use std::{
    mem,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::programs::{
    ProgramError, TcAttachType,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, qdisc_add_clsact, qdisc_detach_program},
};
use aya_obj::generated::bpf_attach_type;
use rustix::io::Errno;

use super::{
    DatapathError,
    attach::{Programs, errno, names},
    bpf,
    handover::Handover,
    links::{TCX_FLAGS, attach_tcx},
    pins::{AttachmentKind, FILTER_HANDLE, FILTER_PRIORITY, Pins},
};
use crate::config::model::LookupKind;

/// No interface has this index.
const NO_INTERFACE: u32 = 0;

/// Which packets of an interface a program gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    pub fn link(self) -> AttachmentKind {
        match self {
            Self::Ingress => AttachmentKind::Tcx,
            Self::Egress => AttachmentKind::TcxEgress,
        }
    }

    pub fn filter(self) -> AttachmentKind {
        match self {
            Self::Ingress => AttachmentKind::Clsact,
            Self::Egress => AttachmentKind::Egress,
        }
    }

    pub fn attach_type(self) -> bpf_attach_type {
        match self {
            Self::Ingress => bpf_attach_type::BPF_TCX_INGRESS,
            Self::Egress => bpf_attach_type::BPF_TCX_EGRESS,
        }
    }
}

impl Programs {
    /// Attaches the TC program of a direction, or replaces that of an earlier agent. A kernel without TCX (before 6.6)
    /// has filters only.
    ///
    /// TCX takes ten times as long as a filter, and more. So an interface gets a filter at first, and [`Handover`]
    /// replaces it by a TCX link, unless only a few interfaces are attached.
    pub(super) fn attach_tc(
        &mut self,
        pins: &Pins,
        handover: &mut Handover,
        (interface, ifindex): (&str, u32),
        direction: Direction,
    ) -> Result<(), DatapathError> {
        let program = self.tc_program(direction)?;
        let (link, filter) = (direction.link(), direction.filter());
        if direction == Direction::Egress {
            // The link may be waiting to be detached.
            handover.forget(ifindex, direction);
        }
        if !self.has_tcx(&program) {
            return self.attach_filter(pins, filter, interface, ifindex);
        }
        if pins.has(link, ifindex) {
            // An agent was killed in the middle of a hand-over. Its filter does not recognize what this agent's program
            // passes, so it goes first.
            if pins.has(filter, ifindex) {
                pins.detach(filter, ifindex);
            }
        } else if (pins.has(filter, ifindex) || !handover.may_wait())
            && self.attach_filter(pins, filter, interface, ifindex).is_ok()
        {
            handover.add(ifindex, direction, pins, program);
            return Ok(());
        }
        match attach_tcx(pins, direction, ifindex, program.as_fd()) {
            // Other programs have taken all places (`BPF_MPROG_MAX`, linux/bpf_mprog.h).
            Err(error) if Errno::from_io_error(&error) == Some(Errno::RANGE) => {
                let filter = self.attach_filter(pins, filter, interface, ifindex);
                filter.map_err(|_| DatapathError::attach(&error))
            }
            result => result.map_err(|error| DatapathError::attach(&error)),
        }
    }

    /// The program of a direction, loaded.
    pub(super) fn tc_program(&mut self, direction: Direction) -> Result<OwnedFd, DatapathError> {
        let program = match direction {
            Direction::Ingress => self.tc()?,
            Direction::Egress => self.egress()?,
        };
        let program = program.fd().map_err(|error| DatapathError::attach(&error))?;
        program.as_fd().try_clone_to_owned().map_err(|error| DatapathError::attach(&error))
    }

    /// The kernel looks for the interface only if it knows the attach type.
    fn has_tcx(&mut self, program: &OwnedFd) -> bool {
        *self.has_tcx.get_or_insert_with(|| {
            let attach_type = Direction::Ingress.attach_type();
            let tried = bpf::attach(program.as_fd(), NO_INTERFACE, attach_type, TCX_FLAGS);
            tried.is_err_and(|error| Errno::from_io_error(&error) != Some(Errno::INVAL))
        })
    }

    /// Forgets the filter's link object, because dropping it would detach the filter.
    fn attach_filter(
        &mut self,
        pins: &Pins,
        kind: AttachmentKind,
        interface: &str,
        ifindex: u32,
    ) -> Result<(), DatapathError> {
        let hook = kind.filter().expect("a kind of filter");
        if pins.has(kind, ifindex) && self.replace_filter(interface, hook).is_ok() {
            return Ok(());
        }
        // Marked before it is added: an unmarked filter could be neither replaced nor removed.
        pins.mark_filter(kind, interface, ifindex)?;
        self.add_filter_and_qdisc(kind, interface, hook).inspect_err(|_| {
            // By index: the interface may have been renamed, and have the filter of an earlier agent.
            pins.detach(kind, ifindex);
        })
    }

    fn add_filter_and_qdisc(
        &mut self,
        kind: AttachmentKind,
        interface: &str,
        hook: TcAttachType,
    ) -> Result<(), DatapathError> {
        match qdisc_add_clsact(interface) {
            // Others may have added it.
            Err(error) if errno(&error) != Some(Errno::EXIST) => return Err(DatapathError::filter(&error)),
            _ => {}
        }
        let mut result = self.add_filter(interface, hook);
        if kind == AttachmentKind::Clsact && result.as_ref().is_err_and(|error| errno(error) == Some(Errno::EXIST)) {
            // Versions without pinning left their filters behind when they were killed.
            for lookup in [LookupKind::Compiled, LookupKind::Lpm] {
                drop(qdisc_detach_program(interface, TcAttachType::Ingress, names(lookup).1));
            }
            result = self.add_filter(interface, hook);
        }
        result.map_err(|error| DatapathError::filter(&error))
    }

    fn replace_filter(&mut self, interface: &str, hook: TcAttachType) -> Result<(), ProgramError> {
        let link = SchedClassifierLink::attached(interface, hook, FILTER_PRIORITY, FILTER_HANDLE, None)?;
        let program = self.at_hook(hook);
        let link = program.attach_to_link(link)?;
        mem::forget(program.take_link(link)?);
        Ok(())
    }

    fn add_filter(&mut self, interface: &str, hook: TcAttachType) -> Result<(), ProgramError> {
        let options = NlOptions { priority: FILTER_PRIORITY, handle: FILTER_HANDLE, ..NlOptions::default() };
        let options = TcAttachOptions::Netlink(options);
        let program = self.at_hook(hook);
        let link = program.attach_with_options(interface, hook, options)?;
        mem::forget(program.take_link(link)?);
        Ok(())
    }
}
