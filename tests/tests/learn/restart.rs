//! Daemon and agent are killed and start again: traffic to learned networks goes on.

use hub_tests::lab::{AgentCommand, Bird, HUB, Ping, Rig, SHANGHAI, VPC, agent_binary, reach, retry};

use crate::{LEARN, LEARNED, Lab, add_networks, hosts, hub_conf, through};

fn start() -> (Lab, Bird) {
    let lab = Lab::start(LEARN);
    add_networks(lab.place(&SHANGHAI.place));
    let own = LEARNED.map(|network| format!("route {network} blackhole;"));
    let site = lab.start_site(&SHANGHAI, [&own[0], &own[1]]);
    lab.wait_for(&through("shanghai"));
    for host in hosts() {
        reach(lab.place(VPC.place), host).unwrap();
    }
    (lab, site)
}

fn all_answer(lab: &Lab) {
    for host in hosts() {
        let report = Ping::new(host).count(5).run(lab.place(VPC.place)).unwrap();
        assert!(report.complete(), "{host}: {report:?}");
    }
}

pub fn daemon() {
    let (mut lab, site) = start();
    // Its routes stay in the kernel while it is away: "persist on".
    drop(lab.hub.take());
    assert_eq!(lab.learned(), through("shanghai"));
    all_answer(&lab);
    let again = Bird::start_again(lab.place(HUB), &lab.scratch.file("bird-hub"), &hub_conf()).unwrap();
    retry("the session does not come again", || {
        Ok(site.ask("show protocols hub4")?.contains("Established").then_some(()))
    })
    .unwrap();
    assert_eq!(lab.learned(), through("shanghai"));
    all_answer(&lab);
    retry("the graceful restart does not end", || {
        Ok((!again.ask("show status")?.contains("Graceful restart recovery in progress")).then_some(()))
    })
    .unwrap();
    assert_eq!(lab.learned(), through("shanghai"));
    all_answer(&lab);
    // Its routes are its own again: it withdraws them.
    site.ask("disable networks4").unwrap();
    lab.wait_for(&through("shanghai")[1..]);
    lab.stop();
}

pub fn agent() {
    let (mut lab, site) = start();
    let Lab { rig: Rig { agent, world }, scratch, hub } = lab;
    let files = agent.kill().unwrap();
    for host in hosts() {
        assert!(Ping::new(host).run(&world[VPC.place]).unwrap().complete(), "{host} without an agent");
    }
    // What happens meanwhile is known at the start.
    site.ask("disable networks6").unwrap();
    retry("the withdrawn route stays in the kernel", || {
        Ok((!world[HUB].ip("-6 route show table 1190")?.contains("fd00:50::")).then_some(()))
    })
    .unwrap();
    let agent = AgentCommand::new(agent_binary()).start_in(&world[HUB], files).unwrap();
    lab = Lab { rig: Rig { agent, world }, scratch, hub };
    assert_eq!(lab.learned(), through("shanghai")[..1], "in the first tables");
    assert!(Ping::new(hosts()[0]).count(5).run(lab.place(VPC.place)).unwrap().complete());
    site.ask("enable networks6").unwrap();
    lab.wait_for(&through("shanghai"));
    all_answer(&lab);
    lab.stop();
}
