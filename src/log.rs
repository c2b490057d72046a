//! Words for what bridges tell their hosts.

use std::any::Any;
use std::fmt::{self, Write as _};

use tracing::Event;
use tracing::field::{Field, Visit};

/// The message of a logged event, followed by its fields as `key=value`.
pub fn event_text(event: &Event<'_>) -> String {
    let mut text = Text(String::new());
    event.record(&mut text);
    text.0
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a `String` cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

/// What a panic said, for a host to show.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    format!("internal error in Engraft: {}", said.unwrap_or("panic without a message"))
}
