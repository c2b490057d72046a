//! How many threads TensorFlow gives one operator: its intra-op setting.
use prost::Message;

use crate::api::{Context, Status};

/// `ConfigProto`, as far as it is read.
#[derive(Clone, PartialEq, Message)]
struct Config {
    #[prost(int32, tag = "2")]
    intra_op_parallelism_threads: i32,
}

/// The setting of the session or of the program (`tf.config.threading`), else that of the environment variable
/// `TF_NUM_INTRAOP_THREADS`, else one thread for each CPU.
pub fn of(context: Context) -> usize {
    let config = context.config(&Status::new()).ok().and_then(|config| Config::decode(config.bytes()).ok());
    let asked = config.map_or(0, |config| config.intra_op_parallelism_threads);
    usize::try_from(asked).ok().filter(|n| *n > 0).unwrap_or_else(default)
}

/// The number of threads where no session says another.
pub fn default() -> usize {
    let variable = std::env::var("TF_NUM_INTRAOP_THREADS").ok().and_then(|text| text.trim().parse().ok());
    variable.filter(|n| *n > 0).unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()))
}
