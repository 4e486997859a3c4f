use std::{fs, os::unix::fs::symlink, path::PathBuf};

use tempfile::TempDir;

use super::*;
use crate::config::parse;

fn mask(text: &str) -> CpuMask {
    CpuMask::parse(text).expect(text)
}

fn masks(texts: &[&str]) -> BTreeMap<u32, CpuMask> {
    (0..).zip(texts).map(|(number, text)| (number, mask(text))).collect()
}

#[test]
fn mask_text_equals_kernel_format() {
    for (list, text, count) in [
        ("0", "1", 1),
        ("0-1", "3", 2),
        ("0-31", "ffffffff", 32),
        ("0-32", "1,ffffffff", 33),
        ("32", "1,00000000", 1),
        ("0-3,8,64-65", "3,00000000,0000010f", 7),
        ("0-127", "ffffffff,ffffffff,ffffffff,ffffffff", 128),
    ] {
        let found = CpuMask::parse_list(list).expect(list);
        assert_eq!((found.to_string().as_str(), found.count()), (text, count), "{list}");
        assert_eq!(mask(text), found, "{list}");
        assert_eq!(found.list(), list);
    }
    // The kernel pads words to the number of possible CPUs.
    assert_eq!(mask("00000000,00000003"), mask("3"));
    assert_eq!(mask("0,00000000").to_string(), "0");
    assert!(mask("00").is_empty());
    assert_eq!(mask("0").list(), "");
}

#[test]
fn sets_of_cpus_are_listed_and_subtracted() {
    let list = |text: &str| CpuMask::parse_list(text).expect(text);
    assert_eq!(list("0-2,31-33,64").cpus().collect::<Vec<_>>(), [0, 1, 2, 31, 32, 33, 64]);
    assert_eq!(CpuMask::default().cpus().count(), 0);
    for (from, what, expected) in [("0-3", "1", "0,2-3"), ("0-64", "64,70", "0-63"), ("0-1", "32", "0-1")] {
        assert_eq!(list(from).without(&list(what)), list(expected));
    }
    assert!(list("5").without(&list("0-40")).is_empty());
    assert_eq!(list("5").without(&CpuMask::default()), list("5"));
}

#[test]
fn text_that_is_no_mask_is_rejected() {
    let long = vec!["0"; 5000].join(",");
    for text in ["", "x", "-1", "0x3", "3,", ",3", "123456789", "3 ", "+3", &long] {
        assert!(CpuMask::parse(text).is_err(), "{text:.20}");
    }
    for text in ["", "0-", "-1", "3-1", "a", "0,,1", "4000000000", "0-65536", "+1"] {
        assert!(CpuMask::parse_list(text).is_err(), "{text}");
    }
}

/// Four CPUs; the masks of the queues; own masks, as the mask before and the one made of `f`.
type Row = (Spread, &'static [&'static str], &'static [Option<(&'static str, &'static str)>], Vec<(u32, Action)>);

#[test]
fn actions_follow_setting_queues_and_other_programs() {
    use Spread::{Auto, Off, Rps};
    let spread = |before: &str| Action::Spread { before: mask(before) };
    let put_back = |before: &str| Action::PutBack(mask(before));
    let rows: [Row; 20] = [
        (Auto, &["0"], &[], vec![(0, spread("0"))]),
        (Auto, &["0", "0", "0"], &[], vec![(0, spread("0")), (1, spread("0")), (2, spread("0"))]),
        // A queue for each CPU.
        (Auto, &["0", "0", "0", "0"], &[], vec![]),
        (Rps, &["0", "0", "0", "0"], &[], (0..4).map(|number| (number, spread("0"))).collect()),
        // Another program's.
        (Auto, &["2", "0"], &[], vec![(1, spread("0"))]),
        (Rps, &["2", "0"], &[], vec![(0, spread("2")), (1, spread("0"))]),
        (Rps, &["f"], &[], vec![]),
        (Off, &["2", "0"], &[], vec![]),
        // Own ones; the second with isolated CPUs.
        (Auto, &["f"], &[Some(("0", "f"))], vec![]),
        (Auto, &["3"], &[Some(("0", "3"))], vec![]),
        (Rps, &["f"], &[Some(("2", "f"))], vec![]),
        (Off, &["f"], &[Some(("0", "f"))], vec![(0, put_back("0"))]),
        (Off, &["f"], &[Some(("2", "f"))], vec![(0, put_back("2"))]),
        // `auto` does not keep what `rps` has replaced.
        (Auto, &["f"], &[Some(("2", "f"))], vec![(0, put_back("2"))]),
        // The interface has more queues than before.
        (Auto, &["f", "0", "0", "0"], &[Some(("0", "f"))], vec![(0, put_back("0"))]),
        (Auto, &["f"], &[Some(("0", "f")), Some(("0", "f"))], vec![(1, Action::Forget)]),
        // Changed since by another program.
        (Auto, &["1"], &[Some(("0", "f"))], vec![(0, Action::Forget)]),
        (Auto, &["0"], &[Some(("0", "f"))], vec![(0, spread("0"))]),
        (Rps, &["1"], &[Some(("0", "f"))], vec![(0, spread("1"))]),
        (Off, &["1"], &[Some(("0", "f"))], vec![(0, Action::Forget)]),
    ];
    for (number, (setting, queues, own, expected)) in rows.into_iter().enumerate() {
        let own = (0..).zip(own).filter_map(|(number, own)| {
            let (before, is) = (*own)?;
            Some((number, OwnMask { before: mask(before), asked: mask("f"), is: mask(is) }))
        });
        let found = decide::actions(setting, &mask("f"), &masks(queues), &own.collect());
        assert_eq!(found, expected.into_iter().collect(), "row {number}");
    }
}

