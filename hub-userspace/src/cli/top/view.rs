//! What the keys have selected: order, filter, the chosen connection and its page. Pure.

use std::cmp::Ordering;

use clap::ValueEnum;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Connection, Model};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SortKey {
    Name,
    State,
    In,
    Out,
    Drops,
    Rtt,
    Loss,
}

impl SortKey {
    const ALL: [(char, Self); 7] = [
        ('n', Self::Name),
        ('t', Self::State),
        ('i', Self::In),
        ('o', Self::Out),
        ('d', Self::Drops),
        ('r', Self::Rtt),
        ('l', Self::Loss),
    ];

    /// Names ascend; of everything else, that which needs attention comes first.
    fn compare(self, one: (&str, &Connection), other: (&str, &Connection)) -> Ordering {
        let number = |of: fn(&Connection) -> f64| of(other.1).total_cmp(&of(one.1));
        let by_key = match self {
            Self::Name => Ordering::Equal,
            Self::State => rank(one.1.state()).cmp(&rank(other.1.state())),
            Self::In => number(|connection| connection.rates.unwrap_or_default().rx_bits),
            Self::Out => number(|connection| connection.rates.unwrap_or_default().tx_bits),
            Self::Drops => number(|connection| connection.rates.unwrap_or_default().drops),
            Self::Rtt => number(|connection| connection.round_trip().unwrap_or(-1.0)),
            Self::Loss => number(|connection| connection.loss().unwrap_or(-1.0)),
        };
        by_key.then_with(|| one.0.cmp(other.0))
    }
}

fn rank(state: &str) -> usize {
    ["down", "degraded", "admin down", "up"].iter().position(|known| *known == state).unwrap_or_default()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    Table,
    Detail,
}

#[derive(Debug)]
pub struct View {
    pub sort: SortKey,
    pub is_reversed: bool,
    pub filter: String,
    /// The filter is being typed.
    pub is_typing: bool,
    /// Name of the chosen connection; `None`: the first one.
    selected: Option<String>,
    pub page: Page,
    /// Lines above the visible ones of the detail page.
    pub scroll: u16,
}

/// What follows from a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    Draw,
    Quit,
}

impl View {
    pub fn new(sort: SortKey, filter: String) -> Self {
        Self { sort, is_reversed: false, filter, is_typing: false, selected: None, page: Page::Table, scroll: 0 }
    }

    /// Connections in order.
    pub fn rows<'m>(&self, model: &'m Model) -> Vec<(&'m str, &'m Connection)> {
        let filter = self.filter.to_lowercase();
        let named = model.connections.iter().map(|(name, connection)| (name.as_str(), connection));
        let mut rows: Vec<_> = named.filter(|(name, _)| name.to_lowercase().contains(&filter)).collect();
        rows.sort_by(|one, other| self.sort.compare(*one, *other));
        if self.is_reversed {
            rows.reverse();
        }
        rows
    }

    /// The place of the chosen connection among the rows.
    pub fn position(&self, rows: &[(&str, &Connection)]) -> usize {
        let selected = self.selected.as_deref();
        rows.iter().position(|(name, _)| Some(*name) == selected).unwrap_or_default()
    }

    /// The chosen connection.
    pub fn selected<'m>(&self, model: &'m Model) -> Option<(&'m str, &'m Connection)> {
        let rows = self.rows(model);
        rows.get(self.position(&rows)).copied()
    }

    pub fn key(&mut self, key: KeyEvent, model: &Model) -> Action {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if matches!(key.code, KeyCode::Char('c' | 'd')) { Action::Quit } else { Action::Draw };
        }
        if self.is_typing {
            match key.code {
                KeyCode::Enter => self.is_typing = false,
                KeyCode::Esc => (self.is_typing, self.filter) = (false, String::new()),
                KeyCode::Backspace => _ = self.filter.pop(),
                KeyCode::Char(letter) if self.filter.len() < 64 => self.filter.push(letter),
                _ => {}
            }
            return Action::Draw;
        }
        match (self.page, key.code) {
            (_, KeyCode::Char('q')) => return Action::Quit,
            (Page::Detail, KeyCode::Esc | KeyCode::Backspace | KeyCode::Left | KeyCode::Enter) => {
                self.page = Page::Table;
            }
            (Page::Detail, KeyCode::Down | KeyCode::Char('j')) => self.scroll = self.scroll.saturating_add(1),
            (Page::Detail, KeyCode::Up | KeyCode::Char('k')) => self.scroll = self.scroll.saturating_sub(1),
            (Page::Detail, KeyCode::PageDown) => self.scroll = self.scroll.saturating_add(10),
            (Page::Detail, KeyCode::PageUp) => self.scroll = self.scroll.saturating_sub(10),
            (Page::Detail, KeyCode::Home) => self.scroll = 0,
            (Page::Table, KeyCode::Enter | KeyCode::Right) => {
                if let Some((name, _)) = self.selected(model) {
                    self.selected = Some(name.to_owned());
                    (self.page, self.scroll) = (Page::Detail, 0);
                }
            }
            (Page::Table, KeyCode::Down | KeyCode::Char('j')) => self.move_by(1, model),
            (Page::Table, KeyCode::Up | KeyCode::Char('k')) => self.move_by(-1, model),
            (Page::Table, KeyCode::PageDown) => self.move_by(10, model),
            (Page::Table, KeyCode::PageUp) => self.move_by(-10, model),
            (Page::Table, KeyCode::Home) => self.move_by(isize::MIN, model),
            (Page::Table, KeyCode::End) => self.move_by(isize::MAX, model),
            (Page::Table, KeyCode::Char('/')) => self.is_typing = true,
            (Page::Table, KeyCode::Esc) => self.filter.clear(),
            (Page::Table, KeyCode::Char('R')) => self.is_reversed = !self.is_reversed,
            (Page::Table, KeyCode::Char(letter)) => {
                if let Some((_, sort)) = SortKey::ALL.iter().find(|(key, _)| *key == letter) {
                    (self.sort, self.is_reversed) = (*sort, false);
                }
            }
            _ => {}
        }
        Action::Draw
    }

    fn move_by(&mut self, steps: isize, model: &Model) {
        let rows = self.rows(model);
        let position = self.position(&rows).saturating_add_signed(steps).min(rows.len().saturating_sub(1));
        self.selected = rows.get(position).map(|(name, _)| (*name).to_owned());
    }
}
