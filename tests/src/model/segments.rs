//! Which connections reach each other.

use super::{Account, World};

impl World {
    /// Whether packets may go from one to the other, and back.
    pub(super) fn may_meet(&self, sender: &Account, receiver: &Account) -> bool {
        let sides = [sender, receiver].map(|account| self.side(account));
        let is_between_sites = !sides.contains(&"vpc");
        if is_between_sites && !self.spoke_to_spoke {
            return false;
        }
        // The VPC side admits everyone who asks for it, and so does the default segment.
        let [one, other] = sides;
        self.wants(one, other) && self.wants(other, one)
    }

    fn side(&self, account: &Account) -> &str {
        match account {
            Account::Connection(name) => self.connection(name).segment.as_deref().unwrap_or("default"),
            Account::Vpc => "vpc",
            Account::Unattributed => panic!("only admitted packets have a next hop"),
        }
    }

    fn wants(&self, one: &str, other: &str) -> bool {
        match one {
            "vpc" | "default" => true,
            named => {
                let segment = self.segments.iter().find(|segment| segment.name == named).expect("it is defined");
                segment.reaches.iter().any(|reached| reached == other)
            }
        }
    }
}
