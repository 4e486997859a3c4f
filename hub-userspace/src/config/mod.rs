//! The configuration file: SPEC of the TOML, its rules, and what is wrong with a file.

pub mod model;
