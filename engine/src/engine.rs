//! A loaded plan, ready to run: immutable but for its table of specializations.

use crate::arena::Buffer;
use crate::container::Container;
use crate::error::{PlanError, RunError};
use crate::exec::{Failure, Observer, RunState};
use crate::plan;
use crate::program::Program;
use crate::specialize::{Specialization, specialize};
use arc_swap::ArcSwap;
use engraft_kernels::{Isa, Workers};
use engraft_network::{DType, Def, Network, SymbolSource, Tensor, TensorType, ValueId};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// Specializations kept per engine; the least recently used one goes first.
const TABLE: usize = 32;
/// Contexts kept for reuse; more runs at once than this allocate their own.
const CONTEXTS: usize = 64;

/// A tensor that the caller owns: dense, row-major, valid for the duration of the call.
#[derive(Clone, Copy, Debug)]
pub struct TensorRef<'a> {
    pub dtype: DType,
    pub shape: &'a [usize],
    pub data: *const u8,
}

impl<'a> TensorRef<'a> {
    pub fn of(tensor: &'a Tensor) -> TensorRef<'a> {
        TensorRef { dtype: tensor.dtype(), shape: tensor.shape(), data: tensor.bytes().as_ptr() }
    }
}

/// Gives the memory of an engine's results.
pub trait OutputAllocator {
    /// Memory for output `index`, dense and row-major, of exactly this shape; called once per output and run. It stays
    /// valid until the run returns. `None` fails the run.
    fn allocate(&mut self, index: usize, dtype: DType, shape: &[usize]) -> Option<*mut u8>;
}

/// Name and symbolic type of an input or output.
#[derive(Clone, Debug)]
pub struct Binding {
    pub name: String,
    pub ty: TensorType,
}

/// Time and identity of one step of a profiled run.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LayerTime {
    /// The node's name: that of the host's node(s) it came from.
    pub name: String,
    pub op: String,
    pub tactic: String,
    pub nanoseconds: u64,
    pub flops: f64,
    /// Bytes of the operands and results.
    pub bytes: f64,
}

/// See the module. Shared by any number of threads; runs take no lock and, once a shape has been seen, allocate nothing.
pub struct Engine {
    program: Program,
    inputs: Vec<Binding>,
    outputs: Vec<Binding>,
    fusion: Vec<String>,
    /// Indices of the symbols whose values a run finds out.
    told_by_data: Vec<usize>,
    table: ArcSwap<Vec<Arc<Entry>>>,
    clock: AtomicU64,
    contexts: [AtomicPtr<Context>; CONTEXTS],
    /// Keeps the plan's memory.
    container: Container,
}

struct Entry {
    stage: usize,
    spec: Specialization,
}

/// What one run at a time needs.
struct Context {
    run: RunState,
    env: Vec<i64>,
    externals: Vec<*mut u8>,
    crossings: Vec<Buffer>,
}

