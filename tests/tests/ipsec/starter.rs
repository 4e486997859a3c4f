//! A site with strongSwan's older form loads the output of `peer-config --format strongswan`.

use hub_tests::lab::{CharonOptions, Esp, IpsecLab, IpsecOptions, NINGBO, SHANGHAI, Starter};

use crate::cases::{assert_all_reach, spis};
use crate::{Case, Needs};

pub const CASES: &[Case] = &[
    (Needs::Starter, "userspace::starter::ipsec_conf_site_starts_and_ends_tunnel", site_begins),
    (Needs::Starter, "userspace::starter::ipsec_conf_site_waits_for_hub", hub_begins),
];

/// Shanghai has the newer form, Ningbo the older one.
fn start(options: &IpsecOptions) -> (IpsecLab, Starter) {
    let mut lab = IpsecLab::prepare(options, |config| config).unwrap();
    lab.office("shanghai").configure(&lab.agent).unwrap();
    let ningbo = lab.offices.iter_mut().find(|office| office.site == NINGBO).unwrap();
    ningbo.charon.kill().unwrap();
    let folder = lab.folder().join("starter");
    let ningbo = lab.office("ningbo");
    let starter = Starter::start(ningbo.place(), &folder, CharonOptions::new(Esp::Userspace)).unwrap();
    starter.load(&ningbo.peer_config(&lab.agent, "strongswan", &["--with-secret"]).unwrap()).unwrap();
    (lab, starter)
}

fn options() -> IpsecOptions {
    IpsecOptions::new(Esp::Userspace).sites([SHANGHAI, NINGBO])
}

fn site_begins() {
    let (lab, starter) = start(&options());
    let before = lab.wait_until_up().unwrap_or_else(|error| panic!("{error:#}\n{}", starter.log()));
    assert_all_reach(&lab);
    starter.ipsec(&["down", "ningbo"]).unwrap();
    lab.wait_for_status(|status| spis(status, "ningbo").is_empty()).unwrap();
    starter.ipsec(&["up", "ningbo"]).unwrap();
    let after = lab.wait_until_up().unwrap();
    assert_ne!(spis(&before, "ningbo"), spis(&after, "ningbo"));
    assert_all_reach(&lab);
    lab.stop().unwrap();
}

fn hub_begins() {
    let (lab, starter) = start(&options().hub_begins());
    lab.wait_until_up().unwrap_or_else(|error| panic!("{error:#}\n{}", starter.log()));
    assert_all_reach(&lab);
    lab.stop().unwrap();
}
