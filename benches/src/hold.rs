//! Programs that stay attached while a comparison runs.

use std::{io, thread};

use anyhow::Result;
use clap::Args;

use crate::{place::Place, programs::Programs};

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
    let place = Place::find(&arguments.namespace, &arguments.device)?;
    hold("pass", &place, Programs::load()?)
}

pub fn bare(arguments: &BareArguments) -> Result<()> {
    let place = Place::find(&arguments.namespace, &arguments.device)?;
    let mut programs = Programs::load()?;
    programs.set_port(&Place::find(&arguments.namespace, &arguments.out_device)?)?;
    hold("bare", &place, programs)
}

/// Attaches, says so on stdout for who waits for it, and waits for a signal to end it.
fn hold(program: &str, place: &Place, mut programs: Programs) -> Result<()> {
    programs.attach(program, place)?;
    println!("{program} is attached to {} in {}", place.device, place.namespace.name());
    io::Write::flush(&mut io::stdout())?;
    // The kernel detaches it when the process and with it the link's descriptor goes, whatever the signal.
    loop {
        thread::park();
    }
}
