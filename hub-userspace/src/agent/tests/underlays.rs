//! Tests of underlay interfaces: the distribution of received ESP.

use std::time::Instant;

use super::{
    effect_order::{agent, change_to, config, host, links, text},
    sim::Agent,
};
use crate::{config::parse, kernel::netlink::Link};

#[test]
fn changed_underlay_is_spread_and_touches_nothing_else() {
    let mut agent = agent(&["a", "b"]);
    agent.settle();
    agent.log();
    // An attachment, too.
    let with = |spread: &str| parse(&format!("{}[underlay.a0]\nspread = \"{spread}\"\n", text(&["a", "b"])));
    for new in [with("auto").map(|found| found.0), with("off").map(|found| found.0), Ok(config(&["a", "b"]))] {
        let change = change_to(&agent, new.expect("it is valid"));
        agent.take(change).expect("it does not fail");
        assert_eq!(agent.log(), ["spread"]);
    }
}

#[test]
fn attachment_gives_xdp_to_underlay_and_takes_it_back() {
    let mut host = host(&["a", "b"]);
    for index in [10, 11] {
        host.links.change(index, |link| link.ethernet = true);
    }
    let mut agent = Agent::new(config(&["a", "b"]), &host, Instant::now());
    agent.start().expect("it does not fail");
    agent.settle();
    let modes = |agent: &Agent| ["a0", "b0"].map(|name| agent.world.attachments.status(&agent.world.host, name));
    assert_eq!(modes(&agent).map(|found| found.attach.unwrap()), ["xdp-native", "xdp-native"]);
    let take = |agent: &mut Agent, spread: &str| {
        agent.log();
        let text = format!("{}{spread}", text(&["a", "b"]));
        let change = change_to(agent, parse(&text).unwrap_or_else(|errors| panic!("{errors:#?}")).0);
        agent.take(change).expect("it does not fail");
        agent.log()
    };
    let log = take(&mut agent, "[underlay.a0]\nspread = \"xdp\"\n");
    assert!(log.contains(&"attach a0".to_owned()) && log.contains(&"spread".to_owned()), "{log:?}");
    let [a, b] = modes(&agent);
    assert_eq!((a.attach.as_deref(), b.attach.as_deref()), (Some("tc"), Some("xdp-native")));
    assert!(a.attach_reason.is_some_and(|reason| reason.contains("spread = \"xdp\"")));
    // Nothing moves.
    assert_eq!(take(&mut agent, "[underlay.a0]\nspread = \"xdp\"\n[underlay.wan0]\nspread = \"xdp\"\n"), ["spread"]);
    let log = take(&mut agent, "[underlay.a0]\n");
    assert!(log.contains(&"attach a0".to_owned()), "{log:?}");
    assert_eq!(modes(&agent).map(|found| found.attach.unwrap()), ["xdp-native", "xdp-native"]);
}

#[test]
fn recreated_underlay_is_spread_again() {
    let new = parse(&format!("{}[underlay.wan0]\n", text(&["a"]))).unwrap_or_else(|errors| panic!("{errors:#?}")).0;
    let mut agent = Agent::new(new, &host(&["a"]), Instant::now());
    agent.start().expect("it does not fail");
    agent.log();
    let mut with = host(&["a"]);
    with.links.insert(Link { index: 20, name: "wan0".to_owned(), ..Link::default() });
    agent.see(with.clone(), links()).expect("it does not fail");
    assert_eq!(agent.log(), ["spread"], "no table depends on it");
    // Between two events, with the same index.
    let mut gone = links();
    gone.gone.insert(20);
    agent.see(with, gone).expect("it does not fail");
    assert_eq!(agent.log().iter().filter(|line| *line == "spread").count(), 1);
}
