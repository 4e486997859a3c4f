//! `vpnhub status`, with and without an agent.

use std::{os::unix::net::UnixStream, path::Path};

use anyhow::Result;

use super::{Output, printed, table};
use crate::{
    api::Client,
    api_types::status::WithoutAgent,
    datapath::{self, Instance},
};

pub async fn text(client: &Client, socket: &Path, instance: &Instance, output: Output) -> Result<String> {
    match of_agent(client, output).await {
        Ok(status) => Ok(status),
        Err(error) => match without_agent(socket, instance) {
            Some(status) => printed(&status, table::without_agent, output),
            None => Err(error),
        },
    }
}

async fn of_agent(client: &Client, output: Output) -> Result<String> {
    Ok(match output {
        Output::Json => client.status_json().await? + "\n",
        Output::Table => table::status(&client.status().await?),
    })
}

/// The running datapath, if nobody listens on the agent's socket.
fn without_agent(socket: &Path, instance: &Instance) -> Option<WithoutAgent> {
    if UnixStream::connect(socket).is_ok() {
        return None;
    }
    datapath::running(instance).ok().flatten().map(Into::into)
}