#[test]
fn cpu_online_later_is_added_to_own_masks() {
    let own = OwnMask { before: mask("0"), asked: mask("3"), is: mask("3") };
    let found = decide::actions(Spread::Auto, &mask("7"), &masks(&["3"]), &BTreeMap::from([(0, own)]));
    assert_eq!(found, BTreeMap::from([(0, Action::Spread { before: mask("0") })]));
}

#[test]
fn outcome_without_rps_names_reason() {
    let own = OwnMask { before: mask("0"), asked: mask("f"), is: mask("f") };
    let own = BTreeMap::from([(0, own)]);
    let nothing = BTreeMap::new();
    for (setting, queues, own, is_rps, reason) in [
        (Spread::Auto, vec!["f"], &own, true, None),
        (Spread::Auto, vec!["1"], &nothing, true, Some("another program has set rps_cpus")),
        (Spread::Auto, vec!["0"; 4], &nothing, false, Some("it has a receive queue for each CPU")),
        (Spread::Rps, vec!["f"], &own, true, None),
        (Spread::Off, vec!["0"], &nothing, false, Some("off in the configuration")),
        (Spread::Off, vec!["1"], &nothing, true, None),
    ] {
        let (found, text) = decide::outcome(setting, &mask("f"), &masks(&queues), own);
        assert_eq!(found, is_rps, "{setting:?} {queues:?}");
        assert_eq!(text.is_some(), reason.is_some(), "{text:?}");
        assert!(text.unwrap_or_default().starts_with(reason.unwrap_or_default()), "{setting:?} {queues:?}");
    }
}

/// A sysfs of regular files, with the interface `eth0` of index 3 and two receive queues, on four CPUs.
struct Host {
    folder: TempDir,
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa];

impl Host {
    fn new() -> Self {
        let host = Self { folder: tempfile::tempdir().expect("a folder") };
        for directory in ["class/net", "devices/system/cpu", "lock", "devices/pci0/net/eth0/queues/tx-0"] {
            fs::create_dir_all(host.path(directory)).expect("it is ours");
        }
        symlink("../../devices/pci0/net/eth0", host.path("class/net/eth0")).expect("it is ours");
        host.write("devices/system/cpu/online", "0-3\n");
        host.write("devices/pci0/net/eth0/ifindex", "3\n");
        host.write("devices/pci0/net/eth0/address", "02:00:00:00:00:0a\n");
        host.set_queue(0, "0");
        host.set_queue(1, "0");
        host
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).expect("it is ours");
    }

    fn file(queue: u32) -> String {
        format!("devices/pci0/net/eth0/queues/rx-{queue}/rps_cpus")
    }

    fn set_queue(&self, queue: u32, mask: &str) {
        let file = self.path(&Self::file(queue));
        fs::create_dir_all(file.parent().expect("it has one")).expect("it is ours");
        self.write(&Self::file(queue), mask);
    }

    fn queue(&self, queue: u32) -> String {
        fs::read_to_string(self.path(&Self::file(queue))).expect("it is there")
    }

    fn sysfs(&self) -> Sysfs {
        Sysfs::at(self.folder.path()).expect("it is there")
    }

    fn lock(&self) -> OwnedFd {
        fs::File::open(self.path("lock")).expect("it is there").into()
    }

    /// An agent's.
    fn spreader(&self) -> Spreader {
        let mut spreader = Spreader::start(self.lock(), "1.spread".to_owned());
        spreader.sysfs = Some(Arc::new(self.sysfs()));
        spreader
    }
}

fn link() -> Incarnation {
    Incarnation { index: 3, mac: Some(MAC) }
}

fn desired(spread: Spread) -> Desired {
    Desired { spread, link: Some(link()), upper: None, has_vlans: false }
}

fn underlays(spread: Spread) -> Underlays {
    Underlays(BTreeMap::from([("eth0".to_owned(), desired(spread))]))
}