// SAFETY: the pointers are set at the start of each run and only used during it.
unsafe impl Send for Context {}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("name", &self.program.network.name)
            .field("inputs", &self.inputs)
            .field("outputs", &self.outputs)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Loads a plan for the best instruction set that may be used here. Errors: a plan of another version or for another
    /// kind of machine, or an inconsistent one.
    pub fn load(container: Container) -> Result<Arc<Engine>, PlanError> {
        Engine::load_for(container, Isa::best())
    }

    /// [`Engine::load`] for a given instruction set.
    pub fn load_for(container: Container, isa: Isa) -> Result<Arc<Engine>, PlanError> {
        let (program, fusion) = plan::read(&container, isa)?;
        let network = &program.network;
        let data = |s: &engraft_network::Symbol| {
            matches!(s.source, SymbolSource::Data { .. } | SymbolSource::DataElement { .. })
        };
        let told_by_data = (0..network.symbols().len()).filter(|i| data(&network.symbols()[*i])).collect();
        let bind = |v: &ValueId, name: &str| Binding { name: name.to_owned(), ty: network.ty(*v).clone() };
        let inputs = network.inputs().iter().map(|v| bind(v, &network.value(*v).name)).collect();
        let outputs = network.outputs().iter().enumerate();
        let outputs = outputs.map(|(i, v)| bind(v, network.output_name(i))).collect();
        Ok(Arc::new(Engine {
            program,
            inputs,
            outputs,
            fusion,
            told_by_data,
            table: ArcSwap::from_pointee(Vec::new()),
            clock: AtomicU64::new(1),
            contexts: [const { AtomicPtr::new(std::ptr::null_mut()) }; CONTEXTS],
            container,
        }))
    }

    pub fn inputs(&self) -> &[Binding] {
        &self.inputs
    }

    pub fn outputs(&self) -> &[Binding] {
        &self.outputs
    }

    /// The plan that the engine was loaded from.
    pub fn plan(&self) -> &Container {
        &self.container
    }

    /// The plan without packed weights that can be made of others, which [`Engine::load`] then makes: smaller, and slower to
    /// load where the whole plan is mapped. `None`: the plan is as small already.
    pub fn compact_plan(&self) -> Result<Option<Container>, PlanError> {
        plan::compact(&self.container)
    }

    /// The optimized network.
    pub fn network(&self) -> &Network {
        &self.program.network
    }

    /// What the passes did, line by line.
    pub fn fusion_report(&self) -> &[String] {
        &self.fusion
    }

    /// Runs the engine: reads `inputs`, writes into what `outputs` allocates, on `workers`.
    ///
    /// # Safety
    /// Every input's memory is readable for its type and shape, every allocated output's writable, and no output overlaps
    /// an input or another output.
    pub unsafe fn execute(
        &self,
        inputs: &[TensorRef<'_>],
        outputs: &mut dyn OutputAllocator,
        workers: &dyn Workers,
    ) -> Result<(), RunError> {
        let mut context = self.take_context();
        // SAFETY: by this function's contract.
        let result = unsafe { self.run(&mut context, inputs, outputs, workers, None) };
        self.give_back(context);
        result
    }

    /// Runs on the calling thread and says how long each step took.
    ///
    /// # Safety
    /// As [`Engine::execute`].
    pub unsafe fn profile(
        &self,
        inputs: &[TensorRef<'_>],
        outputs: &mut dyn OutputAllocator,
    ) -> Result<Vec<LayerTime>, RunError> {
        let mut context = self.take_context();
        let log = Log(std::cell::RefCell::new(Vec::new()));
        // SAFETY: by this function's contract.
        let result = unsafe { self.run(&mut context, inputs, outputs, &engraft_kernels::Serial, Some(&log)) };
        let env = context.env.clone();
        self.give_back(context);
        result?;
        let steps = log.0.into_inner();
        let table = self.table.load();
        let mut layers = Vec::with_capacity(steps.len());
        for (k, time) in steps {
            let Some(entry) = table.iter().find(|e| e.spec.env == env && e.spec.threads == 1) else {
                continue;
            };
            let Some(step) = entry.spec.schedule.steps.get(k) else { continue };
            let node = self.program.node(step.layer.node);
            let (flops, bytes) = self
                .program
                .with_dense_problem(step.layer.node, &env, 1, |p| {
                    let i: Vec<&[usize]> = p.inputs.iter().map(|o| &o.desc.shape[..]).collect();
                    let o: Vec<&[usize]> = p.outputs.iter().map(|o| &o.shape[..]).collect();
                    let descs = p.inputs.iter().map(|o| &o.desc).chain(p.outputs);
                    (p.op.flops(&i, &o), descs.map(|d| d.dense_bytes() as f64).sum())
                })
                .unwrap_or((0.0, 0.0));
            layers.push(LayerTime {
                name: node.map_or_else(String::new, |n| n.name.clone()),
                op: node.map_or("copy", |n| n.op.name()).to_owned(),
                tactic: step.layer.tactic.to_owned(),
                nanoseconds: time.as_nanos() as u64,
                flops,
                bytes,
            });
        }
        Ok(layers)
    }

    /// The tactic of every step at the given symbol values: name, operator, tactic.
    pub fn tactics(&self, env: &[i64], threads: usize) -> Result<Vec<(String, String, String)>, RunError> {
        let mut all = Vec::new();
        for stage in 0..self.program.stages.len() {
            let entry = self.specialization(stage, env, threads)?;
            for s in &entry.spec.schedule.steps {
                let node = self.program.node(s.layer.node);
                all.push((
                    node.map_or_else(String::new, |n| n.name.clone()),
                    node.map_or("copy", |n| n.op.name()).to_owned(),
                    s.layer.tactic.to_owned(),
                ));
            }
        }
        Ok(all)
    }

    /// Makes the engine ready for symbol values, as the first run with them would. Returns the bytes of activation memory that
    /// such a run takes.
    pub fn specialize(&self, env: &[i64], threads: usize) -> Result<usize, RunError> {
        let mut most = 0;
        for stage in 0..self.program.stages.len() {
            most = most.max(self.specialization(stage, env, threads)?.spec.schedule.arena_bytes);
        }
        Ok(most)
    }

    unsafe fn run(
        &self,
        c: &mut Context,
        inputs: &[TensorRef<'_>],
        outputs: &mut dyn OutputAllocator,
        workers: &dyn Workers,
        observer: Option<&dyn Observer>,
    ) -> Result<(), RunError> {
        if inputs.len() != self.inputs.len() {
            return Err(RunError::InputCount { want: self.inputs.len(), got: inputs.len() });
        }
        for (t, b) in inputs.iter().zip(&self.inputs) {
            if t.dtype != b.ty.dtype {
                return Err(RunError::InputType { name: b.name.clone(), want: b.ty.dtype, got: t.dtype });
            }
        }
        self.program
            .network
            .bind(
                &|i| inputs[i].shape,
                // SAFETY: the input's memory is readable for its type and shape; `bind` asks for elements inside it.
                &|i, k| unsafe { element(inputs[i].dtype, inputs[i].data, k) },
                &mut c.env,
            )
            .map_err(|e| self.bind_error(e))?;
        // What data tells of this run is not known yet; what it told of the last one must not select a specialization.
        for symbol in &self.told_by_data {
            c.env[*symbol] = 0;
        }
        for (e, t) in c.externals.iter_mut().zip(inputs) {
            *e = t.data.cast_mut();
        }
        let n_in = inputs.len();
        let threads = workers.threads().max(1);
        for stage in 0..self.program.stages.len() {
            let entry = self.specialization(stage, &c.env, threads)?;
            let spec = &entry.spec;
            for (index, dtype, shape) in &spec.outputs {
                let Some(p) = outputs.allocate(*index as usize, *dtype, shape) else {
                    let bytes = dtype.bytes(shape.iter().product());
                    return Err(RunError::Output { index: *index as usize, bytes });
                };
                c.externals[n_in + *index as usize] = p;
            }
            for (k, bytes) in &spec.crossings {
                let buffer = &mut c.crossings[*k as usize];
                buffer.reserve(*bytes);
                c.externals[n_in + self.outputs.len() + *k as usize] = buffer.as_ptr();
            }
            // SAFETY: inputs and outputs by the caller's contract; crossing buffers were reserved above or by an
            // earlier stage, whose sizes still hold because symbols never change during a run.
            unsafe { c.run.run(&spec.schedule, &c.externals, workers, observer) }
                .map_err(|f| self.failure(spec, f))?;
            self.end_stage(stage, c, inputs)?;
        }
        Ok(())
    }

    /// Runs the stage's dynamic nodes and learns the symbols that they and the stage's shape tensors tell.
    fn end_stage(&self, stage: usize, c: &mut Context, inputs: &[TensorRef<'_>]) -> Result<(), RunError> {
        let net = &self.program.network;
        let stage = &self.program.stages[stage];
        for id in &stage.dynamic {
            let Some(node) = self.program.node(*id) else { continue };
            let fail = |reason: String| RunError::Shape { node: node.name.clone(), reason };
            let mut operands = Vec::with_capacity(node.inputs.len());
            for v in &node.inputs {
                operands.push(self.materialize(*v, c, inputs).map_err(&fail)?);
            }
            let results = node.op.eval(&operands, &c.env).map_err(|e| fail(e.to_string()))?;
            for (output, (v, t)) in node.outputs.iter().zip(&results).enumerate() {
                for (i, s) in net.symbols().iter().enumerate() {
                    if let SymbolSource::Data { node, output: o, axis } = s.source
                        && node == *id
                        && o as usize == output
                    {
                        c.env[i] = t.shape()[axis as usize] as i64;
                    }
                }
                let Some(k) = self.program.crossing[v.index()] else { continue };
                let buffer = &mut c.crossings[k as usize];
                buffer.reserve(t.bytes().len().max(1));
                // SAFETY: just reserved.
                unsafe {
                    std::ptr::copy_nonoverlapping(t.bytes().as_ptr(), buffer.as_ptr(), t.bytes().len())
                };
                c.externals[inputs.len() + self.outputs.len() + k as usize] = buffer.as_ptr();
            }
        }
        for (symbol, v, index) in &stage.elements {
            c.env[symbol.0 as usize] = self
                .element_of(*v, *index as usize, c, inputs)
                .map_err(|reason| RunError::Shape { node: net.value(*v).name.clone(), reason })?;
        }
        Ok(())
    }

    /// One element of a value that crosses stages, which a shape depends on.
    fn element_of(
        &self,
        v: ValueId,
        index: usize,
        c: &Context,
        inputs: &[TensorRef<'_>],
    ) -> Result<i64, String> {
        let ty = self.program.network.ty(v);
        let count = ty.shape.iter().map(|d| d.eval(&c.env)).fold(1, i64::wrapping_mul);
        if index as i64 >= count {
            return Err(format!("a shape wants element {index} of {count}"));
        }
        if let Some(t) = self.program.network.constant(v) {
            return Ok(t.get_i64(index));
        }
        let data = self.crossed(v, ty.dtype.bytes(index + 1), c, inputs)?;
        // SAFETY: an input holds as many elements as its shape says; a buffer's length was checked.
        Ok(unsafe { element(ty.dtype, data, index) })
    }

    /// Where a value that crosses stages lies: an input, or a buffer of at least `bytes` bytes.
    fn crossed(
        &self,
        v: ValueId,
        bytes: usize,
        c: &Context,
        inputs: &[TensorRef<'_>],
    ) -> Result<*const u8, String> {
        match (self.program.network.value(v).def, self.program.crossing[v.index()]) {
            (Def::Input(k), _) => Ok(inputs[k as usize].data),
            (_, Some(k)) if c.crossings[k as usize].len() >= bytes => Ok(c.crossings[k as usize].as_ptr()),
            (_, Some(_)) => Err("its buffer is too small".to_owned()),
            _ => Err("it is not kept across stages".to_owned()),
        }
    }

    /// A copy of a value that crosses stages, as a tensor.
    fn materialize(&self, v: ValueId, c: &Context, inputs: &[TensorRef<'_>]) -> Result<Tensor, String> {
        let net = &self.program.network;
        let ty = net.ty(v);
        if let Some(t) = net.constant(v) {
            return Ok(t.clone());
        }
        let shape = engraft_network::ops::eval_shape(&ty.shape, &c.env).map_err(|e| e.to_string())?;
        let bytes = ty.dtype.bytes(shape.iter().product());
        if bytes == 0 {
            return Tensor::zeros(ty.dtype, &shape).map_err(|e| e.to_string());
        }
        let ptr = self.crossed(v, bytes, c, inputs)?;
        // SAFETY: an input's memory is readable by `execute`'s contract; a crossing buffer has the length checked above.
        let slice = unsafe { std::slice::from_raw_parts(ptr, bytes) };
        Tensor::from_bytes(ty.dtype, &shape, slice).map_err(|e| e.to_string())
    }

    fn specialization(&self, stage: usize, env: &[i64], threads: usize) -> Result<Arc<Entry>, RunError> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let matches = |e: &Entry| e.stage == stage && e.spec.threads as usize == threads && e.spec.env == env;
        if let Some(e) = self.table.load().iter().find(|e| matches(e)) {
            e.spec.last_used.store(now, Ordering::Relaxed);
            return Ok(e.clone());
        }
        let earlier = self.nearest(stage, threads);
        let earlier = earlier.as_deref().map(|e| &e.spec);
        let spec = specialize(&self.program, stage, env, threads, earlier)?;
        spec.last_used.store(now, Ordering::Relaxed);
        let entry = Arc::new(Entry { stage, spec });
        self.table.rcu(|old| {
            if old.iter().any(|e| matches(e)) {
                return old.as_ref().clone();
            }
            let mut new = old.as_ref().clone();
            let room = TABLE.max(2 * self.program.stages.len());
            if new.len() >= room
                && let Some(i) = (0..new.len()).min_by_key(|i| new[*i].spec.last_used.load(Ordering::Relaxed))
            {
                new.swap_remove(i);
            }
            new.push(entry.clone());
            new
        });
        Ok(entry)
    }

    /// The specialization of the stage that was used last: a new one has most in common with it.
    fn nearest(&self, stage: usize, threads: usize) -> Option<Arc<Entry>> {
        let table = self.table.load();
        let alike = table.iter().filter(|e| e.stage == stage && e.spec.threads as usize == threads);
        alike.max_by_key(|e| e.spec.last_used.load(Ordering::Relaxed)).cloned()
    }

    fn failure(&self, spec: &Specialization, f: Failure) -> RunError {
        let name = |step: u32| {
            let s = &spec.schedule.steps[step as usize];
            (self.program.node(s.layer.node).map_or_else(String::new, |n| n.name.clone()), s.layer.tactic)
        };
        match f {
            Failure::Kernel { step, source } => {
                let (node, tactic) = name(step);
                RunError::Kernel { node, tactic, source }
            }
            Failure::Panic { step } => RunError::Panic { node: name(step).0 },
        }
    }

    fn bind_error(&self, e: engraft_network::BindError) -> RunError {
        let name = e.input().and_then(|i| self.inputs.get(i)).map_or_else(String::new, |b| b.name.clone());
        RunError::InputShape { name, reason: e.to_string() }
    }

    fn take_context(&self) -> Box<Context> {
        for slot in &self.contexts {
            if slot.load(Ordering::Relaxed).is_null() {
                continue;
            }
            let p = slot.swap(std::ptr::null_mut(), Ordering::Acquire);
            if !p.is_null() {
                // SAFETY: every non-null pointer in a slot came from `Box::into_raw`, and the swap made it ours alone.
                return unsafe { Box::from_raw(p) };
            }
        }
        let net = &self.program.network;
        Box::new(Context {
            run: RunState::new(),
            env: vec![0; net.symbols().len()],
            externals: vec![
                std::ptr::null_mut();
                self.inputs.len() + self.outputs.len() + self.program.crossings
            ],
            crossings: (0..self.program.crossings).map(|_| Buffer::empty()).collect(),
        })
    }

    fn give_back(&self, context: Box<Context>) {
        let p = Box::into_raw(context);
        for slot in &self.contexts {
            if slot.compare_exchange(std::ptr::null_mut(), p, Ordering::Release, Ordering::Relaxed).is_ok() {
                return;
            }
        }
        // SAFETY: no slot took it, so it is still ours.
        drop(unsafe { Box::from_raw(p) });
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for slot in &mut self.contexts {
            let p = *slot.get_mut();
            if !p.is_null() {
                // SAFETY: as in `take_context`; nobody else holds the engine.
                drop(unsafe { Box::from_raw(p) });
            }
        }
    }
}

struct Log(std::cell::RefCell<Vec<(usize, std::time::Duration)>>);

impl Observer for Log {
    fn step(&self, index: usize, time: std::time::Duration) {
        self.0.borrow_mut().push((index, time));
    }
}

/// # Safety
/// `data` holds more than `index` elements of `dtype`.
unsafe fn element(dtype: DType, data: *const u8, index: usize) -> i64 {
    macro_rules! read {
        ($t:ty) => {
            // SAFETY: by this function's contract.
            unsafe { data.cast::<$t>().add(index).read_unaligned() as i64 }
        };
    }
    match dtype {
        DType::I64 | DType::U64 => read!(i64),
        DType::I32 => read!(i32),
        DType::U32 => read!(u32),
        DType::I16 => read!(i16),
        DType::U16 => read!(u16),
        DType::I8 => read!(i8),
        DType::U8 | DType::Bool => read!(u8),
        DType::F32 => read!(f32),
        DType::F64 => read!(f64),
        _ => 0,
    }
}

/// Outputs as tensors of their own: for tests, the command line and other callers that have no memory ready.
#[derive(Default)]
pub struct OwnedOutputs(Vec<Option<(DType, Vec<usize>, engraft_network::AlignedBytes)>>);

impl OutputAllocator for OwnedOutputs {
    fn allocate(&mut self, index: usize, dtype: DType, shape: &[usize]) -> Option<*mut u8> {
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        let bytes = engraft_network::AlignedBytes::zeroed(dtype.bytes(shape.iter().product()));
        let slot = self.0[index].insert((dtype, shape.to_vec(), bytes));
        Some(slot.2.as_mut_slice().as_mut_ptr())
    }
}

impl OwnedOutputs {
    /// The results of a run that succeeded, in the order of the engine's outputs.
    pub fn into_tensors(self) -> Vec<Tensor> {
        self.0
            .into_iter()
            .flatten()
            .filter_map(|(dtype, shape, bytes)| Tensor::new(dtype, &shape, bytes.into()).ok())
            .collect()
    }
}

impl Engine {
    /// [`Engine::execute`] on tensors.
    pub fn run_tensors(&self, inputs: &[Tensor], workers: &dyn Workers) -> Result<Vec<Tensor>, RunError> {
        let refs: Vec<TensorRef<'_>> = inputs.iter().map(TensorRef::of).collect();
        let mut outputs = OwnedOutputs::default();
        // SAFETY: tensors hold what their type and shape say; `OwnedOutputs` allocates apart from them.
        unsafe { self.execute(&refs, &mut outputs, workers)? };
        Ok(outputs.into_tensors())
    }
}
