//! The templates and their engine.

use minijinja::{
    Environment, UndefinedBehavior,
    syntax::SyntaxConfig,
    value::{Serde, Value},
};

use super::{Format, PeerConfigError, device, site::Site};

/// The template of a format; `json` has none.
const fn source(format: Format) -> &'static str {
    match format {
        Format::Strongswan => include_str!("templates/strongswan.j2"),
        Format::Swanctl => include_str!("templates/swanctl.j2"),
        Format::CiscoIos => include_str!("templates/cisco-ios.j2"),
        Format::CiscoAsa => include_str!("templates/cisco-asa.j2"),
        Format::Huawei => include_str!("templates/huawei.j2"),
        Format::H3c => include_str!("templates/h3c.j2"),
        Format::Juniper => include_str!("templates/juniper.j2"),
        Format::Json => "",
    }
}

pub fn render(format: Format, site: &Site) -> Result<String, PeerConfigError> {
    let refused = |error: &minijinja::Error| PeerConfigError::Device {
        format: format.name(),
        // The detail only: an operator has no use for the position in the template.
        why: error.detail().map_or_else(|| error.to_string(), str::to_owned),
    };
    // A line with nothing but a statement produces no output.
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_syntax(syntax.map_err(|error| refused(&error))?);
    engine.add_function("choose", device::choose);
    engine.add_filter("word", device::word);
    engine.add_filter("typed", device::typed);
    engine.add_filter("secret", device::quoted);
    engine.render_named_str(format.name(), source(format), Value::from(Serde(site))).map_err(|error| refused(&error))
}
