//! Runs packets through the loaded programs (`BPF_PROG_TEST_RUN`).

use aya::{TestRun as _, TestRunOptions};

use super::{DatapathError, Dataplane, attach::Programs};

/// The hook of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Xdp,
    Tc,
    /// TC, for a packet that leaves.
    Egress,
    /// XDP of an underlay interface.
    Spread,
}

/// The result of [`Dataplane::test_run`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub action: Action,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// `skb->mark` afterwards, host byte order. With XDP, which has no mark, the given value.
    pub mark: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Passed to the kernel.
    Pass,
    Drop,
    Redirect,
    /// A code that the program never returns: enum `xdp_action`, or `TC_ACT_*`.
    Other(u32),
}

impl Action {
    fn of(hook: Hook, code: u32) -> Self {
        // enum xdp_action (linux/bpf.h); TC_ACT_* (linux/pkt_cls.h).
        let [pass, drop, redirect] = match hook {
            Hook::Xdp | Hook::Spread => [2, 1, 4],
            Hook::Tc | Hook::Egress => [u32::MAX, 2, 7],
        };
        match code {
            code if code == pass => Self::Pass,
            code if code == drop => Self::Drop,
            code if code == redirect => Self::Redirect,
            code => Self::Other(code),
        }
    }
}

/// Bytes of `struct __sk_buff` (linux/bpf.h), and the offsets of `mark` and `ifindex`.
const SKB_BYTES: usize = 192;
const SKB_MARK: usize = 8;
const SKB_IFINDEX: usize = 40;

impl Dataplane {
    /// Runs a loaded program on a frame, as if received on `ifindex` (at egress: sent there), an interface of this network
    /// namespace, with this `skb->mark` in host byte order. XDP does not see the mark.
    ///
    /// Counters are updated as usual; a redirect is decided but not performed. With TC, a link header that the kernel
    /// would remove is still present, and `skb->protocol` is that header's `EtherType` (`eth_type_trans`).
    ///
    /// # Errors
    /// When the interface does not exist or the kernel refuses the frame. With TC the frame must be longer than an
    /// Ethernet header (`bpf_prog_test_run_skb`, `net/bpf/test_run.c`).
    pub fn test_run(&mut self, hook: Hook, ifindex: u32, frame: &[u8], mark: u32) -> Result<Outcome, DatapathError> {
        self.programs.test_run(hook, ifindex, frame, mark)
    }
}

impl Programs {
    /// See [`Dataplane::test_run`].
    pub(super) fn test_run(
        &mut self,
        hook: Hook,
        ifindex: u32,
        frame: &[u8],
        mark: u32,
    ) -> Result<Outcome, DatapathError> {
        let length = u32::try_from(frame.len()).map_err(|_| DatapathError::FrameTooLong)?;
        let mut output = vec![0; frame.len() + 256];
        let context = match hook {
            // struct xdp_md (linux/bpf.h): data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
            Hook::Xdp | Hook::Spread => [0, length, 0, ifindex, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect(),
            Hook::Tc | Hook::Egress => {
                let mut context = vec![0; SKB_BYTES];
                context[SKB_MARK..SKB_MARK + 4].copy_from_slice(&mark.to_ne_bytes());
                context[SKB_IFINDEX..SKB_IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
                context
            }
        };
        let mut context_after = [0; SKB_BYTES];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut output),
            ctx_in: Some(&context),
            ctx_out: matches!(hook, Hook::Tc | Hook::Egress).then_some(&mut context_after[..]),
            ..TestRunOptions::default()
        };
        let result = match hook {
            Hook::Xdp => self.xdp().test_run(options),
            Hook::Tc => self.tc()?.test_run(options),
            Hook::Egress => self.egress()?.test_run(options),
            Hook::Spread => self.spread()?.test_run(options),
        };
        let result = result.map_err(DatapathError::program)?;
        output.truncate(result.data_size_out as usize);
        let mark = match hook {
            Hook::Xdp | Hook::Spread => mark,
            Hook::Tc | Hook::Egress => {
                let mut after = [0; 4];
                after.copy_from_slice(&context_after[SKB_MARK..SKB_MARK + 4]);
                u32::from_ne_bytes(after)
            }
        };
        Ok(Outcome { action: Action::of(hook, result.return_value), frame: output, mark })
    }
}
