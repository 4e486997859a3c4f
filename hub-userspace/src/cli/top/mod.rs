//! `vpnhub top`: connections live, with rates, shares and the loss and round trip of their health checks.
//!
//! - `model`: what is known of the agent; rates from two answers. Pure.
//! - `view`: what the keys have selected. Pure.
//! - `screen` and `detail`: the two pages, drawn from model and view. Pure.
//! - `live`: asks the agent, reads the keys and draws, until the end.
//! - `once`: one table after one interval.
//! - `format`: numbers in few characters.
//!
//! The agent is asked only while the command runs. It serves the answers that `connection list` and `status` get; it
//! keeps no state for this command.

mod detail;
mod format;
mod live;
mod model;
mod once;
mod screen;
mod view;

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::{Result, bail};
use clap::Args;

use self::view::SortKey;
use super::Output;
use crate::{api::Client, config::parse_duration};

#[derive(Debug, Args)]
pub struct TopArgs {
    /// Prints one table after one interval, and ends.
    #[arg(long)]
    once: bool,
    /// Time between two readings, from 200ms to 1m.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// First order of the connections; a key changes it.
    #[arg(long, value_enum, default_value_t = SortKey::Name)]
    sort: SortKey,
    /// Only connections whose name contains this text.
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
}

fn interval(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(200)..=Duration::from_secs(60);
    let time = parse_duration(text).filter(|time| range.contains(time));
    time.ok_or_else(|| "write a time from 200ms to 1m".to_owned())
}

pub async fn run(client: Client, arguments: TopArgs, output: Output) -> Result<String> {
    if arguments.once {
        return once::run(&client, &arguments, output).await;
    }
    if output == Output::Json {
        bail!("the screen has no JSON: add --once");
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!("standard input and output must be a terminal: add --once for a table");
    }
    live::run(client, &arguments).await?;
    Ok(String::new())
}

#[cfg(test)]
mod tests;
