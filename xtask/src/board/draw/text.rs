//! Texts of the picture.

use plotters::{
    element::Text,
    style::{
        Color as _, IntoFont as _, RGBColor, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{Area, Failed};

const FONT: &str = "Helvetica, Arial, sans-serif";

#[derive(Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// Where and how a text is written. `at`: pixels from the left, and from the top to the upper edge.
#[derive(Clone, Copy)]
pub struct Place {
    pub at: (i32, i32),
    pub size: i32,
    pub colour: RGBColor,
    pub anchor: Anchor,
}

pub fn font(size: i32, colour: RGBColor) -> TextStyle<'static> {
    let mut style = TextStyle::from((FONT, size).into_font());
    style.color = colour.to_backend_color();
    style
}

pub fn write(area: &Area<'_>, text: &str, Place { at, size, colour, anchor }: Place) -> Result<(), Failed> {
    let horizontal = match anchor {
        Anchor::Start => HPos::Left,
        Anchor::Middle => HPos::Center,
        Anchor::End => HPos::Right,
    };
    let style = font(size, colour).pos(Pos::new(horizontal, VPos::Top));
    area.draw(&Text::new(text.to_owned(), at, style))
}

/// The text, or its start and an ellipsis if it is longer than `width` pixels: a character is about half as wide as the
/// font's size.
pub fn clipped(text: &str, width: i32, size: i32) -> String {
    let room = usize::try_from(width * 2 / size).unwrap_or(0);
    if text.chars().count() <= room {
        return text.to_owned();
    }
    text.chars().take(room.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::clipped;

    #[test]
    fn long_text_ends_with_an_ellipsis() {
        assert_eq!(clipped("0123456789", 50, 10), "0123456789");
        assert_eq!(clipped("0123456789", 45, 10), "01234567…");
    }
}
