//! The agent's log on standard error: text for people, or one JSON object per line.
//!
//! Each kind of event has one name, given at its place in the code (`name:`). Fields whose names begin with `json.`
//! repeat a part of the message, so that programs need not read it; the text leaves them out.

use std::{
    env,
    fmt::{self, Debug, Write as _},
    io::{self, IsTerminal as _, Write as _},
};

use clap::ValueEnum;
use rustix::fs::fstat;
use serde_json::{Map, Value, json};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt as _,
    fmt::{format, layer},
    layer::{Context, Layer, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

use crate::{api_types::event::now, rate_limit::LogLimit};

/// First part of the names of fields for programs.
const FOR_PROGRAMS: &str = "json.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging; `RUST_LOG` selects levels. Both formats have the same rate limits.
pub fn start(format: LogFormat, limit: LogLimit) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter).with(limit);
    match format {
        LogFormat::Json => registry.with(JsonLog { has_priority: is_journal() }).init(),
        LogFormat::Text => {
            let log = layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).with_target(false);
            registry.with(log.fmt_fields(format::debug_fn(text_field).delimited(" "))).init();
        }
    }
}

fn text_field(writer: &mut format::Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    match field.name() {
        "message" => write!(writer, "{value:?}"),
        // Fields of the crate `log` are not the event's.
        name if name.starts_with(FOR_PROGRAMS) || name.starts_with("log.") => Ok(()),
        name => write!(writer, "{name}={value:?}"),
    }
}

/// Whether standard error is the journal's socket (systemd.exec(5), `JOURNAL_STREAM`).
fn is_journal() -> bool {
    let Some((device, inode)) = env::var("JOURNAL_STREAM").ok().and_then(|stream| {
        let (device, inode) = stream.split_once(':')?;
        Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?))
    }) else {
        return false;
    };
    fstat(io::stderr()).is_ok_and(|found| (found.st_dev, found.st_ino) == (device, inode))
}

struct JsonLog {
    /// Lines begin with a priority such as `<4>`, which the journal takes off (sd-daemon(3)).
    has_priority: bool,
}

impl<S: Subscriber> Layer<S> for JsonLog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = line(event, now());
        if self.has_priority {
            text.insert_str(0, priority(*event.metadata().level()));
        }
        text.push('\n');
        // Nobody can be told that the log cannot be written.
        drop(io::stderr().lock().write_all(text.as_bytes()));
    }
}

/// Those of syslog(3).
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

/// `{"time", "level", "event", "message"}` and the event's own fields. `time`: seconds since 1970.
fn line(event: &Event<'_>, time: f64) -> String {
    let metadata = event.metadata();
    let mut fields = Fields(Map::new());
    fields.0.insert("time".to_owned(), json!((time * 1000.0).round() / 1000.0));
    fields.0.insert("level".to_owned(), metadata.level().as_str().to_lowercase().into());
    fields.0.insert("event".to_owned(), name(metadata).into());
    event.record(&mut fields);
    Value::Object(fields.0).to_string()
}

/// The event's name. One without a name has its module's: those of other crates, and of the program in the kernel.
fn name(metadata: &Metadata<'_>) -> String {
    if !metadata.name().starts_with("event ") && !metadata.name().starts_with("log event") {
        return metadata.name().to_owned();
    }
    let module = metadata.module_path().unwrap_or_else(|| metadata.target());
    module.trim_start_matches("hub_userspace::").replace("::", "_")
}

struct Fields(Map<String, Value>);

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        let name = field.name();
        if !name.starts_with("log.") {
            self.0.insert(name.strip_prefix(FOR_PROGRAMS).unwrap_or(name).to_owned(), value.into());
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        // Fails only if the value's own formatting does.
        let _ = write!(text, "{value:?}");
        self.add(field, text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{error, info, subscriber::with_default, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Lines {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().expect("nobody panics").push(line(event, 1.2345));
        }
    }

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panics").push(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log() {
        let (connection, reason) = ("shanghai", "no \"reply\"\n\x1b[2J");
        warn!(name: "connection_down", connection, json.reason = reason, "down: {reason}");
        info!(name: "spread_set", queues = 4_u32, is_new = true, "set");
        error!("unnamed");
    }

    #[test]
    fn json_line_has_name_fields_and_no_controls() {
        let lines = Lines::default();
        with_default(tracing_subscriber::registry().with(lines.clone()), log);
        let lines = lines.0.lock().expect("nobody panics");
        assert!(lines.iter().all(|line| !line.chars().any(char::is_control)), "{lines:?}");
        let values: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let reason = "no \"reply\"\n\x1b[2J";
        assert_eq!(
            values,
            [
                json!({
                    "time": 1.235, "level": "warn", "event": "connection_down", "connection": "shanghai", "reason": reason,
                    "message": format!("down: {reason}"),
                }),
                json!({ "time": 1.235, "level": "info", "event": "spread_set", "queues": 4, "is_new": true, "message": "set" }),
                json!({ "time": 1.235, "level": "error", "event": "cli_log_tests", "message": "unnamed" }),
            ]
        );
    }

    #[test]
    fn text_leaves_out_fields_for_programs() {
        let lines = Lines::default();
        let writer = lines.clone();
        let text = layer().with_writer(move || writer.clone()).with_ansi(false).without_time().with_target(false);
        let text = text.fmt_fields(format::debug_fn(text_field).delimited(" "));
        with_default(tracing_subscriber::registry().with(text), || {
            warn!(name: "connection_down", connection = "shanghai", json.reason = "silent", "down: silent");
        });
        let text = lines.0.lock().expect("nobody panics").concat();
        assert_eq!(text.trim(), "WARN down: silent connection=\"shanghai\"");
    }
}
