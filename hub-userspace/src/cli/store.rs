//! Commands for the store.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::{fs::OpenOptionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Subcommand;

use super::{Output, printed, table};
use crate::{
    api::Client,
    datapath::Instance,
    store::{DEFAULT_DIRECTORY, Store},
};

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Copies the store into a file, as of one moment, whether an agent runs or not. To restore it: stop the agent, and copy
    /// the file to DIR/INSTANCE/store.redb.
    Backup {
        /// File to create; must not exist.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Directory of stores, if no agent runs.
        #[arg(long, value_name = "DIR", default_value = DEFAULT_DIRECTORY)]
        state: PathBuf,
        /// Instance of the store, if no agent runs.
        #[arg(long, value_name = "NAME", default_value_t = Instance::default())]
        instance: Instance,
    },
    /// Lists the audit log, oldest first.
    Audit {
        /// Number of entries.
        #[arg(long, value_name = "NUMBER", default_value_t = 50)]
        last: usize,
    },
}

/// Runs a store command and returns its output.
pub async fn run(command: StoreCommand, socket: &Path, output: Output) -> Result<String> {
    match command {
        StoreCommand::Backup { file, state, instance } => {
            let bytes = match UnixStream::connect(socket) {
                Ok(_) => Client::new(socket).backup().await?,
                Err(_) => Store::open_existing(&state, instance.as_str())?.backup()?,
            };
            write(&file, &bytes).with_context(|| format!("the backup {} cannot be written", file.display()))?;
            Ok(format!("{} bytes written to {}\n", bytes.len(), file.display()))
        }
        StoreCommand::Audit { last } => {
            let entries = Client::new(socket).audit(last).await?;
            printed(&*entries, table::audit, output)
        }
    }
}

/// Writes a new file with mode 0600 and syncs it. Removes the file after a failure: a partial file would look like a
/// backup.
fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut opened = File::options().write(true).create_new(true).mode(0o600).open(file)?;
    let written = opened.write_all(bytes).and_then(|()| opened.sync_all());
    written.inspect_err(|_| drop(fs::remove_file(file)))
}
