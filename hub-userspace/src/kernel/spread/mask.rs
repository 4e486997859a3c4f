//! Sets of CPUs in the kernel's two formats.

use std::{
    fmt::{self, Write as _},
    iter,
};

use serde::{Deserialize, Serialize};

/// More CPUs than any kernel supports (`NR_CPUS`): limits the memory for a text.
const MAX_CPUS: u32 = 1 << 16;
const BITS: u32 = u32::BITS;

/// A set of CPUs. Displays as in `rps_cpus`: hexadecimal words of 32 CPUs with commas in between, the highest first
/// (`bitmap_parse`, lib/bitmap-str.c).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuMask {
    /// The lowest first, without zeros at the end.
    words: Vec<u32>,
}

/// The text is not a set of CPUs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a set of CPUs")]
pub struct NoMask(String);

impl CpuMask {
    /// The contents of a file such as `rps_cpus`, without its newline.
    ///
    /// # Errors
    /// When the text is not a mask.
    pub fn parse(text: &str) -> Result<Self, NoMask> {
        let is_word = |word: &&str| (1..=8).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let word = |word: &str| Some(word).filter(is_word).and_then(|word| u32::from_str_radix(word, 16).ok());
        let words: Option<Vec<u32>> = text.rsplit(',').take((MAX_CPUS / BITS) as usize + 1).map(word).collect();
        let words = words.filter(|words| words.len() <= (MAX_CPUS / BITS) as usize);
        words.map(Self::of).ok_or_else(|| no_mask(text))
    }

    /// The contents of a file such as `/sys/devices/system/cpu/online`, without its newline: `0-3,8`.
    ///
    /// # Errors
    /// When the text is not a list of CPUs.
    pub fn parse_list(text: &str) -> Result<Self, NoMask> {
        let mut mask = Self::default();
        for range in text.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) =
                number(first).zip(number(last)).filter(|(first, last)| first <= last).ok_or_else(|| no_mask(text))?;
            (first..=last).for_each(|cpu| mask.insert(cpu));
        }
        Ok(mask)
    }

    fn of(mut words: Vec<u32>) -> Self {
        while words.last() == Some(&0) {
            words.pop();
        }
        Self { words }
    }

    fn insert(&mut self, cpu: u32) {
        let word = (cpu / BITS) as usize;
        self.words.resize(self.words.len().max(word + 1), 0);
        self.words[word] |= 1 << (cpu % BITS);
    }

    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The numbers of the CPUs, ascending.
    pub fn cpus(&self) -> impl Iterator<Item = u32> {
        let words = (0..).zip(&self.words);
        words.flat_map(|(index, word)| {
            (0..BITS).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * BITS + bit)
        })
    }

    /// As a list of ranges: `0-3,8`; empty without any.
    pub fn list(&self) -> String {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for cpu in self.cpus() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        let text =
            |(first, last): (u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
        ranges.into_iter().map(text).collect::<Vec<_>>().join(",")
    }

    /// The CPUs that are not in `other`.
    pub fn without(&self, other: &Self) -> Self {
        let others = other.words.iter().chain(iter::repeat(&0));
        Self::of(self.words.iter().zip(others).map(|(word, other)| word & !other).collect())
    }

    /// The number of CPUs.
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }
}

fn number(text: &str) -> Option<u32> {
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|cpu| is_digits && *cpu < MAX_CPUS)
}

fn no_mask(text: &str) -> NoMask {
    NoMask(text.chars().take(64).collect())
}

impl fmt::Display for CpuMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = self.words.iter().rev();
        write!(f, "{:x}", words.next().unwrap_or(&0))?;
        words.try_for_each(|word| write!(f, ",{word:08x}"))
    }
}

impl TryFrom<String> for CpuMask {
    type Error = NoMask;

    fn try_from(text: String) -> Result<Self, NoMask> {
        Self::parse(&text)
    }
}

impl From<CpuMask> for String {
    fn from(mask: CpuMask) -> Self {
        let mut text = Self::new();
        // Writing to a string does not fail.
        let _ = write!(text, "{mask}");
        text
    }
}
