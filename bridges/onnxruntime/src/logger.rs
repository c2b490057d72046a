//! Forwards `tracing` events to ONNX Runtime's loggers.
//!
//! While a session's call is on the stack, events of that thread go to the session's logger, at the level that its `log_level`
//! asks for. Events of other threads (the engine's own) go to the logger of the registration.
use std::{
    cell::Cell,
    ffi::CString,
    ptr::null,
    sync::{
        Once,
        atomic::{AtomicPtr, Ordering},
    },
};

use engraft::LogLevel;
use tracing::{Event, Level, Metadata, Subscriber, span, subscriber::Interest};

use crate::{
    api::Api,
    sys::{OrtLogger, OrtLoggingLevel},
};

/// A logger of the host and the least severe level that is worth formatting for it.
#[derive(Clone, Copy)]
pub struct Sink {
    api: Api,
    logger: *const OrtLogger,
    /// `None`: nothing passes.
    level: Option<Level>,
}

// SAFETY: loggers of the host are thread-safe; the pointer is only used while its owner (environment or session) lives.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

impl Sink {
    /// `logger` must outlive every scope and registration made of this sink; null makes a sink that drops everything.
    pub fn new(api: Api, logger: *const OrtLogger, level: LogLevel) -> Self {
        // SAFETY: null or valid by the contract above.
        let host = unsafe { logger.as_ref() }.map(|logger| api.severity(logger));
        let host = match host {
            None => None,
            Some(..=0) => Some(Level::TRACE),
            Some(1) => Some(Level::INFO),
            Some(2) => Some(Level::WARN),
            Some(_) => Some(Level::ERROR),
        };
        let own = match level {
            LogLevel::Off => None,
            LogLevel::Error => Some(Level::ERROR),
            LogLevel::Warning => Some(Level::WARN),
            LogLevel::Info => Some(Level::INFO),
            LogLevel::Verbose => Some(Level::DEBUG),
            LogLevel::Trace => Some(Level::TRACE),
        };
        // `Level` orders by severity: a more verbose level is greater.
        let level = match (host, own) {
            (Some(host), Some(own)) => Some(host.min(own)),
            _ => None,
        };
        Self { api, logger, level }
    }

    /// Sends this thread's events here until the guard is dropped.
    pub fn enter(&self) -> Scope {
        Scope { before: CURRENT.replace(Some(*self)) }
    }

    fn passes(&self, level: &Level) -> bool {
        self.level.is_some_and(|l| *level <= l)
    }
}

/// Restores the thread's former sink.
pub struct Scope {
    before: Option<Sink>,
}

impl Drop for Scope {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

thread_local! {
    static CURRENT: Cell<Option<Sink>> = const { Cell::new(None) };
}

/// The sink of threads that serve no session; replaced at each registration, cleared when it ends.
static DEFAULT: AtomicPtr<Sink> = AtomicPtr::new(std::ptr::null_mut());

/// Installs the forwarder (once) and makes `sink` the one of threads without a session.
///
/// Sinks are a few words, one per registration, and are never freed: a thread may hold one at any time.
pub fn install(sink: Sink) -> *mut Sink {
    install_once();
    let sink = Box::into_raw(Box::new(sink));
    DEFAULT.store(sink, Ordering::Release);
    sink
}

/// Installs the forwarder alone: events outside of scopes go nowhere.
pub fn install_once() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // Somebody else's subscriber in this library cannot exist; a failure would only mean no log.
        drop(tracing::subscriber::set_global_default(Forwarder));
    });
}

/// Ends the registration that `install` returned `sink` for.
pub fn uninstall(sink: *mut Sink) {
    // A later registration may have replaced it: then nothing is to be done.
    let _ = DEFAULT.compare_exchange(sink, std::ptr::null_mut(), Ordering::AcqRel, Ordering::Acquire);
}

fn current() -> Option<Sink> {
    // SAFETY: null or leaked by `install`.
    CURRENT.get().or_else(|| unsafe { DEFAULT.load(Ordering::Acquire).as_ref() }.copied())
}

struct Forwarder;

impl Subscriber for Forwarder {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        current().is_some_and(|sink| sink.passes(metadata.level()))
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let Some(sink) = current().filter(|sink| !std::ptr::eq(sink.logger, null())) else { return };
        let metadata = event.metadata();
        let text = format!("[engraft] {}", engraft::event_text(event));
        let level = match *metadata.level() {
            Level::ERROR => OrtLoggingLevel::ORT_LOGGING_LEVEL_ERROR,
            Level::WARN => OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING,
            Level::INFO => OrtLoggingLevel::ORT_LOGGING_LEVEL_INFO,
            _ => OrtLoggingLevel::ORT_LOGGING_LEVEL_VERBOSE,
        };
        let message = CString::new(text.replace('\0', " ")).unwrap_or_default();
        let target = CString::new(metadata.target()).unwrap_or_default();
        // SAFETY: not null, and alive while its scope or registration lasts.
        let logger = unsafe { &*sink.logger };
        sink.api.log(logger, level, &message, metadata.line().unwrap_or(0), &target);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
