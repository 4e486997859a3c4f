//! What `diagnose` finds about the machine: settings of the whole kernel, and devices that few machines have. So these
//! run in the virtual machine alone.

use std::fs;
use std::process::Command;

use hub_tests::lab::{HUB, HubConfig, Options, Rig, VPC, World, agent_binary};
use serde_json::Value;

use super::{diagnose, diagnosis, finding};
use crate::SITES;

/// Of all network namespaces; only the first one shows it.
const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";
/// QEMU has this device, and it is the only one of QEMU's with LRO.
const LRO_DRIVER: &str = "vmxnet3";

/// Restores the setting, also after a failed assertion.
struct JitSetting(String);

impl Drop for JitSetting {
    fn drop(&mut self) {
        drop(fs::write(JIT, &self.0));
    }
}

/// The finding about the JIT, in the first network namespace, where no agent runs.
fn jit() -> Value {
    let arguments = ["--socket", "/nowhere/vpnhub.sock", "--output", "json", "diagnose", "--instance", "none"];
    let output = Command::new(agent_binary()).args(arguments).output().unwrap();
    finding(&diagnosis(&output), "bpf_jit", "net.core.bpf_jit_enable")
}

#[test]
#[ignore = "switches the kernel's BPF JIT off: cargo xtask vm-test"]
fn alone_jit_that_is_off_is_a_warning_until_it_is_on() {
    let before = JitSetting(fs::read_to_string(JIT).unwrap());
    assert_eq!(before.0.trim(), "1", "the kernel's default");
    assert_eq!(jit()["severity"], "ok");
    fs::write(JIT, "0").expect("a kernel without CONFIG_BPF_JIT_ALWAYS_ON");
    let found = jit();
    assert_eq!(found["severity"], "warning");
    assert_eq!(found["message"], "the kernel interprets BPF programs: forwarding is several times slower");
    assert_eq!(found["action"], "`sysctl net.core.bpf_jit_enable=1`, and a file in /etc/sysctl.d");
    // The remedy.
    fs::write(JIT, "1").unwrap();
    assert_eq!(jit()["severity"], "ok");
}

/// A device of this namespace with this driver.
fn device_of(driver: &str) -> Option<String> {
    let is_its = |name: &String| {
        let link = fs::read_link(format!("/sys/class/net/{name}/device/driver"));
        link.is_ok_and(|path| path.ends_with(driver))
    };
    let names = fs::read_dir("/sys/class/net").unwrap();
    names.filter_map(|entry| entry.unwrap().file_name().into_string().ok()).find(is_its)
}

#[test]
#[ignore = "needs a NIC with LRO: cargo xtask vm-test"]
fn alone_lro_of_a_nic_is_found_until_it_is_off() {
    // The virtual machine has no udev.
    drop(Command::new("modprobe").arg(LRO_DRIVER).status());
    let nic = device_of(LRO_DRIVER).unwrap_or_else(|| panic!("no device of {LRO_DRIVER}"));
    let world = World::three_offices(&Options::default().slow_path(true)).unwrap();
    let (hub, device) = (&world[HUB], VPC.hub_device);
    // The NIC is the VPC's interface.
    hub.ip(&format!("link del {device}")).unwrap();
    let moved = Command::new("ip").args(["link", "set", &nic, "netns", hub.name(), "name", device]).status().unwrap();
    assert!(moved.success());
    hub.ip(&format!("addr add {}/24 dev {device}", VPC.hub4)).unwrap();
    hub.ip(&format!("link set {device} up")).unwrap();
    let rig = Rig::start_in(world, &HubConfig::offices(&SITES), &[]).unwrap();
    let hub = &rig.world[HUB];
    let found = || finding(&diagnose(&rig, &[]), "offload", device);
    // The kernel switches it off on a host that forwards, but others may switch it on again.
    assert_eq!(found()["severity"], "ok");
    hub.set_lro(device, true).unwrap();
    let warning = found();
    assert_eq!(warning["severity"], "warning");
    let message = warning["message"].as_str().unwrap();
    assert!(message.starts_with("LRO merges received packets"), "{message}");
    assert_eq!(warning["action"], format!("`ethtool -K {device} lro off`"));
    // The remedy.
    hub.set_lro(device, false).unwrap();
    assert_eq!(found()["severity"], "ok");
    rig.stop().unwrap();
}
