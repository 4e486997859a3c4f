//! The driver against strongSwan itself: a charon for the hub and one for a site, each in a namespace of its own, the
//! site configured by what `peer-config` prints. ESP is strongSwan's own (kernel-libipsec), so any kernel will do.
//!
//! `cargo test -p hub-userspace --release --test strongswan -- --ignored`, as root, with charon-systemd, swanctl and the
//! plugin kernel-libipsec (Debian: libcharon-extra-plugins) installed.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use hub_userspace::{
    config::{self, Config},
    peer_config::{Format, render},
    vici::{
        driver::{Driver, View},
        fault::Fault,
        message::Message,
        session::Session,
        table::Tunnel,
    },
};
use nix::sched::{CloneFlags, unshare};
use tokio::time::{Instant, timeout};

const CHARON: &str = "/usr/sbin/charon-systemd";
const SECRET: &str = "a-secret-for-the-test-0123456789";
const PATIENCE: Duration = Duration::from_secs(20);

/// A charon in a namespace of its own; both end with it.
struct Charon {
    folder: PathBuf,
    process: Child,
}

impl Drop for Charon {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Charon {
    fn start(folder: &Path) -> Self {
        fs::create_dir_all(folder.join("swanctl/conf.d")).expect("a folder");
        let socket = folder.join("vici");
        let plugins = "bypass-lan forecast farp dhcp ha connmark";
        let off: String =
            plugins.split(' ').map(|plugin| format!("{plugin} {{ load = no }}\n")).collect::<Vec<_>>().concat();
        let conf = format!(
            "charon-systemd {{\n retransmit_tries = 1\n retransmit_timeout = 1\n retransmit_base = 1\n \
             filelog {{ log {{ path = {}\n default = 1\n flush_line = yes }} }}\n \
             plugins {{\n kernel-libipsec {{ load = yes }}\n {off} vici {{ socket = unix://{} }}\n }}\n}}\n",
            folder.join("log").display(),
            socket.display()
        );
        fs::write(folder.join("strongswan.conf"), conf).expect("written");
        fs::write(folder.join("swanctl/swanctl.conf"), "include conf.d/*.conf\n").expect("written");
        let process = Self::process(folder);
        Self { folder: folder.to_owned(), process }
    }

