//! A hub of three offices, one of them with two links.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use hub_tests::document::Varying;
use hub_tests::lab::{
    AgentCommand, FrameSocket, HANGZHOU, HUB, HubConfig, NINGBO, Options, Ping, Prometheus, Rig, SHANGHAI, Site, VPC,
    World, agent_binary, retry_within,
};
use hub_tests::packet::Packet;

use crate::prometheus::{self, wait_for};
use crate::{PATIENCE, Shell};

pub const ASKED: &[&str] = &[
    "### Why did this packet not arrive?",
    "### Which drops did a connection have in the last hour?",
    "### Whose packets are dropped, and where do they want to go?",
    "### Who failed over, and when?",
    "### Which way does the traffic of this route take now?",
    "### Which connections are busy, and which lose packets?",
    "### Can this connection be taken down for maintenance?",
    "### Who changed this, and when?",
    "### Does the VPC's router get this prefix?",
];

static SITES: [Site; 3] = [SHANGHAI, HANGZHOU, NINGBO];

fn rig() -> Rig {
    let options = Options::default().slow_path(true).second_link("shanghai");
    let world = World::three_offices(&options).unwrap();
    let mut config = HubConfig::offices(&SITES).second_link(&SHANGHAI, [100, 0]);
    config.connection("hangzhou").health_check = true;
    let text = format!("{config}{}", Prometheus::METRICS);
    let agent = AgentCommand::new(agent_binary()).start_with(&world[HUB], &text).unwrap();
    let rig = Rig { agent, world };
    rig.warm_up(&SITES).unwrap();
    rig
}

/// Sends a packet that Shanghai must not send, to the VPC's host.
fn send_spoofed(rig: &Rig) {
    let [own, hubs] =
        [("shanghai", "wan0"), (HUB, "tun-sh")].map(|(place, device)| rig.world[place].mac(device).unwrap().0);
    let packet = Packet::ipv4("172.16.0.1", VPC.host4).udp(7001, 53).payload(32);
    let socket = FrameSocket::open(&rig.world["shanghai"], "wan0").unwrap();
    socket.send(&packet.ethernet(own, hubs).build()).unwrap();
}

/// Runs `action` again and again beside `asks`.
fn beside(action: impl Fn() + Sync, asks: impl FnOnce()) {
    /// Also sets it when `asks` panics.
    struct End<'f>(&'f AtomicBool);

    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                action();
            }
        });
        let _end = End(&ends);
        asks();
    });
}

pub fn questions() {
    let rig = rig();
    let _prometheus = prometheus::start(&rig.agent, &rig.world);
    let mut shell = Shell::new(&rig.agent, &rig.world);
    let [why, drops, whose, who, way, busy, maintenance, changed, published] = *ASKED else { unreachable!() };

    shell.ask(why, Varying::Times);

    (0..3).for_each(|_| send_spoofed(&rig));
    wait_for(&rig.agent, &rig.world, "increase(vpnhub_drops_total{connection=\"shanghai\"}[1h]) > 0");
    shell.ask(drops, Varying::Numbers);

    beside(|| send_spoofed(&rig), || shell.ask(whose, Varying::Times));

    rig.world["shanghai"].ip("link set wan0 down").unwrap();
    rig.agent.wait_for_status(PATIENCE, |status| status.connection("shanghai")["state"] == "down").unwrap();
    shell.ask(way, Varying::Times);
    rig.world["shanghai"].ip("link set wan0 up").unwrap();
    rig.agent.wait_for_status(PATIENCE, |status| status.connection("shanghai")["state"] == "up").unwrap();
    shell.ask(who, Varying::Times);

    let ping = || {
        let ping = Ping::new(HANGZHOU.host4().into()).timeout(Duration::from_millis(500));
        ping.run(&rig.world["ningbo"]).unwrap();
    };
    beside(ping, || {
        retry_within(PATIENCE, "no traffic is shown", || {
            let lines = rig.agent.json(&["top", "--once", "--interval", "300ms"])?;
            Ok((lines[0]["rx_packets"].as_f64() > Some(0.0)).then_some(()))
        })
        .unwrap();
        shell.ask(busy, Varying::Numbers);
    });

    shell.ask(maintenance, Varying::Times);
    shell.ask(changed, Varying::Times);
    shell.ask(published, Varying::Times);
    rig.stop().unwrap();
}