#[test]
fn masks_of_killed_agent_are_known_to_next() {
    let host = Host::new();
    host.set_queue(1, "8");
    let mut spreader = host.spreader();
    spreader.set(&underlays(Spread::Rps));
    assert_eq!((host.queue(0), host.queue(1)), ("f".to_owned(), "f".to_owned()));
    let report = SpreadReport { is_rps: true, reason: None, rx_queues: Some(2), cpus: Some(4), xdp: None };
    assert_eq!(spreader.report("eth0"), report);
    // Killed here.
    let mut next = host.spreader();
    next.set(&underlays(Spread::Rps));
    assert_eq!(next.report("eth0"), report);
    next.set(&underlays(Spread::Off));
    assert_eq!((host.queue(0), host.queue(1)), ("0".to_owned(), "8".to_owned()));
    assert_eq!(fs::read_dir(host.path("lock")).expect("it is there").count(), 0, "nothing to remember");
}

#[test]
fn mask_of_another_program_is_not_put_back() {
    let host = Host::new();
    let mut spreader = host.spreader();
    spreader.set(&underlays(Spread::Auto));
    host.set_queue(0, "2");
    spreader.set(&underlays(Spread::Auto));
    assert_eq!((host.queue(0), host.queue(1)), ("2".to_owned(), "f".to_owned()));
    assert!(spreader.report("eth0").reason.is_some_and(|reason| reason.starts_with("another program")));
    spreader.set(&underlays(Spread::Off));
    assert_eq!((host.queue(0), host.queue(1)), ("2".to_owned(), "0".to_owned()));
}

#[test]
fn mask_that_cannot_be_recorded_is_not_written() {
    let host = Host::new();
    let mut spreader = host.spreader();
    // Not even root can replace a directory by a file.
    fs::create_dir(host.path("lock/1.spread.new")).expect("it is ours");
    spreader.set(&underlays(Spread::Auto));
    assert_eq!((host.queue(0), host.queue(1)), ("0".to_owned(), "0".to_owned()));
    assert!(spreader.report("eth0").reason.is_some_and(|reason| reason.contains("could not be put back later")));
    fs::remove_dir(host.path("lock/1.spread.new")).expect("it is ours");
    spreader.set(&underlays(Spread::Auto));
    assert_eq!((host.queue(0), host.queue(1)), ("f".to_owned(), "f".to_owned()));
}

#[test]
fn xdp_puts_masks_back_and_takes_cpus_without_isolated_ones() {
    let host = Host::new();
    let mut spreader = host.spreader();
    assert_eq!(spreader.set(&underlays(Spread::Rps)), SpreadPlan::default());
    let plan = spreader.set(&underlays(Spread::Xdp));
    assert_eq!((host.queue(0), host.queue(1)), ("0".to_owned(), "0".to_owned()));
    let interface = SpreadInterface { name: "eth0".to_owned(), generic: None };
    assert_eq!(plan.interfaces, BTreeMap::from([(3, interface.clone())]));
    let report = spreader.report("eth0");
    assert_eq!((report.xdp, report.is_rps, report.rx_queues, report.cpus), (Some(3), false, Some(2), Some(4)));
    let vlans = Underlays(BTreeMap::from([("eth0".to_owned(), Desired { has_vlans: true, ..desired(Spread::Xdp) })]));
    let generic = SpreadInterface { generic: Some(VLANS), ..interface };
    assert_eq!(spreader.set(&vlans).interfaces, BTreeMap::from([(3, generic)]));

    let mut cpus = |isolated: &str, nohz_full: &str| {
        host.write("devices/system/cpu/isolated", isolated);
        host.write("devices/system/cpu/nohz_full", nohz_full);
        spreader.set(&underlays(Spread::Xdp)).cpus
    };
    for (isolated, nohz_full, expected) in [
        ("\n", "(null)\n", &[0, 1, 2, 3][..]),
        ("1,3\n", "", &[0, 2]),
        ("1\n", "2-3\n", &[0]),
        // No other CPU is left.
        ("0-3\n", "\n", &[0, 1, 2, 3]),
    ] {
        assert_eq!(cpus(isolated, nohz_full), expected, "{isolated:?} {nohz_full:?}");
    }
    cpus("1\n", "2-3\n");
    let report = spreader.report("eth0");
    assert_eq!((report.xdp, report.reason.as_deref()), (None, Some("there is one CPU to distribute to")));
}

#[test]
fn xdp_needs_no_rps() {
    let host = Host::new();
    fs::remove_file(host.path(&Host::file(0))).expect("it is ours");
    let mut spreader = host.spreader();
    assert!(spreader.set(&underlays(Spread::Xdp)).interfaces.contains_key(&3));
    assert_eq!(spreader.failed.len(), 0);
    // Nor an upper interface.
    assert_eq!(spreader.set(&found_with("eth0", Some("vlan"), "spread = \"xdp\"")), SpreadPlan::default());
    assert!(spreader.report("eth0").reason.is_some_and(|reason| reason.contains("vlan")));
}

