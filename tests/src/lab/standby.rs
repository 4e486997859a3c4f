//! A hub with IPsec, and another one that stands by for it with the same addresses.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Context;

use super::{
    Agent, AgentCommand, Charon, CharonOptions, End, Esp, HUB_PUBLIC, INTERNET, IpsecLab, IpsecOptions, Link,
    PlaceSpec, SHANGHAI, Scratch, VPC, World, reach,
};

/// The other hub's place, and the links' ends towards it.
const OTHER: &str = "other";
const TO_HUB: &str = "to-hub";
const TO_OTHER: &str = "to-other";
const SECOND: &str = "eth1";

/// Two hubs with an agent and a charon each, the site Shanghai and the VPC. The addresses are at one of them.
#[derive(Debug)]
pub struct StandbyPair {
    pub other: Agent,
    pub other_charon: Charon,
    /// With the first hub.
    pub lab: IpsecLab,
    /// Of the other charon.
    _files: Scratch,
}

impl StandbyPair {
    /// The place of the second hub.
    pub const OTHER: &'static str = OTHER;

    /// Options of its first hub: it initiates, and notices a silent site soon.
    pub fn options() -> IpsecOptions {
        IpsecOptions::new(Esp::Userspace).sites([SHANGHAI]).hub_begins().impatient()
    }

    /// Starts everything, with agents of this binary. The first hub is active and has the addresses, its tunnel is up; the second boots as standby.
    ///
    /// # Errors
    /// When something is missing or refuses: with its output.
    pub fn start(binary: &Path) -> anyhow::Result<Self> {
        let mut lab = IpsecLab::start(&Self::options().agent(binary.to_owned()), |config| config)?;
        let internet = Ipv4Addr::from(u32::from(HUB_PUBLIC) ^ 1);
        lab.world.add_place(&PlaceSpec::new(OTHER))?;
        for link in [
            Link::new(
                End::new(OTHER, "wan0").address(format_args!("{HUB_PUBLIC}/31")),
                End::new(INTERNET, TO_OTHER).address(format_args!("{internet}/31")),
            ),
            Link::new(
                End::new(OTHER, VPC.hub_device).address(format_args!("{}/24", VPC.hub4)),
                End::new(VPC.place, SECOND).address(format_args!("{}/24", VPC.host4)).receives_redirects(),
            ),
        ] {
            lab.world.add_link(link)?;
        }
        Self::move_addresses(&lab.world, false)?;
        let place = &lab.world[OTHER];
        // kernel-libipsec needs an address in each local selector.
        place.batch(&format!(
            "route add default via {internet}\naddr add 10.10.0.1/32 dev lo\naddr add fd00::1/128 dev lo nodad\n"
        ))?;
        let files = Scratch::new()?;
        let charon = Charon::start(place, &files.file("charon"), CharonOptions::new(Esp::Userspace).impatient())?;
        charon.wait_until_ready()?;
        let config = std::fs::read_to_string(lab.agent.config()).context("reading the first hub's configuration")?;
        let config = config
            .replace(&lab.hub.socket().display().to_string(), &charon.socket().display().to_string())
            .replacen("[gateway]\n", "[gateway]\nrole_at_boot = \"standby\"\n", 1);
        let other = AgentCommand::new(binary).start_with(place, &config)?;
        reach(&lab.world[VPC.place], SHANGHAI.host4().into())?;
        Ok(Self { other, other_charon: charon, lab, _files: files })
    }

    /// Moves the addresses to the second hub, or back, as keepalived does: the Internet and the VPC send to the other one.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn move_addresses(world: &World, to_other: bool) -> anyhow::Result<()> {
        let [public, vpc] = if to_other { [TO_OTHER, SECOND] } else { [TO_HUB, VPC.device] };
        world[INTERNET].ip(&format!("route replace {HUB_PUBLIC}/32 dev {public}"))?;
        world[VPC.place].ip(&format!("route replace default via {} dev {vpc}", VPC.hub4)).map(drop)
    }
}
