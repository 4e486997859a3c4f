//! `vpnhub-bench`: how many packets a second a hub forwards, and whether they all came out right.

mod flood;
mod hold;
mod place;
mod programs;
mod report;
mod settings;
#[path = "../ebpf/src/shape.rs"]
#[cfg_attr(not(test), expect(dead_code, reason = "numbering a frame is the kernel programs' part; the tests check it"))]
mod shape;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about = "Packet rate of a hub between two network namespaces")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send frames from one namespace through the hub to another, and count them there
    Flood(flood::Arguments),
    /// Attach a program that leaves everything to the kernel, until interrupted: a veth device then takes redirects
    Pass(hold::PassArguments),
    /// Attach a redirect without any lookup, until interrupted: the floor of a comparison
    Bare(hold::BareArguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Flood(arguments) => flood::run(&arguments),
        Command::Pass(arguments) => hold::pass(&arguments),
        Command::Bare(arguments) => hold::bare(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
