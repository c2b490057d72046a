//! How long a specialization for a new shape takes: `specialize PLAN [THREADS] [ROUNDS]`.
//!
//! Every round raises one symbol of the plan's network by one, as a decoder does whose cache grows by a token per run.

use engraft_engine::{Engine, container::Container};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = arguments.first().ok_or("which plan?")?;
    let number = |i: usize, default| arguments.get(i).map_or(Ok(default), |a| a.parse::<usize>());
    let (threads, rounds) = (number(1, 1)?, number(2, 200)?);
    let engine = Engine::load(Container::open(path.as_ref())?)?;
    let mut env = engine.network().representative_env();
    let steps = engine.tactics(&env, threads)?.len();
    println!("{} nodes, {steps} steps, {} symbols", engine.network().nodes().count(), env.len());
    for symbol in 0..env.len() {
        let name = engine.network().symbols()[symbol].name.clone();
        let start = env[symbol];
        let mut times = Vec::with_capacity(rounds);
        for round in 0..rounds {
            env[symbol] = start + 1 + round as i64;
            let now = Instant::now();
            let made = engine.specialize(&env, threads);
            times.push(now.elapsed());
            if let Err(e) = made {
                println!("{name}: {e}");
                break;
            }
        }
        env[symbol] = start;
        times.sort();
        println!(
            "{name}: median {:?}, least {:?}, most {:?}",
            times[times.len() / 2],
            times[0],
            times[times.len() - 1]
        );
    }
    Ok(())
}
