//! Changes of the configuration while the agent runs: by command, or by reading the file again.
//!
//! A change is judged first, by all rules of the file and for room in the kernel program's tables; then the file is
//! replaced; then it is applied. What the kernel refuses after that is tried again as any other of its refusals: the file
//! says what is wanted, and going back could be refused as well. The agent does one thing at a time, so changes cannot
//! get into each other's way.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Agent, RETRY};
use crate::{
    compile::{Inputs, compile},
    config::{
        self, Config, Diagnostic, LoadError, Severity,
        difference::Difference,
        edit::{Edit, EditError, Enable, edit},
        store::StoreError,
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
    #[error("nothing was changed: {}", sentences(.0))]
    Refused(Vec<Diagnostic>),
    #[error("not reloaded, the old configuration stays in force:\n{0}")]
    Load(#[from] LoadError),
    #[error("nothing was changed: {0}")]
    Full(#[from] Full),
    #[error("nothing was changed: {0}")]
    Store(#[from] StoreError),
    #[error("saved, but not in force yet: {0}; the agent tries again every {seconds} s", seconds = RETRY.as_secs())]
    NotApplied(String),
}

/// Without their lines: the file they are in is not written.
fn sentences(diagnostics: &[Diagnostic]) -> String {
    let errors = diagnostics.iter().filter(|found| found.severity == Severity::Error);
    let sentence = |found: &Diagnostic| match &found.help {
        Some(help) => format!("{}; help: {help}", found.message),
        None => found.message.clone(),
    };
    errors.map(sentence).collect::<Vec<_>>().join("\n")
}

impl Agent {
    pub(super) async fn change(&mut self, change: &Edit) -> Result<Changed, ChangeError> {
        let old = self.store.text();
        let text = edit(old, change)?;
        if text == old {
            return Ok(Changed::nothing("nothing to change: it is so already"));
        }
        let (config, warnings) = config::parse(&text).map_err(ChangeError::Refused)?;
        let known = config::parse(old).map(|(_, warnings)| warnings).unwrap_or_default();
        self.rehearse(&config)?;
        self.store.replace(text)?;
        let mut warnings: Vec<String> = warnings
            .into_iter()
            .filter(|warning| !known.iter().any(|other| other.message == warning.message))
            .map(|warning| format!("{}; help: {}", warning.message, warning.help.unwrap_or_default()))
            .collect();
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
        let loaded = self.store.load()?;
        self.rehearse(&loaded.config)?;
        self.store.know(loaded.text);
        let file = self.store.path().display().to_string();
        let warnings = loaded.warnings.iter().map(|warning| warning.in_file(&file)).collect();
        if loaded.config == self.config {
            return Ok(Changed { warnings, ..Changed::nothing("reloaded: nothing has changed") });
        }
        let difference = self.adopt(loaded.config).await?;
        Ok(Changed::now(format!("reloaded: {difference}"), difference, warnings))
    }

    /// Whether the configuration has room in the program's tables.
    fn rehearse(&self, config: &Config) -> Result<(), Full> {
        let states = states(config, &self.host);
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
