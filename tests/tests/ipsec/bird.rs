//! Routes that sites announce by BGP through kernel ESP, with BIRD at the hub and at two sites.
//!
//! The second site announces a longer path, so it is used while the first one does not announce the networks.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use hub_tests::lab::{Bird, Esp, HUB, IpsecLab, IpsecOptions, Ping, Site, VPC, reach, retry_within};

use crate::learned::{self, HUB_NUMBER, NETWORK4, NETWORK6, PATIENCE, SITES, arrivals};
use crate::{Case, Needs};

pub const CASES: &[Case] =
    &[(Needs::KernelEspAndBird, "kernel::bird::announced_networks_come_fail_over_to_another_site_and_go", announced)];

/// For each session: BIRD waits 5 s by default, and finds a dead neighbour after four minutes.
const FAST: &str = "connect delay time 1; connect retry time 1; error wait time 1, 2; hold time 9;";
/// The agent follows this kernel table, so BIRD writes into it alone.
const LEARN: &str = "table = 1190\nprotocols = [\"bird\"]";

/// The hub's: it resolves the sites' addresses by the agent's routes, which it reads from the main table.
fn hub_conf() -> String {
    let mut conf = format!("router id {};\nprotocol device {{}}\n", VPC.hub4);
    for (number, own, index) in [(4, IpAddr::from(VPC.hub4), 0), (6, VPC.hub6.into(), 1)] {
        write!(
            conf,
            "ipv{number} table bgp{number};\n\
             protocol kernel main{number} {{ learn; ipv{number} {{ import all; export none; }}; }}\n\
             protocol kernel out{number} {{ kernel table 1190; ipv{number} {{ table bgp{number}; import none; export \
             where source = RTS_BGP; }}; }}\n"
        )
        .unwrap();
        for (site, as_number) in &SITES {
            write!(
                conf,
                "protocol bgp {}{number} {{ local {own} as {HUB_NUMBER}; neighbor {} as {as_number}; multihop 4; {FAST}\n \
                 ipv{number} {{ table bgp{number}; igp table master{number}; import all; export none; }}; }}\n",
                site.place,
                site.hosts()[index]
            )
            .unwrap();
        }
    }
    conf
}

/// A site's: it announces both networks, and takes nothing.
fn site_conf(site: &Site, as_number: u32, attributes: &str) -> String {
    let mut conf = format!("router id {};\nprotocol device {{}}\n", site.host4());
    for (number, network, hub, index) in [(4, NETWORK4, IpAddr::from(VPC.hub4), 0), (6, NETWORK6, VPC.hub6.into(), 1)] {
        write!(
            conf,
            "protocol static networks{number} {{ ipv{number}; route {network} blackhole {attributes}; }}\n\
             protocol bgp hub{number} {{ local {} as {as_number}; neighbor {hub} as {HUB_NUMBER}; multihop 4; {FAST}\n \
             ipv{number} {{ import none; export where source = RTS_STATIC; next hop self; }}; }}\n",
            site.hosts()[index]
        )
        .unwrap();
    }
    conf
}

struct Lab {
    ipsec: IpsecLab,
    hub: Bird,
    sites: [Bird; 2],
}

impl Lab {
    fn start() -> Self {
        let options = IpsecOptions::new(Esp::Kernel).sites(SITES.map(|(site, _)| site));
        let change = |config| hub_tests::lab::HubConfig { learn: Some(LEARN), ..learned::hub(config) };
        let ipsec = IpsecLab::start(&options, change).unwrap();
        for (site, _) in &SITES {
            let place = ipsec.office(&site.place).place();
            for network in [NETWORK4, NETWORK6] {
                place.ip(&format!("route add local {network} dev lo")).unwrap();
            }
            for to in site.hosts() {
                reach(&ipsec.world[VPC.place], to).unwrap();
            }
        }
        let hub = Bird::start(&ipsec.world[HUB], &ipsec.folder().join("bird-hub"), &hub_conf()).unwrap();
        let [shanghai, hangzhou] = &SITES;
        let sites = [(shanghai, String::new()), (hangzhou, format!("{{ bgp_path.prepend({}); }}", hangzhou.1))];
        let sites = sites.map(|((site, number), attributes)| {
            let folder = ipsec.folder().join(format!("bird-{}", site.place));
            Bird::start(ipsec.office(&site.place).place(), &folder, &site_conf(site, *number, &attributes)).unwrap()
        });
        Self { ipsec, hub, sites }
    }

    /// Waits until exactly these are learned.
    fn wait_for(&self, expected: &[String]) {
        let found = || learned::learned(&self.ipsec);
        let what = format!("not learned: {expected:?}");
        retry_within(PATIENCE, &what, || Ok((found() == expected).then_some(()))).unwrap_or_else(|error| {
            let asked =
                ["show protocols all", "show route all"].map(|command| self.hub.ask(command).unwrap_or_default());
            let table = self.ipsec.world[HUB].ip("route show table 1190").unwrap_or_default();
            panic!("{error:#}\n{:?}\n{}\n{table}\n{}", found(), asked.concat(), self.ipsec.diagnosis())
        });
    }

    /// All flows to the networks go by this one of the two sites, and are answered.
    fn all_go_by(&self, index: usize) {
        for host in ["10.50.0.1", "fd00:50::1"] {
            reach(&self.ipsec.world[VPC.place], host.parse().unwrap()).unwrap();
        }
        let arrived = arrivals(&self.ipsec, 1..=10);
        assert!(arrived[index] >= 10 && arrived[1 - index] == 0, "{arrived:?}\n{}", self.ipsec.diagnosis());
    }
}

/// The routes to both networks.
fn through(next_hop: &str) -> Vec<String> {
    [NETWORK4, NETWORK6].map(|network| format!("{network} {next_hop} 100")).to_vec()
}

fn announced() {
    let lab = Lab::start();
    let [shanghai, _] = &lab.sites;
    // They come.
    lab.wait_for(&through("shanghai"));
    lab.all_go_by(0);
    let own = lab.ipsec.world[HUB].ip(&format!("route show {NETWORK4}")).unwrap();
    assert!(own.contains("dev tun-sh proto 119"), "{own}");

    // The first site withdraws them: they fail over, and come back.
    for network in ["networks4", "networks6"] {
        shanghai.ask(&format!("disable {network}")).unwrap();
    }
    lab.wait_for(&through("hangzhou"));
    lab.all_go_by(1);
    for network in ["networks4", "networks6"] {
        shanghai.ask(&format!("enable {network}")).unwrap();
    }
    lab.wait_for(&through("shanghai"));
    lab.all_go_by(0);

    // Its tunnel ends: BGP notices that after the hold time.
    lab.ipsec.office("shanghai").terminate().unwrap();
    lab.wait_for(&through("hangzhou"));
    lab.all_go_by(1);
    lab.ipsec.office("shanghai").initiate().unwrap();
    lab.wait_for(&through("shanghai"));
    lab.all_go_by(0);

    // Without the daemons they go, and nothing is answered.
    let Lab { ipsec, hub, sites } = lab;
    for site in &sites {
        site.ask("down").unwrap();
    }
    let none = || Ok(learned::learned(&ipsec).is_empty().then_some(()));
    retry_within(PATIENCE, "routes of ended daemons stay", none).unwrap();
    let ping = Ping::new("10.50.0.1".parse().unwrap()).timeout(Duration::from_millis(300));
    assert_eq!(ping.run(&ipsec.world[VPC.place]).unwrap().received, 0);
    drop((sites, hub));
    ipsec.stop().unwrap();
}
