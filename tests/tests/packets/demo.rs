#[test]
fn demo() {
    use crate::{SITES, Wire, address, spoofed, udp};
    use hub_tests::lab::*;
    let mut config = HubConfig::offices(&SITES);
    config.connection("shanghai").local_cidrs = vec!["192.168.0.0/24".into(), "fd00:192:168::/64".into()];
    let rig = Rig::start(&Options::default(), &config).unwrap();
    rig.warm_up(&SITES).unwrap();
    let mut m = crate::spawn(&rig.agent, &["monitor", "--packets"]);
    let scratch = Scratch::new().unwrap();
    let file = scratch.file("drops.pcapng");
    let mut c = crate::spawn(
        &rig.agent,
        &[
            "capture",
            "-w",
            file.to_str().unwrap(),
            "--reason",
            "selector_mismatch",
            "--connection",
            "shanghai",
            "--count",
            "2",
        ],
    );
    let w = Wire::of_site(&rig.world, &SHANGHAI);
    w.send(&udp(SHANGHAI.host4(), HANGZHOU.host4(), (40112, 445)).tcp(40112, 445).flags(2));
    w.send(&udp(SHANGHAI.host6(), HANGZHOU.host6(), (5353, 53)));
    w.send(&spoofed((7001, 53)));
    w.send(&udp(SHANGHAI.host4(), VPC.host4, (33434, 33435)).ttl(1));
    for _ in 0..3000 {
        w.send(&spoofed((7001, 53)));
    }
    w.send(&udp(SHANGHAI.host4(), VPC.host4, (33434, 33435)).ttl(1));
    println!("{}", c.wait().unwrap());
    std::thread::sleep(std::time::Duration::from_secs(3));
    m.kill().unwrap();
    let o = m.wait_with_output().unwrap();
    let t = String::from_utf8(o.stdout).unwrap();
    let mut lines: Vec<_> = t.lines().collect();
    lines.truncate(8);
    println!(
        "{}\n...\n{}",
        lines.join("\n"),
        t.lines().rev().filter(|l| !l.contains("drop spoofed")).take(4).collect::<Vec<_>>().join("\n")
    );
    let o = std::process::Command::new("tshark")
        .arg("-r")
        .arg(&file)
        .args([
            "-Y",
            "frame.comment contains \"selector_mismatch\"",
            "-T",
            "fields",
            "-e",
            "frame.interface_name",
            "-e",
            "ip.src",
            "-e",
            "ip.dst",
            "-e",
            "ipv6.src",
            "-e",
            "ipv6.dst",
            "-e",
            "frame.comment",
        ])
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&o.stdout));
    let o = std::process::Command::new("tshark")
        .arg("-r")
        .arg(&file)
        .args(["-Y", "frame.comment contains \"selector_mismatch\""])
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&o.stdout));
    rig.stop().unwrap();
}
