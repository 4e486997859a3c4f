//! SAs for each CPU (RFC 9611): which versions of strongSwan have them. Pure.

/// The first version that has them (its NEWS).
const FIRST: [u32; 3] = [6, 0, 2];

/// `version`: as charon reports it, such as `5.9.8` or `6.0.2dr1`. An unknown one counts as new: charon then rejects
/// the connection with its own reason.
pub fn has_per_cpu_sas(version: &str) -> bool {
    let number = |part: &str| {
        let digits = part.find(|character: char| !character.is_ascii_digit()).unwrap_or(part.len());
        part[..digits].parse::<u32>().ok()
    };
    let mut parts = version.split('.').map(number);
    let Some(Some(major)) = parts.next() else { return true };
    let mut next = || parts.next().flatten().unwrap_or(0);
    [major, next(), next()] >= FIRST
}

/// What a connection with `per_cpu_sas` lacks with an older version.
pub fn missing(version: &str) -> String {
    format!(
        "strongSwan {version} has no SAs for each CPU, so the connection has one: install strongSwan 6.0.2 or later, or \
         remove per_cpu_sas"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        for (version, expected) in [
            ("5.9.8", false),
            ("5.10.2", false),
            ("6.0", false),
            ("6.0.1", false),
            ("6.0.2", true),
            ("6.0.2dr1", true),
            ("6.0.10", true),
            ("6.1", true),
            ("10.0.0", true),
            ("", true),
            ("unknown", true),
        ] {
            assert_eq!(has_per_cpu_sas(version), expected, "{version}");
        }
    }
}
