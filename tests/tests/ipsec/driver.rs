//! The agent's driver of strongSwan against strongSwan itself: a charon for the hub and one for a site.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hub_tests::lab::{Charon, CharonOptions, End, Esp, HUB, Link, Ping, PlaceSpec, Scratch, World, retry};
use hub_userspace::config::{self, Config};
use hub_userspace::ipsec::vici::{
    driver::Driver, fault::Fault, message::Message, session::Session, table::Tunnel, tunnels::Tunnels,
};
use hub_userspace::peer_config::{Format, render};
use tokio::time::{Instant, timeout};

use crate::{Case, Needs};

pub const CASES: &[Case] = &[(
    Needs::StrongSwan,
    "driver::negotiated_tunnel_is_followed_through_all_events",
    negotiated_tunnel_is_followed_through_all_events,
)];

const SECRET: &str = "a-secret-for-the-test-0123456789";
const PATIENCE: Duration = Duration::from_secs(20);

fn world() -> World {
    let end = |place, address: &str| End::new(place, "u0").address(address);
    World::builder()
        .place(PlaceSpec::new(HUB))
        .place(PlaceSpec::new("site"))
        .link(Link::new(end(HUB, "203.0.113.1/24"), end("site", "203.0.113.10/24")))
        .ip(HUB, "addr add 192.168.0.1/24 dev lo")
        .ip("site", "addr add 10.10.10.1/24 dev lo")
        .build()
        .unwrap()
}

/// Loads the site's configuration and initiates its connections.
fn load(site: &Charon, config: &Config, change: impl FnOnce(String) -> String) {
    let text = render(config, "office", Format::Swanctl, true).expect("a configuration");
    site.load("office", &change(text)).unwrap();
}

/// From the site's network to the hub's, as soon as the site has its route.
fn ping(world: &World) {
    let ping = Ping::new("192.168.0.1".parse().unwrap()).source("10.10.10.1".parse().unwrap());
    let answered = |count| ping.clone().count(count).run(&world["site"]).is_ok_and(|report| report.complete());
    retry("no answer through the tunnel", || Ok(answered(1).then_some(()))).unwrap();
    assert!(answered(3));
}

fn hub_config(folder: &Path, secret: &str, ipsec: &str) -> Config {
    let psk = folder.join("psk");
    fs::write(&psk, secret).expect("written");
    fs::set_permissions(&psk, fs::Permissions::from_mode(0o600)).expect("set");
    let text = format!(
        r#"
[gateway]
name = "hub"
address = "203.0.113.1"
vici_socket = "{socket}"
[vpc]
interface = "vpc0"
cidrs = ["192.168.0.0/24"]
[customer_gateway.office]
address = "203.0.113.10"
[connection.office]
customer_gateway = "office"
interface = "ipsec0"
local_cidrs = ["0.0.0.0/0"]
remote_cidrs = ["10.10.10.0/24"]
{ipsec}
"#,
        socket = folder.join("hub/vici").display(),
        ipsec = ipsec
            .replace("PSK", &format!("[connection.office.ipsec]\npsk_file = \"{}\"\nencap = true\n", psk.display())),
    );
    config::parse(&text).unwrap_or_else(|errors| panic!("{errors:#?}")).0
}

async fn until(driver: &mut Driver, what: &str, charon: &Charon, is: impl Fn(&Tunnels) -> bool) -> Arc<Tunnels> {
    let found = async {
        while !is(&driver.view()) {
            driver.changed().await;
        }
        driver.view()
    };
    let found = timeout(PATIENCE, found).await;
    found.unwrap_or_else(|_| panic!("{what}: {:#?}\n{}", driver.view(), charon.log()))
}

fn office(view: &Tunnels) -> Tunnel {
    view.tunnels.get("office").map(|tunnel| Tunnel::clone(tunnel)).unwrap_or_default()
}

fn spi(view: &Tunnels) -> String {
    office(view).children.last().map(|child| child.spi_in.clone()).unwrap_or_default()
}

fn negotiated_tunnel_is_followed_through_all_events() {
    tokio::runtime::Runtime::new().unwrap().block_on(follow());
}

