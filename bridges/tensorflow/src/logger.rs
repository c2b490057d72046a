//! Writes `tracing` events to the standard error stream, as TensorFlow writes its own.
use std::{
    cell::Cell,
    io::Write as _,
    sync::Once,
    sync::atomic::{AtomicU8, Ordering},
};

use engraft::{LogLevel, event_text};
use tracing::{Event, Level, Metadata, Subscriber, span, subscriber::Interest};

/// The level of threads that serve no node.
static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Warning as u8);

thread_local! {
    static CURRENT: Cell<Option<LogLevel>> = const { Cell::new(None) };
}

/// Installs the writer, once.
pub fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // Somebody else's subscriber in this library cannot exist; a failure would only mean no log.
        drop(tracing::subscriber::set_global_default(Writer));
    });
}

/// Sets the level of threads that serve no node.
pub fn set_level(level: LogLevel) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Gives this thread a level of its own until the guard is dropped.
pub fn enter(level: LogLevel) -> Scope {
    Scope { before: CURRENT.replace(Some(level)) }
}

/// Restores the thread's former level.
pub struct Scope {
    before: Option<LogLevel>,
}

impl Drop for Scope {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

fn passes(level: &Level) -> bool {
    let rank = match *level {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warning,
        Level::INFO => LogLevel::Info,
        Level::DEBUG => LogLevel::Verbose,
        Level::TRACE => LogLevel::Trace,
    } as u8;
    rank <= CURRENT.get().map_or_else(|| LEVEL.load(Ordering::Relaxed), |level| level as u8)
}

struct Writer;

impl Subscriber for Writer {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        passes(metadata.level())
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let letter = match *event.metadata().level() {
            Level::ERROR => 'E',
            Level::WARN => 'W',
            Level::INFO => 'I',
            _ => 'V',
        };
        // A closed stream is no reason to fail.
        let _ = writeln!(std::io::stderr(), "{letter} engraft: {}", event_text(event));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