#[test]
fn loaded_esp_offload_is_found() {
    let host = Host::new();
    let spreader = host.spreader();
    assert_eq!(spreader.esp_offload(), None);
    fs::create_dir_all(host.path("module/esp6_offload")).expect("it is ours");
    assert_eq!(spreader.esp_offload(), Some("esp6_offload"));
}

#[test]
fn vlan_interface_above_is_found() {
    let config = parse("[gateway]\nname = \"hub\"\n[underlay.eth0]\nspread = \"xdp\"\n").expect("it is valid").0;
    let mut host = HostState::default();
    host.links.insert(Link { index: 3, name: "eth0".to_owned(), ..Link::default() });
    host.links.insert(Link { index: 4, name: "eth1.5".to_owned(), vlan: Some((5, 5)), ..Link::default() });
    assert!(!Underlays::of(&config, &host).0["eth0"].has_vlans);
    host.links.insert(Link { index: 6, name: "eth0.5".to_owned(), vlan: Some((3, 5)), ..Link::default() });
    assert!(Underlays::of(&config, &host).0["eth0"].has_vlans);
}

#[test]
fn damaged_record_counts_as_empty() {
    let host = Host::new();
    host.set_queue(0, "f");
    host.write("lock/1.spread", "{\"3\": 7}");
    let mut spreader = host.spreader();
    spreader.set(&underlays(Spread::Off));
    assert_eq!(host.queue(0), "f");
}

#[test]
fn interface_of_another_namespace_is_left_alone() {
    let host = Host::new();
    let cases = [
        ("eth0", Incarnation { index: 4, mac: Some(MAC) }),
        ("eth0", Incarnation { index: 3, mac: Some([2, 0, 0, 0, 0, 0xb]) }),
        ("eth1", link()),
    ];
    for (name, link) in cases {
        let found = host.sysfs().queues(name, &link).map(drop);
        assert!(matches!(found, Err(SpreadFailure::OtherNamespace)), "{name} {link:?}: {found:?}");
    }
    host.sysfs().queues("eth0", &link()).expect("it is the same");
}

#[test]
fn path_outside_queues_is_not_opened() {
    let host = Host::new();
    for name in ["", ".", "..", "a/b", "../../devices/pci0/net/eth0", "eth0/queues"] {
        assert!(host.sysfs().queues(name, &link()).is_err(), "{name}");
    }
    // Neither by links that lead out of sysfs, nor by links below an interface.
    symlink(host.path("devices/pci0/net/eth0"), host.path("class/net/eth1")).expect("it is ours");
    assert!(host.sysfs().queues("eth1", &link()).is_err());
    fs::remove_file(host.path(&Host::file(1))).expect("it is ours");
    host.write("secret", "0");
    symlink(host.path("secret"), host.path(&Host::file(1))).expect("it is ours");
    let mut spreader = host.spreader();
    spreader.set(&underlays(Spread::Rps));
    assert_eq!(fs::read_to_string(host.path("secret")).expect("it is ours"), "0");
}

#[test]
fn kernel_without_rps_is_reported() {
    let host = Host::new();
    fs::remove_file(host.path(&Host::file(0))).expect("it is ours");
    let mut spreader = host.spreader();
    spreader.set(&underlays(Spread::Auto));
    assert!(spreader.report("eth0").reason.is_some_and(|reason| reason.contains("CONFIG_RPS")));
}

fn found(name: &str, kind: Option<&str>) -> Underlays {
    found_with(name, kind, "")
}

fn found_with(name: &str, kind: Option<&str>, keys: &str) -> Underlays {
    let text = format!("[gateway]\nname = \"hub\"\n[underlay.{name}]\n{keys}\n");
    let config = parse(&text).unwrap_or_else(|errors| panic!("{errors:#?}")).0;
    let mut host = HostState::default();
    let kind = kind.map(str::to_owned);
    host.links.insert(Link { index: 3, name: name.to_owned(), kind, mac: Some(MAC), ..Link::default() });
    Underlays::of(&config, &host)
}

#[test]
fn upper_interface_is_not_written() {
    let host = Host::new();
    let mut spreader = host.spreader();
    for kind in UPPER {
        spreader.set(&found("eth0", Some(kind)));
        assert!(spreader.report("eth0").reason.is_some_and(|reason| reason.contains(kind)), "{kind}");
        assert_eq!(host.queue(0), "0", "{kind}");
    }
    spreader.set(&found("eth0", None));
    assert_eq!(host.queue(0), "f");
}
