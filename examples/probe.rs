use engraft::*;
use engraft_network::{AlignedBytes, Tensor};
use std::collections::BTreeMap;
use std::time::Instant;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let dir = std::path::PathBuf::from(&a[2]);
    let threads: usize = a.get(3).map_or(1, |s| s.parse().unwrap());
    let level: &str = a.get(4).map_or("0", |s| s.as_str());
    let t0 = Instant::now();
    let model = engraft_subgraph::onnx::read_model(&a[1]).unwrap();
    let mut o = Options::default();
    o.set("partition_policy", "profit").unwrap();
    o.set("engine_cache_enable", "0").unwrap();
    o.set("builder_optimization_level", level).unwrap();
    let s = Session::with_threads(o, threads);
    let t1 = Instant::now();
    let p = s.partition(&model.graph);
    let t2 = Instant::now();
    println!("{}", p.report);
    println!("read {:?} partition {:?}", t1 - t0, t2 - t1);
    let mut values: BTreeMap<u32, Tensor> = BTreeMap::new();
    for v in &model.graph.inputs {
        let hv = model.graph.value(*v);
        let f = dir.join(format!("in_{}.bin", hv.name));
        let Ok(bytes) = std::fs::read(&f) else {
            println!("no input {}", hv.name);
            continue;
        };
        let shape: Vec<usize> = std::fs::read_to_string(dir.join(format!("in_{}.shape", hv.name)))
            .unwrap()
            .split_whitespace()
            .map(|x| x.parse().unwrap())
            .collect();
        let mut b = AlignedBytes::zeroed(bytes.len());
        b.as_mut_slice().copy_from_slice(&bytes);
        values.insert(v.0, Tensor::new(hv.dtype.unwrap(), &shape, b.into()).unwrap());
    }
    let pool = engraft_engine::pool::Pool::new(threads);
    let mut total = 0.0;
    for seg in &p.segments {
        let t = Instant::now();
        let (e, _) = match s.build(&seg.network) {
            Ok(x) => x,
            Err(e) => {
                println!("BUILD FAILED {e} {:?}", std::error::Error::source(&e));
                return;
            }
        };
        println!("segment {} build {:?}", seg.name, t.elapsed());
        if std::env::var_os("DUMP").is_some() {
            for (_, n) in e.network().nodes() {
                println!(
                    "{} {} <- {:?} : {}",
                    n.outputs[0],
                    n.op.name(),
                    n.inputs,
                    e.network().ty(n.outputs[0])
                );
            }
            for l in e.fusion_report() {
                println!("{l}");
            }
        }
        let ins: Option<Vec<Tensor>> = seg
            .inputs
            .iter()
            .map(|i| values.get(&i.0).cloned().or_else(|| model.graph.value(*i).constant.clone()))
            .collect();
        let Some(ins) = ins else {
            println!("inputs missing");
            continue;
        };
        let outs = match e.run_tensors(&ins, &pool) {
            Ok(o) => o,
            Err(x) => {
                println!("RUN FAILED {x} {:?}", std::error::Error::source(&x));
                return;
            }
        };
        let refs: Vec<TensorRef> = ins.iter().map(TensorRef::of).collect();
        let mut times = vec![];
        for _ in 0..15 {
            let t = Instant::now();
            e.run_tensors(&ins, &pool).unwrap();
            times.push(t.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        total += times[7];
        if std::env::var_os("PROFILE").is_some() {
            // SAFETY: test
            let _ = unsafe { e.profile(&refs, &mut OwnedOutputs::default()) };
            // SAFETY: the inputs are tensors of their own, and the outputs are freshly allocated.
            let mut l = unsafe { e.profile(&refs, &mut OwnedOutputs::default()) }.unwrap();
            l.sort_by_key(|x| std::cmp::Reverse(x.nanoseconds));
            let sum: u64 = l.iter().map(|x| x.nanoseconds).sum();
            println!("serial sum {:.3} ms over {} steps", sum as f64 / 1e6, l.len());
            for x in l.iter().take(25) {
                println!(
                    "{:9.1} us {:8.1} GF/s {:8.1} GB/s  {:14} {:34} {}",
                    x.nanoseconds as f64 / 1e3,
                    x.flops / x.nanoseconds as f64,
                    x.bytes / x.nanoseconds as f64,
                    x.op,
                    x.tactic,
                    x.name.chars().take(90).collect::<String>()
                );
            }
            let mut by: BTreeMap<(String, String), (u64, usize)> = BTreeMap::new();
            for x in &l {
                let e = by.entry((x.op.clone(), x.tactic.clone())).or_default();
                e.0 += x.nanoseconds;
                e.1 += 1;
            }
            let mut by: Vec<_> = by.into_iter().collect();
            by.sort_by_key(|x| std::cmp::Reverse(x.1.0));
            for (k, v) in by {
                println!("   {:9.3} ms {:4} x {:16} {}", v.0 as f64 / 1e6, v.1, k.0, k.1);
            }
        }
        for (v, t) in seg.outputs.iter().zip(outs) {
            values.insert(v.0, t);
        }
    }
    for v in &model.graph.outputs {
        let hv = model.graph.value(*v);
        if let Some(t) = values.get(&v.0) {
            std::fs::write(dir.join(format!("out_{}.bin", hv.name)), t.bytes()).unwrap();
        } else {
            println!("no output {}", hv.name)
        }
    }
    println!("TOTAL {total:.3} ms");
}
