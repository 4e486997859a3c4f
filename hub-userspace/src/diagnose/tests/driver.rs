use super::{diagnose, faults, healthy, only};
use crate::{
    diagnose::facts::{Facts, InterfaceFacts, OtherEndFacts},
    kernel::netlink::XdpFeatures,
};

/// The VPC's interface, with native XDP, changed.
fn with(change: impl FnOnce(&mut InterfaceFacts)) -> Facts {
    let mut facts = healthy();
    change(facts.host.network.as_mut().and_then(|network| network.interfaces.get_mut("vpc0")).expect("it is there"));
    facts
}

fn other_end(name: Option<&str>, has_napi: Option<bool>) -> OtherEndFacts {
    OtherEndFacts { name: name.map(str::to_owned), has_napi }
}

#[test]
fn target_of_redirects_must_take_frames() {
    let without = XdpFeatures(0x23);
    let error = Some("error redirect_target vpc0");
    let warning = Some("warning redirect_target vpc0");
    for (features, end, expected) in [
        (Some(without), None, error),
        (Some(without), Some(other_end(None, None)), error),
        // The kernel's own word counts more than what the other end shows.
        (Some(without), Some(other_end(Some("peer0"), Some(true))), error),
        (Some(XdpFeatures(0x27)), Some(other_end(Some("peer0"), Some(false))), None),
        // Before Linux 6.3.
        (None, Some(other_end(Some("peer0"), Some(false))), error),
        (None, Some(other_end(Some("peer0"), Some(true))), None),
        (None, Some(other_end(None, None)), warning),
        // A device with a driver takes frames once it has a program, which the agent attaches.
        (None, None, None),
    ] {
        let facts = with(|facts| (facts.xdp_features, facts.other_end) = (features, end.clone()));
        assert_eq!(faults(&diagnose(&facts)), Vec::from_iter(expected), "{features:?} {end:?}");
    }
}

#[test]
fn other_end_is_named_where_it_is_known() {
    let without = Some(XdpFeatures(0x23));
    let facts = with(|facts| (facts.xdp_features, facts.other_end) = (without, Some(other_end(Some("peer0"), None))));
    let diagnosis = diagnose(&facts);
    let found = only(&diagnosis, "redirect_target");
    assert!(found.message.starts_with("its other end, peer0, has neither GRO nor"), "{}", found.message);
    assert!(found.action.as_ref().is_some_and(|action| action.starts_with("`ethtool -K peer0 gro on`")), "{found:?}");
    let facts = with(|facts| (facts.xdp_features, facts.driver) = (without, Some("e1000".to_owned())));
    let diagnosis = diagnose(&facts);
    assert!(only(&diagnosis, "redirect_target").message.starts_with("its driver e1000 takes no frames"));
}

#[test]
fn interface_without_native_xdp_is_no_target() {
    let mut facts = healthy();
    let tun = facts.host.network.as_mut().and_then(|network| network.interfaces.get_mut("tun-b")).expect("it is there");
    tun.xdp_features = Some(XdpFeatures(0));
    assert_eq!(faults(&diagnose(&facts)), [""; 0]);
}

#[test]
fn offloads_in_the_way_are_warnings() {
    let vlans = vec!["vpc0.5".to_owned()];
    for (attach, offload, vlans, expected) in [
        ("xdp-native", "rx-lro", vec![], 1),
        ("tc", "rx-lro", vec![], 1),
        ("tc", "rx-gro-hw", vec![], 0),
        ("xdp-native", "rx-vlan-hw-parse", vec![], 0),
        ("xdp-native", "rx-vlan-hw-parse", vlans.clone(), 1),
        ("tc", "rx-vlan-hw-parse", vlans, 0),
        ("xdp-native", "rx-gro", vec![], 0),
    ] {
        let mut facts = with(|facts| {
            facts.offloads = Some([offload.to_owned()].into());
            facts.vlans = vlans;
        });
        let vpc = facts.status.as_mut().and_then(|status| status.status.vpc.as_mut()).expect("it is there");
        vpc.attachment.attach = Some(attach.to_owned());
        let found = faults(&diagnose(&facts));
        assert_eq!(found, vec!["warning offload vpc0"; expected], "{attach} {offload}");
    }
    // Generic XDP is a warning by itself.
    let mut facts = with(|facts| facts.offloads = Some(["rx-gro-hw".to_owned()].into()));
    let vpc = facts.status.as_mut().and_then(|status| status.status.vpc.as_mut()).expect("it is there");
    vpc.attachment.attach = Some("xdp-generic".to_owned());
    assert_eq!(faults(&diagnose(&facts)), ["warning attachment vpc0", "warning offload vpc0"]);
}
