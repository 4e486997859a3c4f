//! A world: places (namespaces), the veth links between them, and their routes.

use std::fmt::Write as _;
use std::ops::Index;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};

use super::{Mac, Namespace, require_root};

/// Time limit for a new link's carrier. It takes milliseconds, except in slow virtual machines.
const READY_WITHIN: Duration = Duration::from_secs(5);

/// `vh-<process>-<n>`: unique among all processes and calls.
pub fn unique_prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("vh-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A place to create: a namespace that is quiet (no router solicitations, no duplicate address detection, only the
/// given addresses) and answers at once.
#[derive(Debug, Clone)]
pub struct PlaceSpec {
    name: String,
    forwards: bool,
    sysctls: Vec<(String, String)>,
}

impl PlaceSpec {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), forwards: false, sysctls: Vec::new() }
    }

    /// Whether its kernel forwards IPv4 and IPv6. Off by default.
    #[must_use]
    pub fn forwards(mut self, yes: bool) -> Self {
        self.forwards = yes;
        self
    }

    /// Adds a sysctl below `net`, with slashes. `…/default/…` applies to all devices created later.
    #[must_use]
    pub fn sysctl(mut self, name: &str, value: &str) -> Self {
        self.sysctls.push((name.to_owned(), value.to_owned()));
        self
    }

    fn settings(&self) -> Vec<(&str, &str)> {
        let forwards = if self.forwards { "1" } else { "0" };
        let mut settings = vec![
            // A new namespace inherits the machine's IPv4 settings: set every relevant one.
            ("ipv4/ip_forward", forwards),
            ("ipv6/conf/all/forwarding", forwards),
            ("ipv6/conf/default/forwarding", forwards),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
            ("ipv4/conf/all/accept_redirects", "0"),
            ("ipv4/conf/default/accept_redirects", "0"),
            ("ipv6/conf/all/accept_redirects", "0"),
            ("ipv6/conf/default/accept_redirects", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/dad_transmits", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
            ("ipv6/conf/default/autoconf", "0"),
            ("ipv6/conf/default/router_solicitations", "0"),
            // Only the given link-local addresses.
            ("ipv6/conf/default/addr_gen_mode", "1"),
            // No rate limit for ICMP errors: tests count them.
            ("ipv4/icmp_ratelimit", "0"),
            ("ipv6/icmp/ratelimit", "0"),
            // A link without carrier carries no route: a place with two links fails over to the other.
            ("ipv4/conf/all/ignore_routes_with_linkdown", "1"),
            ("ipv4/conf/default/ignore_routes_with_linkdown", "1"),
            ("ipv6/conf/all/ignore_routes_with_linkdown", "1"),
            ("ipv6/conf/default/ignore_routes_with_linkdown", "1"),
        ];
        settings.extend(self.sysctls.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        settings
    }
}

/// One end of a link: a device in a place.
#[derive(Debug, Clone)]
pub struct End {
    place: String,
    device: String,
    mac: Option<Mac>,
    addresses: Vec<String>,
    receives_redirects: bool,
}

impl End {
    pub fn new(place: &str, device: &str) -> Self {
        Self {
            place: place.to_owned(),
            device: device.to_owned(),
            mac: None,
            addresses: Vec::new(),
            receives_redirects: false,
        }
    }

    /// An address with its prefix length, such as `169.254.10.1/30` or `fe80::1/64`.
    #[must_use]
    pub fn address(mut self, address: impl std::fmt::Display) -> Self {
        self.addresses.push(address.to_string());
        self
    }

    /// Sets its Ethernet address. The default is `02:00:00:00:LL:01` at the first end and `…:02` at the second, where
    /// LL is the link's number in the world, from 1.
    #[must_use]
    pub fn mac(mut self, mac: Mac) -> Self {
        self.mac = Some(mac);
        self
    }

    /// XDP in the other end's place will redirect frames to this end. For this it needs NAPI, which a veth has with GRO
    /// (or with an XDP program of its own).
    #[must_use]
    pub fn receives_redirects(mut self) -> Self {
        self.receives_redirects = true;
        self
    }
}

/// A veth pair between two places, without offloads, up.
#[derive(Debug, Clone)]
pub struct Link {
    ends: [End; 2],
    mtu: u32,
}

impl Link {
    /// A link with an MTU of 1500 bytes.
    pub fn new(one: End, other: End) -> Self {
        Self { ends: [one, other], mtu: 1500 }
    }

    /// Sets the maximum size of an IP packet in bytes, the same at both ends.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }
}

/// The plan of a world, created by [`build`](Self::build).
#[derive(Debug, Clone, Default)]
pub struct Builder {
    prefix: Option<String>,
    recreate: bool,
    places: Vec<PlaceSpec>,
    links: Vec<Link>,
    commands: Vec<(String, String)>,
}

impl Builder {
    /// Names namespaces `PREFIX-PLACE`. The default prefix is a [`unique_prefix`].
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = Some(prefix.to_owned());
        self
    }

    /// Deletes existing namespaces of the same names, instead of refusing.
    #[must_use]
    pub fn recreate(mut self, yes: bool) -> Self {
        self.recreate = yes;
        self
    }

    #[must_use]
    pub fn place(mut self, place: PlaceSpec) -> Self {
        self.places.push(place);
        self
    }

    #[must_use]
    pub fn link(mut self, link: Link) -> Self {
        self.links.push(link);
        self
    }

    /// An `ip` command (without the word `ip`) to run in a place after all links are up.
    #[must_use]
    pub fn ip(mut self, place: &str, command: impl Into<String>) -> Self {
        self.commands.push((place.to_owned(), command.into()));
        self
    }

    /// # Errors
    /// When this process lacks permission, a namespace exists, or `ip` refuses. Everything created so far is deleted.
    pub fn build(self) -> anyhow::Result<World> {
        require_root()?;
        let prefix = self.prefix.unwrap_or_else(unique_prefix);
        let mut world = World { prefix, places: Vec::new(), links: 0 };
        for place in &self.places {
            world.make_place(place, self.recreate)?;
        }
        world.connect(&self.links, &self.commands, true)?;
        Ok(world)
    }
}

