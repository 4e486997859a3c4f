//! The text for Prometheus of made-up numbers, its documentation, the alerts and the dashboard. Metrics of a running
//! agent are in `operator/metrics.rs`.

#[path = "../harness/mod.rs"]
mod harness;

mod contrib;
mod documentation;
mod exposition;
mod numbers;
mod promtool;

use std::process::ExitCode;

use hub_tests::tools;

fn main() -> ExitCode {
    let always: [(&str, fn()); 10] = [
        ("text_has_every_series_of_every_connection", exposition::every_series),
        ("open_metrics_has_units_and_the_same_values", exposition::open_metrics),
        ("counters_and_gauges_have_the_numbers", exposition::values),
        ("label_values_are_escaped", exposition::escaping),
        ("connection_without_sas_or_health_check_has_none_of_their_series", exposition::optional_series),
        ("empty_scrape_is_a_valid_text", exposition::empty),
        ("format_is_the_one_that_the_client_prefers", exposition::negotiation),
        ("names_are_those_of_the_contract", documentation::contract),
        ("documented_names_types_and_labels_equal_those_of_the_code", documentation::table),
        ("alerts_and_dashboard_use_existing_names_and_labels", contrib::names),
    ];
    let by_promtool: [(&str, fn()); 3] = [
        ("promtool_accepts_the_text", promtool::metrics),
        ("promtool_accepts_the_alerts", promtool::rules),
        ("alerts_fire_when_they_should", promtool::rule_tests),
    ];
    let lacking = tools::promtool().is_none().then(|| "needs promtool: cargo xtask setup".to_owned());
    let always = always.into_iter().map(|(name, run)| (None, name, run));
    harness::run(always.chain(by_promtool.into_iter().map(|(name, run)| (lacking.clone(), name, run))))
}
