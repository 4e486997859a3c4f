//! `start = "trap"`: the hub negotiates on the first packet, reported by the kernel's trap policy.

use std::net::IpAddr;

use hub_tests::lab::{Esp, IpsecLab, IpsecOptions, NINGBO, SHANGHAI, VPC, reach};

use crate::cases::{assert_all_reach, spis};
use crate::{Case, Needs};

pub const CASES: &[Case] = &[(Needs::KernelEsp, "kernel::packet_to_site_without_tunnel_starts_it", begins)];

fn begins() {
    let options = IpsecOptions::new(Esp::Kernel).sites([SHANGHAI, NINGBO]).hub_waits_for_a_packet();
    let lab = IpsecLab::prepare(&options, |config| config).unwrap();
    lab.offices.iter().try_for_each(|office| office.configure(&lab.agent)).unwrap();
    let (shanghai, ningbo) = (lab.office("shanghai"), lab.office("ningbo"));
    let begun = || lab.hub.log().matches("initiating IKE_SA vpnhub-shanghai").count();
    let reached = |from, to: IpAddr| reach(from, to).unwrap_or_else(|error| panic!("{error:#}\n{}", lab.diagnosis()));
    // Up without an SA: packets must reach the policy that triggers negotiation.
    let status = lab.wait_until_up().unwrap();
    assert_eq!((spis(&status, "shanghai"), spis(&status, "ningbo"), begun()), (vec![], vec![], 0));

    // From Ethernet: native XDP leaves the packet to TC, which sends into the xfrm interface.
    reached(&lab.world[VPC.place], SHANGHAI.host4().into());
    let status = lab.wait_for_status(|status| spis(status, "shanghai").len() == 1).unwrap();
    assert_eq!((spis(&status, "ningbo"), begun()), (vec![], 1));

    // From another tunnel; IPv6.
    shanghai.terminate().unwrap();
    ningbo.initiate().unwrap();
    lab.wait_for_status(|status| spis(status, "shanghai").is_empty() && spis(status, "ningbo").len() == 1).unwrap();
    reached(ningbo.place(), SHANGHAI.host6().into());
    lab.wait_for_status(|status| spis(status, "shanghai").len() == 1).unwrap();
    assert_eq!(begun(), 2);
    assert_all_reach(&lab);
    lab.stop().unwrap();
}
