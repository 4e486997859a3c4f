//! The commands `pass` and `bare`: programs that stay attached while a comparison runs.

use std::{io, thread};

use anyhow::Result;
use clap::Args;

use crate::{netdev::Netdev, programs::Programs};

#[derive(Args)]
pub struct PassArguments {
    /// Network namespace of the device
    #[arg(long = "in", value_name = "NETNS")]
    namespace: String,
    #[arg(long)]
    device: String,
}

#[derive(Args)]
pub struct BareArguments {
    /// Network namespace of both devices
    #[arg(long = "in", value_name = "NETNS")]
    namespace: String,
    /// Device that frames come in on
    #[arg(long)]
    device: String,
    /// Device that they go out of
    #[arg(long)]
    out_device: String,
}

pub fn pass(arguments: &PassArguments) -> Result<()> {
    let netdev = Netdev::find(&arguments.namespace, &arguments.device)?;
    keep_attached("pass", &netdev, Programs::load()?)
}

pub fn bare(arguments: &BareArguments) -> Result<()> {
    let netdev = Netdev::find(&arguments.namespace, &arguments.device)?;
    let mut programs = Programs::load()?;
    programs.set_port(&Netdev::find(&arguments.namespace, &arguments.out_device)?)?;
    keep_attached("bare", &netdev, programs)
}

/// Attaches the program, reports that on stdout for a waiting caller, and runs until a signal ends it.
fn keep_attached(program: &str, netdev: &Netdev, mut programs: Programs) -> Result<()> {
    programs.attach(program, netdev)?;
    println!("{program} is attached to {} in {}", netdev.device, netdev.namespace.name());
    io::Write::flush(&mut io::stdout())?;
    // The kernel detaches the program when the process ends, because that closes the link's descriptor.
    loop {
        thread::park();
    }
}
