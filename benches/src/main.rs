//! `vpnhub-bench`: how many packets a second a hub forwards and whether they all came out right; what failures and
//! changes do to them; how fast changes are.

mod arrivals;
mod attach;
mod change;
mod control;
mod cpu;
mod dispatcher;
#[path = "../ebpf/src/expect.rs"]
mod expect;
mod failover;
mod flood;
mod forward;
mod ipsec;
mod link_monitor;
mod lookup;
mod netdev;
mod outlive;
mod pktgen;
mod process;
mod programs;
#[path = "../ebpf/src/recording.rs"]
mod recording;
mod report;
mod rows;
mod scale;
mod settings;
#[path = "../ebpf/src/shape.rs"]
#[cfg_attr(not(test), expect(dead_code, reason = "numbering a frame is the kernel programs' part; the tests check it"))]
mod shape;
#[path = "../ebpf/src/stages.rs"]
mod stages;
mod stats;
mod stream;
mod tally;
mod tc;
mod tcp;
mod testbed;
mod tunnels;
mod two_hubs;
mod update;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hub_tests::lab;

#[derive(Parser)]
#[command(version, about = "Packet rate of a hub, and the speed of its failover and updates")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send frames from one namespace through the hub to another, and count them there
    Flood(flood::Arguments),
    /// Let a tunnel fail under load that another takes over from, again and again
    Failover(failover::Arguments),
    /// Make many changes under load, and count whether any frame is lost
    Change(change::Arguments),
    /// Kill, stop and replace the agent under load, again and again, and count whether any frame is lost
    Outlive(outlive::Arguments),
    /// Start, reload and change an agent with many routes
    Update(update::Arguments),
    /// Run an agent with very many tunnels: idle, dead, coming up; or interfaces
    Tunnels(tunnels::Arguments),
    /// Let one of two hubs end, drain it and bring it back, again and again: the longest gap of traffic
    TwoHubs(two_hubs::Arguments),
    /// Compare the cost of forwarding a frame: bare redirects, the hub at XDP and TC, the kernel's ways; by interfaces,
    /// routes and destinations
    Forward(forward::Arguments),
    /// Measure the cost of each stage of the hub's program: programs of increasing length, from an empty one to the
    /// whole hub
    Lookup(lookup::Arguments),
    /// Compare a few and many next hops, connections and selectors, and native with generic XDP
    Scale(scale::Arguments),
    /// Measure TCP through the hub and through the kernel's own forwarding, with iperf3
    Tcp(tcp::Arguments),
    /// Measure a packet through two tunnels with the kernel's ESP: the hub, a bare redirect, the kernel's forwarding
    Ipsec(ipsec::Arguments),
    /// Measure ESP of several tunnels from one receive queue, decrypted on one CPU and on all
    Spread(ipsec::spread::Arguments),
    /// Find throughput (RFC 2544) and latency with the kernel's packet generator, of a gateway or of worlds made for it
    Pktgen(pktgen::Arguments),
    /// Load kernel programs and show their size after verifier and JIT, and the memory of their maps
    Verify(verify::Arguments),
    /// Attach a program that leaves everything to the kernel, until interrupted: a veth device then takes redirects
    Pass(attach::PassArguments),
    /// Attach a redirect without any lookup, until interrupted: the floor of a comparison
    Bare(attach::BareArguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Flood(arguments) => in_a_lab(|| flood::run(&arguments)),
        Command::Failover(arguments) => in_a_lab(|| failover::run(&arguments)),
        Command::Change(arguments) => in_a_lab(|| change::run(&arguments)),
        Command::Outlive(arguments) => in_a_lab(|| outlive::run(&arguments)),
        Command::Update(arguments) => in_a_lab(|| update::run(&arguments)),
        Command::Tunnels(arguments) => in_a_lab(|| tunnels::run(&arguments)),
        Command::TwoHubs(arguments) => in_a_lab(|| two_hubs::run(&arguments)),
        Command::Forward(arguments) => in_a_lab(|| forward::run(&arguments)),
        Command::Lookup(arguments) => in_a_lab(|| lookup::run(&arguments)),
        Command::Scale(arguments) => in_a_lab(|| scale::run(&arguments)),
        Command::Tcp(arguments) => in_a_lab(|| tcp::run(&arguments)),
        Command::Ipsec(arguments) => in_a_lab(|| ipsec::run(&arguments)),
        Command::Spread(arguments) => in_a_lab(|| ipsec::spread::run(&arguments)),
        Command::Pktgen(arguments) => in_a_lab(|| pktgen::run(&arguments)),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Pass(arguments) => attach::pass(&arguments),
        Command::Bare(arguments) => attach::bare(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a bench that makes namespaces. An interrupt removes them.
fn in_a_lab(bench: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    lab::clean_up_on_interrupt()?;
    let result = bench();
    lab::park_if_interrupted();
    result
}
