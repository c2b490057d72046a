//! A chore of several stages: all of them run, a table of their outcomes closes it.

use std::time::{Duration, Instant};

use crate::error::Error;

#[derive(Default)]
pub struct Stages {
    outcomes: Vec<(String, Duration, Option<Error>)>,
    planned: usize,
}

impl Stages {
    /// `planned` is the number of stages that will be run.
    pub fn new(planned: usize) -> Self {
        Self { outcomes: Vec::new(), planned }
    }

    /// Runs one stage and notes how it ended; `None` where it failed.
    pub fn run<T>(&mut self, name: &str, stage: impl FnOnce() -> Result<T, Error>) -> Option<T> {
        println!("\n=== [{}/{}] {name}", self.outcomes.len() + 1, self.planned);
        let start = Instant::now();
        let (value, error) = match stage() {
            Ok(value) => (Some(value), None),
            Err(error) => {
                eprintln!("error: {error}");
                (None, Some(error))
            }
        };
        self.outcomes.push((name.to_owned(), start.elapsed(), error));
        value
    }

    /// Prints the table; an error names the stages that failed.
    pub fn finish(self) -> Result<(), Error> {
        println!("\n=== summary");
        for (name, duration, error) in &self.outcomes {
            let verdict = if error.is_none() { "passed" } else { "FAILED" };
            println!("{verdict}  {:>7.1} s  {name}", duration.as_secs_f64());
        }
        let failed: Vec<&str> =
            self.outcomes.iter().filter(|o| o.2.is_some()).map(|o| o.0.as_str()).collect();
        if failed.is_empty() {
            Ok(())
        } else {
            let total = self.outcomes.len();
            Err(Error::Stages { failed: failed.len(), total, names: failed.join(", ") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_stages_run_after_a_failure_and_the_end_names_it() {
        let mut stages = Stages::new(2);
        assert_eq!(stages.run("first", || Err::<(), _>(Error::Missing("gone".to_owned()))), None);
        assert_eq!(stages.run("second", || Ok(7)), Some(7));
        let text = stages.finish().unwrap_err().to_string();
        assert_eq!(text, "1 of 2 stages failed: first");
    }
}
