//! `demo --ipsec`: the offices behind real tunnels, strongSwan at each end.

use std::{io::Write, net::IpAddr, process::ExitCode, thread, time::Duration};

use anyhow::{Result, ensure};
use hub_tests::lab::{Esp, HUB, IpsecLab, IpsecOptions, Ping, Status};

use super::{
    matrix::{Family, Matrix},
    proof,
    world::{self, SITES, WITH_IPSEC},
};
use crate::process::{self, Progress};

/// Between pings while tunnels are rekeyed, and how many: some seconds.
const INTERVAL: Duration = Duration::from_millis(10);
const PINGS: u16 = 500;
/// The office whose tunnel ends.
const ENDS: &str = "ningbo";

pub fn show(out: &mut impl Write) -> Result<ExitCode> {
    let _alone = world::alone()?;
    let progress = Progress::start("creating the network, with a strongSwan at the hub and at each office", None);
    world::end_leftovers()?;
    let esp = Esp::of_this_host();
    let vpnhub = process::release_dir()?.join("vpnhub");
    let lab = IpsecLab::prepare(&IpsecOptions::new(esp).fixed_name(WITH_IPSEC).agent(vpnhub), |config| config)?;
    drop(progress);
    writeln!(out, "\n{}\nIPsec: IKEv2 with a secret for each office; {esp}.\n", world::INTRODUCTION)?;
    status(&lab, "The hub's agent has configured its strongSwan; the offices are not configured yet", out)?;

    writeln!(out, "Each office loads the configuration that the hub writes for it, unchanged:\n")?;
    for office in &lab.offices {
        let place = &office.site.place;
        writeln!(out, "  {place:<9} vpnhub peer-config {place} --format swanctl --with-secret; swanctl --load-all")?;
        office.configure(&lab.agent)?;
    }
    writeln!(out)?;
    lab.wait_until_up()?;
    all_reach(&lab, out)?;
    status(&lab, "All tunnels are up", out)?;

    rekey(&lab, out)?;
    status(&lab, "No tunnel was down meanwhile", out)?;

    lab.office(ENDS).terminate()?;
    lab.wait_for_status(|status| status.connection(ENDS)["state"] == "down")?;
    writeln!(out, "{ENDS} ends its tunnel (swanctl --terminate):\n")?;
    let lost = |from: &str, to: &str| from == ENDS || to == ENDS;
    let matrix = measure(&lab, Family::V4)?;
    writeln!(out, "{matrix}")?;
    ensure!(matrix.is_lost_where(lost), "unexpected pairs reach one another");
    writeln!(out, "As expected, nobody reaches {ENDS}; all other pairs reach one another.\n")?;
    status(&lab, "The hub detects it at once", out)?;

    lab.office(ENDS).initiate()?;
    lab.wait_until_up()?;
    writeln!(out, "{ENDS} begins its tunnel again (swanctl --initiate):\n")?;
    all_reach(&lab, out)?;
    status(&lab, "All tunnels are up again", out)?;

    writeln!(out, "{}\n", proof::kernel_forwards_nothing(&lab.world[HUB])?)?;
    lab.stop()?;
    writeln!(out, "Everything is removed again.")?;
    Ok(ExitCode::SUCCESS)
}

fn status(lab: &IpsecLab, title: &str, out: &mut impl Write) -> Result<()> {
    writeln!(out, "{title} (vpnhub status):\n\n{}", proof::status(&lab.agent)?)?;
    Ok(())
}

fn measure(lab: &IpsecLab, family: Family) -> Result<Matrix> {
    let progress = Progress::start(&format!("pinging all pairs over {family}"), None);
    let matrix = Matrix::measure(&lab.world, family);
    drop(progress);
    matrix
}

fn all_reach(lab: &IpsecLab, out: &mut impl Write) -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let matrix = measure(lab, family)?;
        writeln!(out, "{matrix}")?;
        if !matrix.complete() {
            writeln!(out, "{}", proof::status(&lab.agent)?)?;
        }
        ensure!(matrix.complete(), "some pairs do not reach each other over {family}");
    }
    Ok(())
}

/// Rekeys tunnels from either end while there is traffic in them, of which nothing may be lost.
fn rekey(lab: &IpsecLab, out: &mut impl Write) -> Result<()> {
    let [from, to] = [0, 1].map(|index| lab.office(&SITES[index].place));
    let (place, peer) = (&from.site.place, &to.site.place);
    let before = lab.agent.status()?;
    let progress = Progress::start(&format!("rekeying {place}'s and {peer}'s tunnels under traffic"), None);
    let steps = [
        (&from.charon, "--child", place.to_string()),
        (&lab.hub, "--child", format!("vpnhub-{peer}")),
        (&lab.hub, "--ike", format!("vpnhub-{place}")),
        (&to.charon, "--ike", peer.to_string()),
    ];
    let reports = thread::scope(|scope| {
        let ping = |to: IpAddr| scope.spawn(move || Ping::new(to).interval(INTERVAL).count(PINGS).run(from.place()));
        let traffic = to.site.hosts().map(ping);
        for (charon, what, name) in &steps {
            thread::sleep(INTERVAL * u32::from(PINGS) / 6);
            charon.swanctl(&["--rekey", what, name])?;
        }
        let joined = traffic.map(|pings| pings.join().expect("it does not panic"));
        joined.into_iter().collect::<Result<Vec<_>>>()
    })?;
    let after =
        lab.wait_for_status(|status| [place, peer].iter().all(|name| spis(status, name) != spis(&before, name)))?;
    drop(progress);
    let (sent, received) =
        reports.iter().fold((0, 0), |(sent, received), report| (sent + report.sent, received + report.received));
    writeln!(out, "Rekeyed meanwhile, from either end, IKE and child SAs of {place} and {peer}:\n")?;
    for name in [place, peer] {
        writeln!(out, "  {name:<9} SPI {} is {} now", spis(&before, name).join(", "), spis(&after, name).join(", "))?;
    }
    writeln!(out, "\n{received} of {sent} pings from {place} to {peer} were answered.\n")?;
    ensure!(received == sent, "rekeying lost {} pings", sent - received);
    for office in &lab.offices {
        let name = &office.site.place;
        ensure!(after.since(&before, name, "state_changes") == 0, "the tunnel of {name} was seen as down");
    }
    Ok(())
}

/// Of the child SAs that come in to the hub.
fn spis(status: &Status, connection: &str) -> Vec<String> {
    let children = status.connection(connection)["ipsec"]["children"].as_array().into_iter().flatten();
    children.filter_map(|child| child["spi_in"].as_str().map(str::to_owned)).collect()
}