async fn follow() {
    let world = world();
    let scratch = Scratch::new().unwrap();
    let folder = scratch.path();
    let options = CharonOptions::new(Esp::Userspace).impatient();
    let mut hub = Charon::start(&world[HUB], &folder.join("hub"), options).unwrap();
    let site = Charon::start(&world["site"], &folder.join("site"), options).unwrap();
    hub.wait_until_ready().unwrap();
    site.wait_until_ready().unwrap();

    // The site initiates, with the configuration written by the hub.
    let config = hub_config(folder, SECRET, "PSKstart = \"none\"");
    let mut driver = Driver::start(&config);
    until(&mut driver, "answers", &hub, |view| view.unreachable.is_none() && view.tunnels.contains_key("office")).await;
    load(&site, &config, |text| text);
    let view = until(&mut driver, "up", &hub, |view| office(view).is_up()).await;
    let pairs: Vec<String> =
        office(&view).pairs(100).iter().map(|pair| format!("{} {}", pair.remote, pair.local)).collect();
    assert_eq!(pairs, ["10.10.10.0/24 192.168.0.0/24"], "what was agreed on, not what the hub admits");
    ping(&world);

    // Rekeyed, from both ends, and the IKE SA too: never reported as down.
    let mut last = spi(&view);
    for (charon, kind, name) in
        [(&hub, "--child", "vpnhub-office"), (&site, "--child", "office"), (&hub, "--ike", "vpnhub-office")]
    {
        let is_child = kind == "--child";
        charon.swanctl(&["--rekey", kind, name]).unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) && (spi(&driver.view()) == last) == is_child {
            assert!(office(&driver.view()).is_up(), "{:#?}", driver.view());
            drop(timeout(Duration::from_millis(100), driver.changed()).await);
            if !is_child && start.elapsed() > Duration::from_secs(1) {
                break;
            }
        }
        assert!(office(&driver.view()).is_up() && (spi(&driver.view()) != last) == is_child, "{:#?}", driver.view());
        last = spi(&driver.view());
    }
    ping(&world);

    // Terminated at the site: detected at once, and up again, as the site initiates again.
    let start = Instant::now();
    site.swanctl(&["--terminate", "--ike", "office"]).unwrap();
    until(&mut driver, "down", &hub, |view| !office(view).is_up() || spi(view) != last).await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    site.swanctl(&["--initiate", "--child", "office"]).unwrap();
    until(&mut driver, "up again", &hub, |view| office(view).is_up()).await;

    // charon crashes, and another one replaces it.
    hub.kill().unwrap();
    let view = until(&mut driver, "unreachable", &hub, |view| view.unreachable.is_some()).await;
    assert!(
        !office(&view).is_up() && view.unreachable.as_deref().is_some_and(|why| why.contains("does not answer on"))
    );
    hub.start_again().unwrap();
    until(&mut driver, "answers again", &hub, |view| view.unreachable.is_none()).await;
    // It may have noticed already.
    drop(site.swanctl(&["--terminate", "--ike", "office", "--force"]));
    site.swanctl(&["--initiate", "--child", "office"]).unwrap();
    until(&mut driver, "up after the restart", &hub, |view| office(view).is_up()).await;

    // With a wrong secret the hub initiates: the reported reason is in plain words.
    driver.set(&hub_config(folder, "another-secret-0123456789", ""));
    until(&mut driver, "gone", &hub, |view| view.tunnels.is_empty()).await;
    let names = async |command: &str, key: &str| {
        let mut session = Session::connect(&hub.socket()).await.expect("a session");
        let answer = session.request(command, &Message::default()).await.expect("an answer");
        answer.list(key).to_vec()
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((names("get-conns", "conns").await, names("get-shared", "keys").await), (vec![], vec![]));
    // The site keeps its old secret, and waits.
    load(&site, &config, |text| {
        text.replace("_action = start", "_action = none").replace("another-secret-0123456789", SECRET)
    });
    driver.set(&hub_config(folder, "another-secret-0123456789", "PSK"));
    let view = until(&mut driver, "refused", &hub, |view| office(view).fault.is_some()).await;
    assert!(matches!(office(&view).fault, Some(Fault::Refused | Fault::WrongSecret)), "{view:#?}");
    // With the right secret the hub initiates by itself.
    driver.set(&hub_config(folder, SECRET, "PSK"));
    until(&mut driver, "up by the hub", &hub, |view| office(view).is_up() && office(view).fault.is_none()).await;
    assert!(!hub.log().contains(SECRET) && !format!("{:?}", driver.view()).contains(SECRET));
}
