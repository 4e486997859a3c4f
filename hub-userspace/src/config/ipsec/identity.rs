//! Identities that the ends of a tunnel present to each other.

use std::{fmt, net::IpAddr};

use super::super::{
    address::SiteAddress,
    diagnostic::{Problem, quoted},
};

/// strongSwan's prefixes of mail addresses.
const MAIL_PREFIXES: [&str; 3] = ["email:", "rfc822:", "userfqdn:"];

/// Longest identity; devices accept about 255 characters.
const LONGEST: usize = 255;

/// An identity in one of the forms that every device supports. Displays in strongSwan's syntax.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(String);

/// RFC 7296 section 3.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Address,
    /// Host name, `ID_FQDN`.
    Fqdn,
    /// Mail address, `ID_RFC822_ADDR`.
    Mail,
    /// Distinguished name of a certificate, `ID_DER_ASN1_DN`.
    Dn,
    /// Opaque bytes, `ID_KEY_ID`, as `@#` and hexadecimal digits.
    KeyId,
}

impl Identity {
    /// The default identity of a site: its address or name; `None` if it has neither.
    pub fn of_site(address: &SiteAddress) -> Option<Self> {
        match address {
            SiteAddress::Ip(address) => Some((*address).into()),
            SiteAddress::Name(name) => Some(Self(name.clone())),
            SiteAddress::Any => None,
        }
    }
}

impl From<IpAddr> for Identity {
    fn from(address: IpAddr) -> Self {
        Self(address.to_string())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Identity {
    pub(in crate::config) fn of(text: &str) -> Result<Self, Problem> {
        let advice = "write an address, a host name, a mail address or a distinguished name";
        let odd = |what: &str| Err(Problem::new(format!("{} {what}", quoted(text))).help(advice));
        if text.is_empty() {
            return Err(Problem::new("the identity is empty").help(advice));
        }
        if text.len() > LONGEST {
            return Err(Problem::new(format!("the identity has {} bytes", text.len()))
                .help(format!("{advice}, of at most {LONGEST} bytes")));
        }
        if text.starts_with('%') || text.contains('*') {
            return odd("matches several identities: write the identity of one site");
        }
        if let Some(bare) = text.strip_prefix('@')
            && !bare.starts_with('#')
        {
            let bare = quoted(bare.trim_start_matches('@'));
            return Err(Problem::new(format!("{} begins with @", quoted(text))).help(format!("write {bare}")));
        }
        if text.trim() != text || text.chars().any(char::is_control) {
            return odd("contains blanks or control characters");
        }
        if let Some(digits) = text.strip_prefix("@#") {
            let is_hex = !digits.is_empty() && digits.len().is_multiple_of(2);
            return if is_hex && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                Ok(Self(text.to_ascii_lowercase()))
            } else {
                Err(Problem::new(format!("{} is no key id", quoted(text)))
                    .help("write pairs of hexadecimal digits after @#, such as \"@#6b6579\""))
            };
        }
        let text = MAIL_PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text);
        let identity = Self(text.parse::<IpAddr>().map_or_else(|_| text.to_owned(), |address| address.to_string()));
        let is_host =
            |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        let is_right = match identity.form() {
            Form::Address | Form::KeyId => true,
            Form::Fqdn => is_host(text),
            Form::Mail => text.split_once('@').is_some_and(|(user, host)| {
                is_host(host) && !user.is_empty() && user.chars().all(|c| c.is_ascii_graphic() && !"\"@".contains(c))
            }),
            Form::Dn => !text.contains('"'),
        };
        if is_right { Ok(identity) } else { odd("is not an identity") }
    }

    pub fn form(&self) -> Form {
        match &self.0 {
            text if text.parse::<IpAddr>().is_ok() => Form::Address,
            text if text.starts_with("@#") => Form::KeyId,
            text if text.contains('=') => Form::Dn,
            text if text.contains('@') => Form::Mail,
            _ => Form::Fqdn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_form_is_detected_from_text() {
        for (text, form) in [
            ("198.51.100.10", Form::Address),
            ("2001:db8::1", Form::Address),
            ("hub.example.com", Form::Fqdn),
            ("hub", Form::Fqdn),
            ("ops@example.com", Form::Mail),
            ("C=CN, O=Example, CN=hub", Form::Dn),
            ("@#6b6579", Form::KeyId),
            ("email:x@y", Form::Mail),
        ] {
            assert_eq!(Identity::of(text).map(|identity| identity.form()), Ok(form), "{text}");
        }
        assert_eq!(Identity::of("2001:DB8:0::1").map(|identity| identity.to_string()), Ok("2001:db8::1".to_owned()));
        assert_eq!(Identity::of("@#6B6579").map(|identity| identity.to_string()), Ok("@#6b6579".to_owned()));
        assert_eq!(Identity::of("email:x@y"), Identity::of("x@y"));
        for text in ["@#", "@#6", "@#xy"] {
            assert!(Identity::of(text).is_err(), "{text:?}");
        }
        for text in
            ["", "%any", "*", "*.example.com", "@hub", "@@hub", "a b", " hub", "hub\n", "fqdn:hub", "a@b@c", "a@"]
        {
            assert!(Identity::of(text).is_err(), "{text:?}");
        }
    }
}
