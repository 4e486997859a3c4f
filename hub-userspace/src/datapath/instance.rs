//! The name of an instance: a host can run several agents in separate network namespaces.

use std::{fmt, str::FromStr};

const LONGEST: usize = 64;

/// 1 to 64 of `a-z 0-9 -`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Instance(String);

impl Instance {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Instance {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl FromStr for Instance {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > LONGEST || !name.chars().all(valid) {
            return Err(format!("use 1 to {LONGEST} of a-z 0-9 -"));
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Instance;

    #[test]
    fn instance_name_is_valid_file_name() {
        let longest = "a".repeat(64);
        for name in ["default", "hub-2", "0", &longest] {
            assert_eq!(name.parse::<Instance>().unwrap().to_string(), name);
        }
        let too_long = "a".repeat(65);
        for name in ["", "..", "a/b", "Hub", "a_b", "a.b", "ä", &too_long] {
            assert!(name.parse::<Instance>().is_err(), "{name}");
        }
    }
}
