//! The key `translate`: a list of tables, each valid by itself.

use ipnet::IpNet;
use toml::{Spanned, de::DeValue};

use super::{
    super::{
        diagnostic::{Located, Problem, join},
        prefix::{self, Purpose},
        read::SectionReader,
        section::{List, Section},
        value::describe,
    },
    TRANSLATIONS_PER_INTERFACE, Translation, Translations,
};

const KEY: &str = "translate";
pub(in crate::config) const KEYS: &[&str] = &["site", "hub"];
const EXAMPLE: &str = "[{ site = \"192.168.1.0/24\", hub = \"10.201.1.0/24\" }]";
/// Parts into which the translations of a connection may split its `remote_cidrs`, beyond one for each element. The
/// tables have each part with each local prefix.
pub(in crate::config) const MOST_PARTS: usize = 1024;
/// A list with more breaks the limit of its interface. Its prefixes are not computed, because that is quadratic.
const MOST_COMPUTED: usize = 2 * TRANSLATIONS_PER_INTERFACE;

/// The readable translations of a connection.
#[derive(Debug, Clone)]
pub(in crate::config) struct TranslateDraft {
    pub items: Vec<TranslationDraft>,
    /// Every translation was readable and valid by itself.
    pub sound: bool,
}

#[derive(Debug, Clone, Copy)]
pub(in crate::config) struct TranslationDraft {
    /// Its number in the list, counted from 1.
    pub number: usize,
    /// Of one IP version and length with `hub`.
    pub site: Located<IpNet>,
    pub hub: Located<IpNet>,
}

impl TranslationDraft {
    pub fn value(&self) -> Translation {
        Translation { site: self.site.value, hub: self.hub.value }
    }

    /// The path in messages; `connection` is the connection's.
    pub fn path(&self, connection: &str) -> String {
        format!("{}[{}]", join(connection, KEY), self.number)
    }
}

impl TranslateDraft {
    /// The translations; `None` if some are invalid, or there are too many to compute with.
    pub fn translations(&self) -> Option<Translations> {
        let is_computed = self.sound && self.items.len() <= MOST_COMPUTED;
        is_computed.then(|| self.items.iter().map(TranslationDraft::value).collect())
    }

    /// What the translations leave of each element of `remote_cidrs`, with that element; `None` if the translations
    /// are not valid by themselves, or there are more than [`MOST_PARTS`].
    pub fn unchanged(&self, remotes: &List<IpNet>) -> Option<Vec<(Located<IpNet>, IpNet)>> {
        let (translations, most) = (self.translations()?, MOST_PARTS + remotes.items.len());
        let mut parts = Vec::new();
        for remote in &remotes.items {
            let unchanged = translations.first_unchanged(remote.value, most + 1);
            parts.extend(unchanged.into_iter().map(|part| (*remote, part)));
            if parts.len() > most {
                return None;
            }
        }
        Some(parts)
    }

    pub fn finish(self) -> Option<Translations> {
        self.sound.then(|| self.items.iter().map(TranslationDraft::value).collect())
    }
}

impl SectionReader<'_, '_> {
    /// The key `translate` of a connection.
    pub(in crate::config) fn translate(&mut self, section: &Section<'_>) -> TranslateDraft {
        // A misspelt key may be the list.
        let mut draft = TranslateDraft { items: Vec::new(), sound: section.lacks(KEY) };
        let advice = format!("write {KEY} = {EXAMPLE}");
        let Some(elements) = section.optional(KEY, self.report, |value| match value {
            DeValue::Array(elements) => Ok(elements),
            DeValue::Table(_) => Err(Problem::new("must be a list of tables, is a table").help(advice)),
            value => Err(Problem::new(format!("must be a list of tables, is {}", describe(value))).help(advice)),
        }) else {
            return draft;
        };
        draft.sound = true;
        for (index, table) in elements.value.iter().enumerate() {
            let path = format!("{}[{}]", section.path_of(KEY), index + 1);
            match self.translation(table, path, index + 1) {
                Some(translation) => draft.items.push(translation),
                None => draft.sound = false,
            }
        }
        draft
    }

    fn translation<'a>(
        &mut self,
        table: &'a Spanned<DeValue<'a>>,
        path: String,
        number: usize,
    ) -> Option<TranslationDraft> {
        let section = self.open(table, path, KEYS, "{ site = \"192.168.1.0/24\", hub = \"10.201.1.0/24\" }")?;
        let report = &mut *self.report;
        let prefix = |value| prefix::prefix(value, Purpose::Translation);
        let site = section.required("site", "\"192.168.1.0/24\", as the site uses it", report, prefix);
        let hub = section.required("hub", "\"10.201.1.0/24\", as the hub sees it", report, prefix);
        let translation = TranslationDraft { number, site: site?, hub: hub? };
        match mismatch(&translation.value()) {
            None => Some(translation),
            Some(problem) => {
                report.error(translation.hub.at, section.path_of("hub"), problem);
                None
            }
        }
    }
}

/// Why the two sides do not fit.
fn mismatch(&Translation { site, hub }: &Translation) -> Option<Problem> {
    if site.addr().is_ipv4() != hub.addr().is_ipv4() {
        let problem = Problem::new(format!("{hub} and the site's {site} are not of one IP version"));
        return Some(problem.help("use IPv4 for both, or IPv6 for both"));
    }
    if site.prefix_len() != hub.prefix_len() {
        let problem = Problem::new(format!("{hub} and the site's {site} are not of one length"));
        let same = IpNet::new(hub.addr(), site.prefix_len()).map(|hub| hub.trunc());
        let help = same.map(|same| format!("each address needs its own: write a prefix such as \"{same}\""));
        return Some(problem.help(help.unwrap_or_default()));
    }
    (site == hub).then(|| Problem::new(format!("{hub} is translated to itself")).help("remove this translation"))
}