/// Places and the links between them. Dropping it deletes them all.
#[derive(Debug)]
pub struct World {
    prefix: String,
    places: Vec<(String, Namespace)>,
    links: u8,
}

impl World {
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The namespace of a place. `world["hub"]` is the same, for places that are certain to exist.
    ///
    /// # Errors
    /// A sentence that lists the places, when there is none of that name.
    pub fn place(&self, name: &str) -> anyhow::Result<&Namespace> {
        if let Some((_, namespace)) = self.places.iter().find(|(place, _)| place == name) {
            Ok(namespace)
        } else {
            let places: Vec<_> = self.places.iter().map(|(place, _)| place.as_str()).collect();
            bail!("there is no place {name:?} here; the places are {}", places.join(", "))
        }
    }

    /// Names and namespaces, in order of creation.
    pub fn places(&self) -> impl Iterator<Item = (&str, &Namespace)> {
        self.places.iter().map(|(place, namespace)| (place.as_str(), namespace))
    }

    /// Adds a place.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn add_place(&mut self, place: &PlaceSpec) -> anyhow::Result<&Namespace> {
        self.make_place(place, false)?;
        self.place(&place.name)?.ip("link set dev lo up")?;
        self.place(&place.name)
    }

    /// Adds a link.
    ///
    /// # Errors
    /// When a place or a device name is wrong.
    pub fn add_link(&mut self, link: Link) -> anyhow::Result<()> {
        self.connect(&[link], &[], false)
    }

    /// Lets all places outlive this value and this process.
    pub fn keep(mut self) {
        for (_, namespace) in &mut self.places {
            namespace.keep();
        }
    }

    fn make_place(&mut self, place: &PlaceSpec, recreate: bool) -> anyhow::Result<()> {
        let name = format!("{}-{}", self.prefix, place.name);
        let namespace = if recreate { Namespace::recreate(&name) } else { Namespace::create(&name) }?;
        namespace.sysctl(&place.settings())?;
        self.places.push((place.name.clone(), namespace));
        Ok(())
    }

    /// Creates links and runs commands, in as few processes as possible.
    fn connect(&mut self, links: &[Link], commands: &[(String, String)], new_places: bool) -> anyhow::Result<()> {
        let mut creations = Batches::default();
        let mut settings = Batches::default();
        if new_places {
            for (place, _) in &self.places {
                settings.line(place, "link set dev lo up");
            }
        }
        for link in links {
            self.links = self.links.checked_add(1).context("a world has 255 links at most")?;
            let [one, other] = &link.ends;
            let macs = [1, 2].map(|side| Mac([2, 0, 0, 0, self.links, side]));
            creations.line(
                &one.place,
                &format!(
                    "link add {} address {} mtu {mtu} type veth peer name {} address {} mtu {mtu} netns {}",
                    one.device,
                    one.mac.unwrap_or(macs[0]),
                    other.device,
                    other.mac.unwrap_or(macs[1]),
                    self.place(&other.place)?.name(),
                    mtu = link.mtu,
                ),
            );
            for end in &link.ends {
                for address in &end.addresses {
                    settings.line(&end.place, &format!("addr add {address} dev {} nodad", end.device));
                }
                settings.line(&end.place, &format!("link set dev {} up", end.device));
            }
        }
        // After the links of its own place: routes need them up, but need no carrier.
        for (place, command) in commands {
            settings.line(place, command);
        }
        creations.run(self)?;
        for end in links.iter().flat_map(|link| &link.ends) {
            let namespace = self.place(&end.place)?;
            namespace.disable_offloads(&end.device)?;
            namespace.set_gro(&end.device, end.receives_redirects)?;
        }
        settings.run(self)?;
        for end in links.iter().flat_map(|link| &link.ends) {
            self.place(&end.place)?.wait_until_running(&end.device, READY_WITHIN)?;
        }
        Ok(())
    }
}

impl Index<&str> for World {
    type Output = Namespace;

    /// # Panics
    /// When there is no such place.
    fn index(&self, place: &str) -> &Namespace {
        match self.place(place) {
            Ok(namespace) => namespace,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Lines of `ip -batch` by place.
#[derive(Default)]
struct Batches(Vec<(String, String)>);

impl Batches {
    fn line(&mut self, place: &str, line: &str) {
        let at = self.0.iter().position(|(name, _)| name == place).unwrap_or_else(|| {
            self.0.push((place.to_owned(), String::new()));
            self.0.len() - 1
        });
        writeln!(self.0[at].1, "{line}").expect("a string takes all");
    }

    fn run(&self, world: &World) -> anyhow::Result<()> {
        self.0.iter().try_for_each(|(place, lines)| world.place(place)?.batch(lines))
    }
}
