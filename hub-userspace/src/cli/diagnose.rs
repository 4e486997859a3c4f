//! `vpnhub diagnose`.

use std::{path::Path, process::ExitCode};

use anyhow::Result;

use super::{Output, printed};
use crate::{
    api::Client,
    datapath::Instance,
    diagnose::{diagnose, diagnose_connection, gather::gather, text},
};

/// The findings, and exit code 1 if there is an error among them.
pub async fn run(
    client: &Client,
    socket: &Path,
    instance: &Instance,
    connection: Option<&str>,
    output: Output,
) -> Result<(String, ExitCode)> {
    // Large: it has those of all that it reads.
    let facts = Box::pin(gather(client, socket, instance)).await?;
    let diagnosis = match connection {
        Some(name) => diagnose_connection(&facts, name)?,
        None => diagnose(&facts),
    };
    let code = if diagnosis.errors > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    Ok((printed(&diagnosis, text, output)?, code))
}
