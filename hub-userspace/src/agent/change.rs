//! Changes of the configuration while the agent runs: by command, or by reading the file again.
//!
//! A change is judged first, by all rules of the file and for room in the kernel program's tables; then the file is
//! replaced; then it is applied. What the kernel refuses after that is tried again as any other of its refusals: the file
//! says what is wanted, and going back could be refused as well. The agent does one thing at a time, so changes cannot
//! get into each other's way.

use std::mem::take;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Agent, RETRY};
use crate::{
    compile::{Inputs, compile},
    config::{
        Config, LoadError,
        difference::Difference,
        edit::{Edit, EditError, Enable},
        store::{Change, ProposeError, StoreError},
    },
    netlink::Changes,
    rib::{self, Rib},
    slots::Full,
    state::states,
};

/// What came of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// One sentence for people, without its end.
    pub message: String,
    pub changed: bool,
    #[serde(flatten)]
    pub difference: Difference,
    /// What may not be meant so; one sentence each.
    pub warnings: Vec<String>,
}

/// Why nothing was changed, but for the last.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The file as it would be breaks rules.
    #[error("nothing was changed: {0}")]
    Refused(ProposeError),
    #[error("not reloaded, the old configuration stays in force:\n{0}")]
    Load(#[from] LoadError),
    #[error("nothing was changed: {0}")]
    Full(#[from] Full),
    #[error("nothing was changed: {0}")]
    Store(#[from] StoreError),
    #[error("saved, but not in force yet: {0}; the agent tries again every {seconds} s", seconds = RETRY.as_secs())]
    NotApplied(String),
}

impl Agent {
    pub(super) async fn change(&mut self, change: &Edit) -> Result<Changed, ChangeError> {
        let mut proposal = self.store.propose(change).map_err(|error| match error {
            ProposeError::Edit(error) => ChangeError::Edit(error),
            ProposeError::Refused(_) => ChangeError::Refused(error),
        })?;
        let Some(config) = self.config_with(&proposal.change) else {
            return Ok(Changed::nothing("nothing to change: it is so already"));
        };
        self.rehearse(&config)?;
        let mut warnings = take(&mut proposal.warnings);
        self.store.commit(proposal)?;
        let difference = self.adopt(config).await?;
        let message = match change {
            Edit::Enable(Enable { connection, enabled: true }) => format!("connection {connection} taken up again"),
            Edit::Enable(Enable { connection, enabled: false }) => {
                warnings.extend(self.still_carrying(connection));
                format!("connection {connection} taken down")
            }
            _ => difference.to_string(),
        };
        Ok(Changed::now(message, difference, warnings))
    }

    pub(super) async fn reload(&mut self) -> Result<Changed, ChangeError> {
        let mut proposal = self.store.propose_reload()?;
        let warnings = take(&mut proposal.warnings);
        let config = self.config_with(&proposal.change);
        if let Some(config) = &config {
            self.rehearse(config)?;
        }
        self.store.commit(proposal)?;
        let Some(config) = config else {
            return Ok(Changed { warnings, ..Changed::nothing("reloaded: nothing has changed") });
        };
        let difference = self.adopt(config).await?;
        Ok(Changed::now(format!("reloaded: {difference}"), difference, warnings))
    }

    /// The configuration after a change; `None` when it stays the same.
    fn config_with(&self, change: &Change) -> Option<Config> {
        match change {
            Change::Nothing => None,
            Change::Small(difference) => {
                let mut config = self.config.clone();
                config.apply(difference);
                Some(config)
            }
            Change::Whole(config) => Some(config.as_ref().clone()),
        }
    }

    /// Whether the configuration has room in the program's tables.
    fn rehearse(&self, config: &Config) -> Result<(), Full> {
        let states = states(config, &self.host, |name| self.is_healthy(name));
        let rib = Rib::build(config, &self.host);
        let inputs = Inputs { config, host: &self.host, states: &states };
        compile(inputs, &rib, &mut self.layout.clone()).map(drop)
    }

    /// Puts the configuration in force.
    async fn adopt(&mut self, config: Config) -> Result<Difference, ChangeError> {
        let difference = Difference::between(&self.config, &config);
        self.config = config;
        info!("configuration: {difference}");
        self.pending.add(Changes::everything());
        match self.converge().await {
            Ok(()) => Ok(difference),
            Err(error) => {
                warn!("{error:#}");
                self.next_look = Instant::now() + RETRY;
                Err(ChangeError::NotApplied(format!("{error:#}")))
            }
        }
    }

    /// A connection that was taken down keeps what no other next hop can take over.
    fn still_carrying(&self, name: &str) -> Option<String> {
        let routes = self.config.routes.iter().filter(|route| route.next_hop == name);
        let carried: Vec<String> = routes
            .filter(|route| rib::share(&self.rib, route.destination, name, &self.states) > 0.0)
            .map(|route| route.destination.to_string())
            .collect();
        let (first, more) = carried.split_first()?;
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        Some(format!("{name} still carries {first}{more}: no other next hop is up; help: add a route by another one"))
    }
}

impl Changed {
    fn nothing(message: &str) -> Self {
        Self { message: message.to_owned(), changed: false, difference: Difference::default(), warnings: Vec::new() }
    }

    fn now(message: String, difference: Difference, warnings: Vec<String>) -> Self {
        Self { message, changed: true, difference, warnings }
    }
}
