//! Addresses as tests write them: as values, or as text.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::lab::Mac;

/// A `T`, or its text form.
pub trait Literal<T> {
    /// # Panics
    /// When the text is not a valid `T`: tests use literals.
    fn value(self) -> T;
}

macro_rules! addresses {
    ($($address:ty),*) => {$(
        impl Literal<$address> for $address {
            fn value(self) -> $address {
                self
            }
        }

        impl Literal<$address> for &str {
            fn value(self) -> $address {
                self.parse().unwrap_or_else(|error| panic!("{self:?}: {error}"))
            }
        }
    )*};
}

addresses!(Ipv4Addr, Ipv6Addr, Mac);

impl Literal<Mac> for [u8; 6] {
    fn value(self) -> Mac {
        Mac(self)
    }
}
