//! The manual: links, the book's chapters, and the commands and sessions in it. Needs neither root nor a lab.

mod commands;
mod links;
mod markdown;
mod sessions;
