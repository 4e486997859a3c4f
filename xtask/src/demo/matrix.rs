//! Reachability between all places.

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use hub_tests::lab::{Namespace, Ping, VPC, World};

use super::world::SITES;

/// Pings of each pair that are measured.
const PINGS: u16 = 10;
/// Each pair gets so many tries at least for its first answer.
const FIRST_TRIES: u32 = 3;
/// How long the world as a whole may take until its neighbours are resolved.
const SETTLED_WITHIN: Duration = Duration::from_secs(3);
/// How long to wait for one answer. A round trip here takes 0.1 ms.
const ANSWERED_WITHIN: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::V4 { "IPv4" } else { "IPv6" })
    }
}

/// Result of the pings from one place to another.
#[derive(Clone, Copy)]
enum Cell {
    /// From a place to itself.
    Same,
    /// All answered, after this time on average.
    Reached(Duration),
    /// So many were not answered.
    Lost(usize),
}

/// Everyone's pings to everyone else.
pub struct Matrix {
    family: Family,
    places: Vec<String>,
    /// A row for each place that sends.
    rows: Vec<Vec<Cell>>,
}

impl Matrix {
    /// Pings every ordered pair of the offices and the VPC, one pair after the other.
    ///
    /// # Errors
    /// When a ping cannot be sent. A lost one is part of the result.
    pub fn measure(world: &World, family: Family) -> Result<Self> {
        let hosts = hosts(family);
        let settled = Instant::now() + SETTLED_WITHIN;
        let mut rows = Vec::new();
        for (from, _) in &hosts {
            let cell = |(to, address): &(String, IpAddr)| match from == to {
                true => Ok(Cell::Same),
                false => measure(world.place(from)?, *address, settled),
            };
            rows.push(hosts.iter().map(cell).collect::<Result<_>>()?);
        }
        Ok(Self { family, places: hosts.into_iter().map(|(place, _)| place).collect(), rows })
    }

    /// Whether every ping was answered.
    pub fn complete(&self) -> bool {
        self.rows.iter().flatten().all(|cell| !matches!(cell, Cell::Lost(_)))
    }

    /// Whether exactly the pings between the places are lost for which the predicate is true.
    pub fn is_lost_where(&self, lost: impl Fn(&str, &str) -> bool) -> bool {
        self.places.iter().zip(&self.rows).all(|(from, row)| {
            self.places.iter().zip(row).all(|(to, cell)| match cell {
                Cell::Same => true,
                Cell::Reached(_) => !lost(from, to),
                Cell::Lost(count) => *count == usize::from(PINGS) && lost(from, to),
            })
        })
    }
}

fn hosts(family: Family) -> Vec<(String, IpAddr)> {
    let pick = |v4: IpAddr, v6: IpAddr| if family == Family::V4 { v4 } else { v6 };
    let offices = SITES.map(|site| (site.place.to_string(), pick(site.host4().into(), site.host6().into())));
    offices.into_iter().chain([(VPC.place.to_owned(), pick(VPC.host4.into(), VPC.host6.into()))]).collect()
}

/// The first answers are not measured: on the way of a first packet, neighbours are still being resolved.
fn measure(from: &Namespace, to: IpAddr, settled: Instant) -> Result<Cell> {
    let ping = Ping::new(to).timeout(ANSWERED_WITHIN);
    let mut tries = 1;
    while !ping.run(from)?.complete() {
        // However long the pairs before it took: they may be lost for good, and this one's neighbours still unknown.
        if tries >= FIRST_TRIES && Instant::now() > settled {
            return Ok(Cell::Lost(PINGS.into()));
        }
        tries += 1;
    }
    let report = ping.count(PINGS).run(from)?;
    Ok(match report.rtt_avg {
        Some(average) if report.complete() => Cell::Reached(average),
        _ => Cell::Lost(report.lost.len()),
    })
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (family, places) = (self.family, &self.places);
        writeln!(f, "Reachability over {family}: round-trip time in ms, average of {PINGS} pings\n")?;
        write!(f, "  {:<13}", "from \\ to")?;
        places.iter().try_for_each(|place| write!(f, "{place:>11}"))?;
        writeln!(f)?;
        for (place, row) in places.iter().zip(&self.rows) {
            write!(f, "  {place:<13}")?;
            row.iter().try_for_each(|cell| write!(f, "{:>11}", cell.to_string()))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => f.write_str("-"),
            Self::Reached(time) => write!(f, "{:.3}", time.as_secs_f64() * 1000.0),
            Self::Lost(count) if *count == usize::from(PINGS) => f.write_str("LOST"),
            Self::Lost(count) => write!(f, "LOST {count}/{PINGS}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(cells: [Cell; 2]) -> Matrix {
        let places = vec!["here".to_owned(), "there".to_owned()];
        let [there, back] = cells;
        Matrix { family: Family::V6, places, rows: vec![vec![Cell::Same, there], vec![back, Cell::Same]] }
    }

    #[test]
    fn matrix_has_one_row_per_sender() {
        let times = [Cell::Reached(Duration::from_micros(41)), Cell::Reached(Duration::from_micros(12_345))];
        let shown = matrix(times).to_string();
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines[0], "Reachability over IPv6: round-trip time in ms, average of 10 pings");
        assert_eq!(lines[2], "  from \\ to           here      there");
        assert_eq!(lines[3], "  here                   -      0.041");
        assert_eq!(lines[4], "  there             12.345          -");
    }

    #[test]
    fn lost_ping_is_shown_and_makes_matrix_incomplete() {
        for (lost, shown) in [(Cell::Lost(10), "      LOST\n"), (Cell::Lost(1), "  LOST 1/10\n")] {
            let matrix = matrix([lost, Cell::Reached(Duration::from_micros(41))]);
            assert!(matrix.to_string().contains(shown), "{matrix}");
            assert!(!matrix.complete());
        }
        assert!(matrix([Cell::Reached(Duration::ZERO); 2]).complete());
        let one_way = matrix([Cell::Lost(10), Cell::Reached(Duration::ZERO)]);
        assert!(one_way.is_lost_where(|from, _| from == "here"));
        assert!(!one_way.is_lost_where(|_, _| true) && !one_way.is_lost_where(|_, _| false));
    }

    #[test]
    fn matrix_covers_all_sites_and_vpc() {
        let places: Vec<_> = hosts(Family::V4).into_iter().map(|(place, _)| place).collect();
        assert_eq!(places, ["shanghai", "hangzhou", "ningbo", "vpc"]);
        assert!(hosts(Family::V6).iter().all(|(_, address)| address.is_ipv6()));
    }
}
