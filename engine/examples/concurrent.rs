//! What callers that share an engine get done: `concurrent PLAN [CALLERS] [ROUNDS] [MILLISECONDS]`.
//!
//! Each caller runs alone on its thread. Every round compares the runs per second of one caller with those of many, right after
//! each other; the quartiles of that ratio are printed.

use engraft_engine::{Engine, OwnedOutputs, TensorRef, container::Container};
use engraft_kernels::Serial;
use engraft_network::{Tensor, ops};
use std::time::{Duration, Instant};

/// Runs per second of `callers` threads that call for the given time.
fn rate(engine: &Engine, inputs: &[Tensor], callers: usize, time: Duration) -> f64 {
    let start = Instant::now();
    let runs: usize = std::thread::scope(|scope| {
        let caller = || {
            let refs: Vec<TensorRef<'_>> = inputs.iter().map(TensorRef::of).collect();
            let mut runs = 0usize;
            while start.elapsed() < time {
                let mut outputs = OwnedOutputs::default();
                // SAFETY: tensors hold what their type and shape say; outputs are memory of their own.
                unsafe { engine.execute(&refs, &mut outputs, &Serial) }.expect("the plan runs");
                runs += 1;
            }
            runs
        };
        let threads: Vec<_> = (0..callers).map(|_| scope.spawn(caller)).collect();
        threads.into_iter().map(|thread| thread.join().expect("callers do not panic")).sum()
    });
    runs as f64 / start.elapsed().as_secs_f64()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = arguments.first().ok_or("which plan?")?;
    let number = |i: usize, default| arguments.get(i).map_or(Ok(default), |a| a.parse::<usize>());
    let (callers, rounds) = (number(1, 8)?, number(2, 15)?);
    let time = Duration::from_millis(number(3, 300)? as u64);
    let engine = Engine::load(Container::open(path.as_ref())?)?;
    let env = engine.network().representative_env();
    let zeros =
        |b: &engraft_engine::Binding| Ok(Tensor::zeros(b.ty.dtype, &ops::eval_shape(&b.ty.shape, &env)?)?);
    let inputs = engine.inputs().iter().map(zeros).collect::<Result<Vec<_>, Box<dyn std::error::Error>>>()?;
    rate(&engine, &inputs, callers, time);
    let (mut ones, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let one = rate(&engine, &inputs, 1, time);
        ratios.push(rate(&engine, &inputs, callers, time) / one);
        ones.push(one);
    }
    ratios.sort_by(f64::total_cmp);
    ones.sort_by(f64::total_cmp);
    let at = |quarter: usize| ratios[quarter * (rounds - 1) / 4];
    println!(
        "{path}: {:.1} runs/s of one caller; of {callers} callers {:.2} times as many ({:.2} to {:.2} in the middle half)",
        ones[rounds / 2],
        at(2),
        at(1),
        at(3)
    );
    Ok(())
}
