//! Validity of certificates, for warnings before they expire.

use std::{
    io,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use x509_parser::{pem::Pem, time::ASN1Time};

use super::{
    super::diagnostic::{Problem, quoted},
    secret::read_text,
};

/// Warn this long before the end.
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);
/// Maximum size of a file.
const LONGEST: usize = 60_000;

/// The problem of the certificates in a PEM file at this time, if any.
pub fn problem(file: &Path, now: SystemTime) -> Option<Problem> {
    let what = invalid_certificate(file, now).ok()??;
    let shown = quoted(&file.display().to_string());
    Some(match what {
        Invalid::Unreadable => Problem::new(format!("{shown} has no certificate in PEM form that can be read"))
            .help("put the certificate there, as `openssl x509 -outform PEM` writes it"),
        Invalid::Expired(end) => Problem::new(format!("the certificate in {shown} has expired: valid until {end}"))
            .help("renew it, then `vpnhub reload`: negotiation fails with it"),
        Invalid::Expires(end) => Problem::new(format!("the certificate in {shown} expires soon: valid until {end}"))
            .help("renew it, then `vpnhub reload`"),
        Invalid::Early(begin) => {
            Problem::new(format!("the certificate in {shown} is not valid yet: valid from {begin}"))
                .help("check the clock of this host, or wait: negotiation fails with it")
        }
    })
}

/// What is wrong with the certificates in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalid {
    /// No certificate in PEM form, or one that cannot be parsed.
    Unreadable,
    /// One was valid until this time.
    Expired(String),
    /// One is valid until this time, less than 30 days from now.
    Expires(String),
    /// One is valid from this time on.
    Early(String),
}

/// The first certificate in a PEM file that is not valid for 30 days from `now`.
///
/// # Errors
/// When the file cannot be read.
pub fn invalid_certificate(file: &Path, now: SystemTime) -> io::Result<Option<Invalid>> {
    let text = read_text(file, LONGEST)?;
    Ok(text.map_or(Some(Invalid::Unreadable), |text| invalid(text.as_bytes(), now)))
}

fn invalid(text: &[u8], now: SystemTime) -> Option<Invalid> {
    let seconds = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        i64::try_from(since).unwrap_or(i64::MAX)
    };
    let (now, soon) = (seconds(now), seconds(now + SOON));
    let mut any = false;
    for pem in Pem::iter_from_buffer(text) {
        let Ok(pem) = pem else { return Some(Invalid::Unreadable) };
        if pem.label != "CERTIFICATE" {
            continue;
        }
        let Ok(certificate) = pem.parse_x509() else { return Some(Invalid::Unreadable) };
        any = true;
        let validity = certificate.validity();
        let shown = |time: ASN1Time| time.to_rfc2822().unwrap_or_else(|_| time.to_string());
        if validity.not_after.timestamp() < now {
            return Some(Invalid::Expired(shown(validity.not_after)));
        }
        if now < validity.not_before.timestamp() {
            return Some(Invalid::Early(shown(validity.not_before)));
        }
        if validity.not_after.timestamp() < soon {
            return Some(Invalid::Expires(shown(validity.not_after)));
        }
    }
    (!any).then_some(Invalid::Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Self-signed, valid from 2030-01-01 to 2031-01-01: `openssl ca -selfsign -startdate 20300101000000Z -enddate
    /// 20310101000000Z`.
    const CERTIFICATE: &str = include_str!("validity.pem");

    #[test]
    fn certificates_are_warned_of_thirty_days_before_they_expire() {
        let day = 24 * 3600;
        let (begin, end) = (1_893_456_000, 1_924_992_000);
        let at = |seconds: u64| invalid(CERTIFICATE.as_bytes(), UNIX_EPOCH + Duration::from_secs(seconds));
        let (first, last) =
            ("Tue, 01 Jan 2030 00:00:00 +0000".to_owned(), "Wed, 01 Jan 2031 00:00:00 +0000".to_owned());
        assert_eq!(at(begin - 1), Some(Invalid::Early(first)));
        assert_eq!((at(begin), at(end - 30 * day)), (None, None));
        assert_eq!(at(end - 30 * day + 1), Some(Invalid::Expires(last.clone())));
        assert_eq!(at(end), Some(Invalid::Expires(last.clone())));
        assert_eq!(at(end + 1), Some(Invalid::Expired(last)));
    }

    #[test]
    fn files_without_a_certificate_are_unreadable() {
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let nonsense = key.replace("PRIVATE KEY", "CERTIFICATE");
        for text in ["", "nonsense", key, &nonsense, &CERTIFICATE[..200]] {
            assert_eq!(invalid(text.as_bytes(), UNIX_EPOCH), Some(Invalid::Unreadable), "{text}");
        }
    }

    #[test]
    fn chain_with_expired_certificate_is_reported() {
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let chain = format!("{key}{CERTIFICATE}{CERTIFICATE}");
        let late = UNIX_EPOCH + Duration::from_secs(1_924_992_001);
        assert!(matches!(invalid(chain.as_bytes(), late), Some(Invalid::Expired(_))));
    }
}
