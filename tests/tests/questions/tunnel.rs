//! A tunnel that is narrower than configured.

use hub_tests::document::Varying;
use hub_tests::lab::{Esp, IpsecLab, IpsecOptions, SHANGHAI};

use crate::Shell;

pub const ASKED: &[&str] = &["### Is this tunnel narrower than configured?"];

pub fn question() {
    let options = IpsecOptions::new(Esp::Userspace).sites([SHANGHAI]).hub_begins();
    let lab = IpsecLab::prepare(&options, |config| config).unwrap();
    let office = lab.office("shanghai");
    // The site's administrator has left out the VPC.
    let text = office.peer_config(&lab.agent, "swanctl", &["--with-secret"]).unwrap();
    office.charon.load("shanghai", &text.replace(", 192.168.0.0/24", "")).unwrap();
    lab.wait_for_status(|status| {
        let connection = status.connection("shanghai");
        connection["state"] == "up" && !connection["ipsec"]["missing"].as_array().is_none_or(Vec::is_empty)
    })
    .unwrap();
    Shell::new(&lab.agent, &lab.world).ask(ASKED[0], Varying::Times);
    lab.stop().unwrap();
}
