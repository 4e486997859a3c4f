//! One table after one interval, for scripts.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use super::{TopArgs, model::Model, screen::texts, view::View};
use crate::{
    api::Client,
    cli::{Output, json, table},
    connection::state::State,
};

/// A line of the JSON. Rates are per second.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    state: State,
    /// `up`, `degraded` or `down`; `null` without a health check, or before its first result.
    health: Option<crate::connection::state::Health>,
    rx_packets: Option<f64>,
    rx_bits: Option<f64>,
    tx_packets: Option<f64>,
    tx_bits: Option<f64>,
    drops: Option<f64>,
    /// The smallest and the largest share of its routes, 0..=1.
    share: Option<(f64, f64)>,
    /// In seconds.
    round_trip: Option<f64>,
    /// Of the last probes, 0..=1.
    loss: Option<f64>,
}

pub async fn run(client: &Client, arguments: &TopArgs, output: Output) -> Result<String> {
    let mut model = Model::new(arguments.interval);
    model.take(client.connections().await?, Instant::now());
    tokio::time::sleep(arguments.interval).await;
    let full = client.status().await?;
    model.take(full.status.connections.clone(), Instant::now());
    model.take_status(full);
    let view = View::new(arguments.sort, arguments.filter.clone());
    match output {
        Output::Table => Ok(text(&model, &view)),
        Output::Json => json(&lines(&model, &view)),
    }
}

fn lines<'m>(model: &'m Model, view: &View) -> Vec<Line<'m>> {
    let line = |(name, connection): (&'m str, &super::model::Connection)| {
        let rates = connection.rates;
        Line {
            name,
            state: connection.status.state,
            health: connection.status.health.as_ref().and_then(|health| health.state),
            rx_packets: rates.map(|rates| rates.rx_packets),
            rx_bits: rates.map(|rates| rates.rx_bits),
            tx_packets: rates.map(|rates| rates.tx_packets),
            tx_bits: rates.map(|rates| rates.tx_bits),
            drops: rates.map(|rates| rates.drops),
            share: connection.share,
            round_trip: connection.round_trip(),
            loss: connection.loss(),
        }
    };
    view.rows(model).into_iter().map(line).collect()
}

pub fn text(model: &Model, view: &View) -> String {
    let mut rows = table::table(&[
        "CONNECTION",
        "STATE",
        "IN PKT/S",
        "IN BIT/S",
        "OUT PKT/S",
        "OUT BIT/S",
        "DROPS/S",
        "SHARE",
        "RTT",
        "LOSS",
    ]);
    for (name, connection) in view.rows(model) {
        rows.add_row([name.to_owned(), connection.state().to_owned()].into_iter().chain(texts(connection)));
    }
    table::right(&mut rows, &[2, 3, 4, 5, 6, 7, 8, 9]);
    format!("{rows}\n")
}
