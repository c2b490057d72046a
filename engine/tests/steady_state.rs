//! Once a shape has been seen, runs allocate nothing: from many threads at once, on the engine's own pool and without one.

use engraft_engine::pool::Pool;
use engraft_engine::{Builder, BuilderConfig, Engine, OutputAllocator, TensorRef};
use engraft_kernels::{Serial, Workers};
use engraft_network::{BinaryOp, DType, Dim, Network, SymbolSource, Tensor, TensorType, ops};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

/// Counts what all threads allocate while it is armed.
struct Counting;

static ARMED: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

fn count() {
    if ARMED.load(Ordering::SeqCst) {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: everything is the system allocator's; counting touches no memory that it hands out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: by the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: by the caller's contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: by the caller's contract.
        unsafe { System.realloc(ptr, layout, size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: by the caller's contract.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const THREADS: usize = 8;
const RUNS: usize = 10_000;

fn ramp(shape: &[usize]) -> Tensor {
    let data: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i % 17) as f32 * 0.1 - 0.8).collect();
    Tensor::from_slice(shape, &data).unwrap()
}

/// A convolution, products with one constant and with two dynamic operands, a softmax, a concat, and copies in and out.
fn network() -> Network {
    let mut net = Network::new("steady");
    let n = Dim::symbol(net.add_symbol("N", SymbolSource::InputDim { input: 0, axis: 1 }));
    let x = net.add_input("x", TensorType::new(DType::F32, [1.into(), n.clone(), 6.into(), 8.into()]));
    let w = net.add_constant("w", ramp(&[3, 3, 8, 8]));
    let conv = ops::Conv {
        strides: vec![1, 1],
        dilations: vec![1, 1],
        padding: ops::Padding::Explicit { begin: vec![1, 1], end: vec![1, 1] },
        groups: 1,
        epilogue: ops::Epilogue::default(),
    };
    let y = net.add("conv", conv.into(), &[x, w]).unwrap();
    let flat = net.add("flat", ops::Reshape { shape: vec![n.clone(), 48.into()] }.into(), &[y]).unwrap();
    let w = net.add_constant("w2", ramp(&[48, 32]));
    let q = net.add("q", ops::MatMul::default().into(), &[flat, w]).unwrap();
    let scores = ops::MatMul { trans_b: true, ..Default::default() };
    let scores = net.add("scores", scores.into(), &[q, q]).unwrap();
    let p = net.add("p", ops::Softmax { axis: 1, log: false }.into(), &[scores]).unwrap();
    let o = net.add("o", ops::MatMul::default().into(), &[p, q]).unwrap();
    let sum = net.add("sum", ops::Binary { op: BinaryOp::Add }.into(), &[o, q]).unwrap();
    let both = net.add("both", ops::Concat { axis: 1 }.into(), &[o, sum]).unwrap();
    net.set_outputs(vec![both, flat]);
    net
}

/// Memory for the outputs, made beforehand. While `together` is there, all threads meet in the middle of their runs, so that
/// each has a context of its own.
struct Ready<'a> {
    buffers: [Vec<u8>; 2],
    together: Option<&'a Barrier>,
}

impl OutputAllocator for Ready<'_> {
    fn allocate(&mut self, index: usize, dtype: DType, shape: &[usize]) -> Option<*mut u8> {
        if let (0, Some(barrier)) = (index, self.together) {
            barrier.wait();
        }
        let fits = dtype.bytes(shape.iter().product()) <= self.buffers[index].len();
        fits.then(|| self.buffers[index].as_mut_ptr())
    }
}

fn allocations_of(engine: &Engine, workers: &dyn Workers, sizes: &[usize]) -> usize {
    let (together, phase) = (&Barrier::new(THREADS), &Barrier::new(THREADS + 1));
    ALLOCATIONS.store(0, Ordering::SeqCst);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let inputs: Vec<Tensor> = sizes.iter().map(|n| ramp(&[1, *n, 6, 8])).collect();
                let most = sizes.iter().max().unwrap() * 64 * 4;
                let mut outputs = Ready { buffers: [vec![0; most], vec![0; most]], together: Some(together) };
                for input in inputs.iter().chain(&inputs) {
                    // SAFETY: the tensor holds what its type and shape say; outputs are memory of their own.
                    unsafe { engine.execute(&[TensorRef::of(input)], &mut outputs, workers) }.unwrap();
                }
                outputs.together = None;
                phase.wait();
                phase.wait();
                for run in 0..RUNS / THREADS {
                    let input = TensorRef::of(&inputs[(run + thread) % inputs.len()]);
                    // SAFETY: as above.
                    unsafe { engine.execute(&[input], &mut outputs, workers) }.unwrap();
                }
                phase.wait();
                phase.wait();
            });
        }
        phase.wait();
        ARMED.store(true, Ordering::SeqCst);
        phase.wait();
        phase.wait();
        ARMED.store(false, Ordering::SeqCst);
        phase.wait();
    });
    ALLOCATIONS.load(Ordering::SeqCst)
}

#[test]
fn runs_allocate_nothing() {
    let pool = Pool::new(2);
    for workers in [&Serial as &dyn Workers, &pool] {
        let threads = workers.threads();
        let config = BuilderConfig { threads, optimization_level: 0, ..BuilderConfig::default() };
        let engine: Arc<Engine> = Builder::new(&config).build_engine(network()).unwrap();
        assert_eq!(allocations_of(&engine, workers, &[5, 64, 33]), 0, "on {threads} threads");
    }
    // The counter counts.
    ARMED.store(true, Ordering::SeqCst);
    drop(std::hint::black_box(Box::new(1u8)));
    ARMED.store(false, Ordering::SeqCst);
    assert!(ALLOCATIONS.load(Ordering::SeqCst) > 0);
}
