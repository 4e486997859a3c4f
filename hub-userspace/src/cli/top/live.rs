//! The loop of the screen: answers and events of the agent, keys and signals in; frames out.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEventKind},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::{Receiver, Sender, channel},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    TopArgs,
    model::Model,
    screen,
    view::{Action, View},
};
use crate::{
    api::Client,
    api_types::{
        event::ConnectionEvent,
        status::{ConnectionStatus, FullStatus},
    },
};

/// Routes and their shares are read as often as this, and when a connection changes: there may be 100,000 routes.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// Pause before the events are asked for again.
const RETRY: Duration = Duration::from_secs(1);

enum News {
    Connections(Result<Vec<ConnectionStatus>>),
    Status(Box<Result<FullStatus>>),
    Event(ConnectionEvent),
    Input(io::Result<Event>),
}

/// Gives the terminal back, whichever way the function ends. At a panic the hook of [`ratatui::try_init`] has done so
/// before the message is printed.
struct Screen(DefaultTerminal);

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows the screen until `q`, Ctrl-C, or a signal that ends the process.
pub async fn run(client: Client, arguments: &TopArgs) -> Result<()> {
    // The terminal is left as it is if the agent cannot be asked for a lasting reason, such as missing permission.
    let connections = client.connections().await?;
    let mut model = Model::new(arguments.interval);
    let mut view = View::new(arguments.sort, arguments.filter.clone());
    model.take(connections, Instant::now());

    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
    // Holds the first events of the largest hub: the state of each connection.
    let (sender, mut news) = channel(8192);
    let (order, orders) = channel(1);
    tokio::spawn(ask(client.clone(), arguments.interval, orders, sender.clone()));
    tokio::spawn(follow(client, sender.clone()));
    let mut screen = Screen(ratatui::try_init().context("cannot use the terminal")?);
    thread::spawn(move || read_keys(&sender));
    let mut asked = None::<Instant>;
    loop {
        if model.is_status_due && model.problem.is_none()
            || asked.is_none_or(|asked| asked.elapsed() >= STATUS_INTERVAL)
        {
            // A full channel holds the same order already.
            model.is_status_due = order.try_send(()).is_err();
            asked = Some(Instant::now());
        }
        screen.0.draw(|frame| screen::draw(frame, &model, &view)).context("cannot write to the terminal")?;
        let first = tokio::select! {
            first = news.recv() => first,
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
            _ = hangup.recv() => None,
        };
        let mut next = first;
        if next.is_none() {
            return Ok(());
        }
        // One frame for all that has arrived.
        while let Some(one) = next {
            if handle(one, &mut model, &mut view) == Action::Quit {
                return Ok(());
            }
            next = news.try_recv().ok();
        }
    }
}

fn handle(news: News, model: &mut Model, view: &mut View) -> Action {
    match news {
        News::Connections(Ok(connections)) => model.take(connections, Instant::now()),
        News::Connections(Err(error)) => model.fail(&format!("{error:#}")),
        News::Status(status) => {
            // An agent that does not answer is shown because its connections are missing.
            if let Ok(full) = *status {
                model.take_status(full);
            }
        }
        News::Event(event) => model.take_event(event),
        News::Input(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => return view.key(key, model),
        News::Input(Ok(_)) => {}
        // The terminal is gone.
        News::Input(Err(_)) => return Action::Quit,
    }
    Action::Draw
}

/// Asks for the connections at each interval, and for the status when ordered. One after the other: a slow agent is
/// asked less often.
async fn ask(client: Client, pause: Duration, mut orders: Receiver<()>, news: Sender<News>) {
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first answer is there already.
    ticks.tick().await;
    loop {
        let answer = tokio::select! {
            order = orders.recv() => match order {
                Some(()) => News::Status(Box::new(client.status().await)),
                None => return,
            },
            _ = ticks.tick() => News::Connections(client.connections().await),
        };
        if news.send(answer).await.is_err() {
            return;
        }
    }
}

/// Follows the events, of one agent after the other.
async fn follow(client: Client, news: Sender<News>) {
    while !news.is_closed() {
        let handle = |event: &ConnectionEvent| {
            // Only a terminal that takes no frames fills the channel.
            drop(news.try_send(News::Event(event.clone())));
            Ok(())
        };
        // Ends with the agent.
        drop(client.follow(handle).await);
        sleep(RETRY).await;
    }
}

fn read_keys(news: &Sender<News>) {
    loop {
        let input = event::read();
        let is_gone = input.is_err();
        if news.blocking_send(News::Input(input)).is_err() || is_gone {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command};

    use super::*;

    const PANICS: &str = "cli::top::live::tests::screen_panics";

    /// In a terminal of its own, by the test below.
    #[test]
    #[ignore = "panics: run by panic_gives_the_terminal_back, in a terminal"]
    fn screen_panics() {
        let mut screen = Screen(ratatui::try_init().expect("a terminal"));
        screen.0.draw(|frame| frame.render_widget("drawn", frame.area())).expect("a terminal");
        panic!("the panic of the test");
    }

    #[test]
    fn panic_gives_the_terminal_back() {
        let program = env::current_exe().expect("this program");
        let command = format!("'{}' --exact {PANICS} --ignored --nocapture", program.display());
        // script(1) makes the terminal; stty shows how it is left.
        let output = Command::new("script")
            .args(["-qec", &format!("stty rows 24 cols 80; stty -a; {command}; stty -a"), "/dev/null"])
            .output();
        let output = output.expect("script, of bsdutils");
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        let find = |what: &str| shown.find(what).unwrap_or_else(|| panic!("no {what:?} in {shown:?}"));
        let (begin, left, message) = (find("\x1b[?1049h"), find("\x1b[?1049l"), find("the panic of the test"));
        assert!(begin < find("drawn") && find("drawn") < left, "nothing was drawn: {shown:?}");
        assert!(left < message, "the message is on the alternate screen, which is gone: {shown:?}");
        assert!(shown.rfind("\x1b[?1049h") < shown.rfind("\x1b[?1049l"), "the alternate screen stays: {shown:?}");
        assert!(shown.rfind("\x1b[?25l") < shown.rfind("\x1b[?25h"), "the cursor stays hidden: {shown:?}");
        let is_cooked = |text: &str| {
            let has = |setting: &str| text.split_whitespace().any(|word| word == setting);
            ["icanon", "echo", "isig"].into_iter().all(has)
        };
        assert!(is_cooked(&shown[..begin]) && is_cooked(&shown[message..]), "lines are not edited any more: {shown:?}");
    }
}