    /// In a new namespace: a thread's, which its child inherits.
    fn process(folder: &Path) -> Child {
        let folder = folder.to_owned();
        let spawn = move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace: run this test as root");
            let mut command = Command::new(CHARON);
            command.env("STRONGSWAN_CONF", folder.join("strongswan.conf")).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().expect("strongSwan is installed")
        };
        thread::spawn(spawn).join().expect("it starts")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("vici")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Runs a program in its namespace.
    fn run(&self, program: &str) {
        let pid = self.process.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-n", "--"]).args(program.split(' '));
        command
            .env("STRONGSWAN_CONF", self.folder.join("strongswan.conf"))
            .env("SWANCTL_DIR", self.folder.join("swanctl"));
        let output = command.output().expect("nsenter");
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    async fn session(&self) -> Session {
        let socket = self.socket();
        let connected = async {
            loop {
                match Session::connect(&socket).await {
                    Ok(session) => return session,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        timeout(PATIENCE, connected).await.unwrap_or_else(|_| panic!("charon does not listen: {}", self.log()))
    }

    async fn ask(&self, command: &str, message: Message) {
        let answer = self.session().await.request(command, &message).await;
        answer.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
    }
}

/// What comes between them.
fn cable(hub: &Charon, site: &Charon) {
    hub.run(&format!("ip link add u0 type veth peer name u0 netns {}", site.process.id()));
    for (charon, outside, inside) in
        [(hub, "203.0.113.1/24", "192.168.0.1/24"), (site, "203.0.113.10/24", "10.10.10.1/24")]
    {
        for command in ["link set lo up", "link set u0 up"] {
            charon.run(&format!("ip {command}"));
        }
        charon.run(&format!("ip addr replace {outside} dev u0"));
        charon.run(&format!("ip addr replace {inside} dev lo"));
    }
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

async fn until(driver: &mut Driver, what: &str, charon: &Charon, is: impl Fn(&View) -> bool) -> Arc<View> {
    let found = async {
        while !is(&driver.view()) {
            driver.changed().await;
        }
        driver.view()
    };
    let found = timeout(PATIENCE, found).await;
    found.unwrap_or_else(|_| panic!("{what}: {:#?}\n{}", driver.view(), charon.log()))
}

fn office(view: &View) -> Tunnel {
    view.tunnels.get("office").cloned().unwrap_or_default()
}

fn spi(view: &View) -> String {
    office(view).children.last().map(|child| child.spi_in.clone()).unwrap_or_default()
}

#[tokio::test]
#[ignore = "needs strongSwan with kernel-libipsec"]
async fn a_hub_and_its_site_agree_and_all_that_happens_is_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let mut hub = Charon::start(&folder.join("hub"));
    let site = Charon::start(&folder.join("site"));
    hub.session().await;
    site.session().await;
    cable(&hub, &site);

    // The site begins, with what the hub has written for it.
    let config = hub_config(folder, SECRET, "PSKstart = \"none\"");
    let text = render(&config, "office", Format::Swanctl, true).expect("a configuration");
    fs::write(site.folder.join("swanctl/conf.d/office.conf"), text).expect("written");
    let mut driver = Driver::start(&config);
    until(&mut driver, "answers", &hub, |view| view.unreachable.is_none() && view.tunnels.contains_key("office")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    site.run(&format!("swanctl --load-all --uri unix://{}", site.socket().display()));
    let view = until(&mut driver, "up", &hub, |view| office(view).is_up()).await;
    let pairs: Vec<String> =
        office(&view).pairs().iter().map(|pair| format!("{} {}", pair.remote, pair.local)).collect();
    assert_eq!(pairs, ["10.10.10.0/24 192.168.0.0/24"], "what was agreed on, not what the hub admits");
    site.run("ping -c 2 -i 0.2 -W 2 -I 10.10.10.1 192.168.0.1");

    // Rekeyed, from either end, and the IKE SA too: never seen as down.
    let mut last = spi(&view);
    let child = |name: &str| Message::default().with("child", name);
    for (charon, message) in [
        (&hub, child("vpnhub-office")),
        (&site, child("office")),
        (&hub, Message::default().with("ike", "vpnhub-office")),
    ] {
        let is_child = message.value("child").is_some();
        charon.ask("rekey", message).await;
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
    site.run("ping -c 2 -i 0.2 -W 2 -I 10.10.10.1 192.168.0.1");

    // Taken down at the site: known at once, and up again, as the site begins anew.
    let start = Instant::now();
    site.ask("terminate", Message::default().with("ike", "office").with("timeout", "-1")).await;
    until(&mut driver, "down", &hub, |view| !office(view).is_up() || spi(view) != last).await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    site.ask("initiate", child("office").with("ike", "office").with("timeout", "5000")).await;
    until(&mut driver, "up again", &hub, |view| office(view).is_up()).await;

    // charon dies, and another one takes its place.
    drop(hub.process.kill());
    drop(hub.process.wait());
    let view = until(&mut driver, "unreachable", &hub, |view| view.unreachable.is_some()).await;
    assert!(
        !office(&view).is_up() && view.unreachable.as_deref().is_some_and(|why| why.contains("does not answer on"))
    );
    drop(fs::remove_file(hub.socket()));
    hub.process = Charon::process(&hub.folder);
    hub.session().await;
    // The cable went with the first one's namespace.
    cable(&hub, &site);
    until(&mut driver, "answers again", &hub, |view| view.unreachable.is_none()).await;
    drop(
        site.session().await.request("terminate", &Message::default().with("ike", "office").with("force", "yes")).await,
    );
    site.ask("initiate", child("office").with("ike", "office").with("timeout", "5000")).await;
    until(&mut driver, "up after the restart", &hub, |view| office(view).is_up()).await;

    // Another secret, and the hub begins: the reason is told in plain words.
    driver.set(&hub_config(folder, "another-secret-0123456789", ""));
    until(&mut driver, "gone", &hub, |view| view.tunnels.is_empty()).await;
    let names = async |command: &str, key: &str| {
        let answer = hub.session().await.request(command, &Message::default()).await.expect("an answer");
        answer.list(key).to_vec()
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((names("get-conns", "conns").await, names("get-shared", "keys").await), (vec![], vec![]));
    drop(site.session().await.request("unload-conn", &Message::default().with("name", "office")).await);
    let text = render(&config, "office", Format::Swanctl, true)
        .expect("a configuration")
        .replace("_action = start", "_action = none");
    fs::write(site.folder.join("swanctl/conf.d/office.conf"), text.replace("another-secret-0123456789", SECRET))
        .expect("written");
    site.run(&format!("swanctl --load-all --uri unix://{}", site.socket().display()));
    driver.set(&hub_config(folder, "another-secret-0123456789", "PSK"));
    let view = until(&mut driver, "refused", &hub, |view| office(view).fault.is_some()).await;
    assert!(matches!(office(&view).fault, Some(Fault::Refused | Fault::WrongSecret)), "{view:#?}");
    // The right one again: the hub begins by itself.
    driver.set(&hub_config(folder, SECRET, "PSK"));
    until(&mut driver, "up by the hub", &hub, |view| office(view).is_up() && office(view).fault.is_none()).await;
    assert!(!hub.log().contains(SECRET) && !format!("{:?}", driver.view()).contains(SECRET));
}
