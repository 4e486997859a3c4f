use std::{process::Command, thread};

use nix::sched::{CloneFlags, unshare};

use super::*;

/// Runs `ip` in the calling thread's namespace.
fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("there is an `ip`");
    assert!(status.success(), "ip {arguments}");
}

#[test]
fn interface_with_dot_accepts_no_ra_and_redirects() {
    let namespace = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("run as root");
        ip("link add eth0.100 type veth peer name other");
        let read = |setting: &str| fs::read_to_string(Path::new(ROOT).join(setting)).expect("it is there");
        fs::write(Path::new(ROOT).join("ipv6/conf/eth0.100/accept_ra"), "2").expect("run as root");
        let changed = apply(Path::new(ROOT), "eth0.100").expect("run as root");
        assert!(changed.contains(&"ipv6/conf/eth0.100/accept_ra".to_owned()), "{changed:?}");
        for (family, setting) in OFF {
            assert_eq!(read(&format!("{family}/eth0.100/{setting}")), "0\n", "{family} {setting}");
        }
        assert_eq!(read("ipv6/conf/other/accept_ra"), "1\n", "another interface is left alone");
        // Below the minimum MTU and back: the kernel recreates the IPv6 settings.
        ip("link set eth0.100 up");
        ip("link set eth0.100 mtu 1000");
        assert!(apply(Path::new(ROOT), "eth0.100").expect("nothing is there").is_empty());
        ip("link set eth0.100 mtu 1500");
        let changed = apply(Path::new(ROOT), "eth0.100").expect("run as root");
        assert_eq!(changed, ["ipv6/conf/eth0.100/accept_ra", "ipv6/conf/eth0.100/accept_redirects"]);
    };
    thread::spawn(namespace).join().expect("it does not panic");
}

#[test]
fn unsafe_interface_name_is_rejected_as_path() {
    let root = Path::new("/proc/sys/net");
    let paths = plan(root, "eth0.100").expect("a dot is part of the name");
    assert_eq!(paths[0], root.join("ipv6/conf/eth0.100/accept_ra"));
    assert_eq!(paths[2], root.join("ipv4/conf/eth0.100/accept_redirects"));
    for name in ["all", "default", ".", "..", "", "a/b", "../all"] {
        assert!(plan(root, name).is_err(), "{name}");
    }
}

#[test]
fn differing_settings_are_written_and_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let v4 = folder.path().join("ipv4/conf/tun0");
    let v6 = folder.path().join("ipv6/conf/tun0");
    fs::create_dir_all(&v4).expect("it is ours");
    fs::create_dir_all(&v6).expect("it is ours");
    fs::write(v4.join("accept_redirects"), "1\n").expect("it is ours");
    fs::write(v6.join("accept_redirects"), "0\n").expect("it is ours");
    fs::write(v6.join("accept_ra"), "2\n").expect("it is ours");
    fs::write(v4.join("accept_source_route"), "1\n").expect("it is ours");
    let changed = apply(folder.path(), "tun0").expect("it can be written");
    assert_eq!(
        changed,
        ["ipv6/conf/tun0/accept_ra", "ipv4/conf/tun0/accept_redirects", "ipv4/conf/tun0/accept_source_route"]
    );
    assert_eq!(apply(folder.path(), "tun0").expect("it can be written"), Vec::<String>::new());
    assert_eq!(apply(folder.path(), "tun1").expect("nothing is there"), Vec::<String>::new());
}

#[test]
fn sysctl_changed_by_another_process_is_reported_with_its_interface() {
    let namespace = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("run as root");
        ip("link add tun0 type veth peer name other");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let set = |file: &str, value: &str| fs::write(Path::new(ROOT).join(file), value).expect("run as root");
            let mut watch = SysctlWatch::start(Path::new(ROOT)).expect("the kernel has inotify");
            watch.follow(&[("tun0".to_owned(), (2, 1500))].into());
            set("ipv6/conf/other/accept_ra", "2");
            set("ipv6/conf/tun0/accept_ra", "2");
            let tun0 = Watched::Interface("tun0".to_owned());
            assert_eq!(watch.changed().await.expect("it works"), [tun0.clone()].into());
            set("ipv4/fwmark_reflect", "0");
            assert_eq!(watch.changed().await.expect("it works"), [Watched::Namespace].into());
            // The same name, but another interface.
            ip("link del tun0");
            ip("link add tun0 type veth peer name other");
            watch.follow(&[("tun0".to_owned(), (4, 1500))].into());
            set("ipv4/conf/tun0/accept_redirects", "1");
            assert_eq!(watch.changed().await.expect("it works"), [tun0].into());
        });
    };
    thread::spawn(namespace).join().expect("it does not panic");
}
