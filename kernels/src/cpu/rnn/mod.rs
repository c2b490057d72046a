//! Recurrent layers: the products with the inputs of all steps are one batched product; then each sequence runs step by
//! step, its state in the cache. Masked steps cost their share of the products and no more.

mod cell;
mod product;
#[cfg(test)]
mod tests;
mod tiles;

use crate::cpu::amx::product::RowProduct;
use crate::cpu::gemm::rows::RowMap;
use crate::cpu::simd::dispatch;
use crate::{Args, Fit, Isa, Kernel, KernelError, Problem, Reject, Tactic};
use cell::{Cell, Layout};
use engraft_network::ops::{Direction, Rnn, RnnKind};
use engraft_network::{DType, Op};
use product::{PANEL, Product};
use smallvec::SmallVec;
use std::ops::Range;

/// LSTM, GRU and simple recurrent layers of `f32`.
#[derive(Debug)]
pub struct Recurrent;

/// The family's rows of the catalog.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        use super::amx::tile::{Amx, Products::*};
        use tiles::TileRecurrent;
        static TILES: [TileRecurrent<Amx>; 4] = [
            TileRecurrent::new("rnn.tiles.bf16x3.amx", Three, "rnn.tiles.bf16x3", false),
            TileRecurrent::new("rnn.tiles.bf16x3.amx.states", Three, "rnn.tiles.bf16x3", true),
            TileRecurrent::new("rnn.tiles.bf16.amx", One, "rnn.tiles.bf16", false),
            TileRecurrent::new("rnn.tiles.bf16.amx.states", One, "rnn.tiles.bf16", true),
        ];
        static ALL: [&dyn Tactic; 5] = [&TILES[0], &TILES[1], &TILES[2], &TILES[3], &Recurrent];
        &ALL
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    &[&Recurrent]
}

/// Rows of the batched product that one piece of work computes.
const ROWS: usize = 32;
/// Panels of columns that one piece of work computes.
const PANELS: usize = 8;

struct RecurrentKernel {
    op: Rnn,
    layout: Layout,
    isa: Isa,
    steps: usize,
    batch: usize,
    width: usize,
    directions: usize,
    /// Strides of x over steps and batch, in elements.
    x: [isize; 2],
    operands: Operands,
    /// Whether w and r were packed in advance; a first phase packs the others.
    packed: [bool; 2],
    /// Products with the inputs and with the states that run on tiles.
    tiles: [Option<Box<dyn RowProduct>>; 2],
    /// Sequences of one direction that one task runs.
    group: usize,
    phases: SmallVec<[usize; 3]>,
}

/// Where the optional operands stand.
#[derive(Clone, Copy, Default)]
struct Operands {
    bias: Option<usize>,
    lens: Option<usize>,
    initial_h: Option<usize>,
    initial_c: Option<usize>,
    peephole: Option<usize>,
    mask: Option<usize>,
}

impl Operands {
    fn new(op: &Rnn) -> Operands {
        let mut next = 3;
        let mut take = |flag: bool| {
            flag.then(|| {
                next += 1;
                next - 1
            })
        };
        Operands {
            bias: take(op.bias),
            lens: take(op.sequence_lens),
            initial_h: take(op.initial_h),
            initial_c: take(op.initial_c),
            peephole: take(op.peephole),
            mask: take(op.mask),
        }
    }
}

fn op_of<'a>(p: &Problem<'a>) -> Result<&'a Rnn, Reject> {
    match p.op {
        Op::Rnn(op) => Ok(op),
        _ => Err(Reject::new("not a recurrent layer")),
    }
}

/// The operator, where its operands are such that kernels here take them.
fn accepted<'a>(p: &Problem<'a>) -> Result<&'a Rnn, Reject> {
    let op = op_of(p)?;
    let x = &p.inputs[0].desc;
    if x.dtype != DType::F32 {
        return Err(Reject::new(format!("a recurrent layer of {}", x.dtype)));
    }
    if p.inputs[1..3].iter().any(|o| o.constant.is_none() && !o.desc.is_dense()) {
        return Err(Reject::new("weights at strides"));
    }
    if op.hidden == 0 || x.shape[2] == 0 {
        return Err(Reject::new("an empty recurrent layer"));
    }
    if x.strides[2] != 1 && x.shape[2] != 1 {
        return Err(Reject::new("inputs at strides"));
    }
    let dense = |d: &crate::TensorDesc| d.is_dense();
    if !p.inputs[3..].iter().all(|o| dense(&o.desc)) || !p.outputs.iter().all(dense) {
        return Err(Reject::new("operands or results at strides"));
    }
    Ok(op)
}

/// Expected nanoseconds of the products with the inputs and of the steps, with vectors.
fn costs(op: &Rnn, p: &Problem<'_>) -> [f64; 2] {
    let x = &p.inputs[0].desc;
    let (steps, batch) = (x.shape[0] as f64, x.shape[1] as f64);
    let columns = (op.directions() * Layout::new(op).columns) as f64;
    let inputs = steps * batch * columns * x.shape[2] as f64 / 25.0 / p.threads as f64;
    let lanes = (p.threads as f64).min(batch * op.directions() as f64).max(1.0);
    [inputs, steps * batch * columns * (op.hidden as f64 / 12.0 + 0.7) / lanes]
}

/// Sequences of one direction that one task runs.
fn group(op: &Rnn, p: &Problem<'_>) -> usize {
    let batch = p.inputs[0].desc.shape[1];
    (batch * op.directions()).div_ceil(p.threads.max(1)).clamp(1, batch.max(1))
}

impl Tactic for Recurrent {
    fn id(&self) -> &'static str {
        "rnn.f32"
    }

    fn computes(&self) -> Option<DType> {
        Some(DType::F32)
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let op = accepted(p)?;
        let columns = (op.directions() * Layout::new(op).columns) as f64;
        let [inputs, states] = costs(op, p);
        let packed: f64 = [1, 2]
            .iter()
            .filter(|i| p.inputs[**i].constant.is_none())
            .map(|i| columns * p.inputs[*i].desc.shape[2] as f64)
            .sum();
        Ok(Fit { cost_ns: 500.0 + inputs + states + packed * 0.5 })
    }

    fn packing(&self, p: &Problem<'_>, input: usize) -> Option<&'static str> {
        (matches!(input, 1 | 2) && p.inputs[input].constant.is_some()).then_some("rnn.f32.panels32")
    }

    fn packing_moves(&self, p: &Problem<'_>, input: usize) -> bool {
        self.packing(p, input).is_some()
    }

    fn packed_bytes(&self, p: &Problem<'_>, input: usize) -> usize {
        op_of(p).map_or(0, |op| {
            let layout = Layout::new(op);
            op.directions() * layout.columns * p.inputs[input].desc.shape[2] * size_of::<f32>()
        })
    }

    fn pack(&self, p: &Problem<'_>, input: usize, out: &mut [u8]) {
        let (Ok(op), Some(weights)) = (op_of(p), p.inputs[input].constant) else { return };
        let layout = Layout::new(op);
        let depth = weights.shape()[2];
        assert_eq!(out.len(), self.packed_bytes(p, input), "packed operand of another size");
        // SAFETY: the tensor holds every row of the gates, `out` as many bytes as was checked.
        unsafe {
            let (from, to) = (weights.bytes().as_ptr().cast::<f32>(), out.as_mut_ptr().cast::<f32>());
            pack_panels(&layout, depth, from, to, 0..op.directions() * layout.columns / PANEL);
        }
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        let op = match op_of(p) {
            Ok(op) => op,
            Err(reason) => unreachable!("prepared without being accepted: {reason}"),
        };
        Box::new(RecurrentKernel::new(op, p))
    }
}

/// Writes panels `panels` (of all directions) of weights `[D, gates * hidden, depth]`, at any alignment, to `out`, which
/// holds all panels; columns between the gates are zeros.
///
/// # Safety
/// `from` is readable for all weights, `out` writable for the panels.
unsafe fn pack_panels(layout: &Layout, depth: usize, from: *const f32, out: *mut f32, panels: Range<usize>) {
    let each = layout.columns / PANEL;
    for panel in panels {
        let d = panel / each;
        for i in 0..PANEL {
            let column = panel % each * PANEL + i;
            let (gate, unit) = (column / layout.padded, column % layout.padded);
            let row = (d * layout.gates + gate) * layout.hidden + unit;
            for k in 0..depth {
                // SAFETY: rows of the gates are inside the weights; the panel is inside `out`.
                unsafe {
                    let x = if gate < layout.gates && unit < layout.hidden {
                        from.add(row * depth + k).read_unaligned()
                    } else {
                        0.0
                    };
                    out.add((panel * depth + k) * PANEL + i).write(x);
                }
            }
        }
    }
}

impl Kernel for RecurrentKernel {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    fn workspace_bytes(&self) -> usize {
        (self.gates_len() + self.weights_len(0) + self.weights_len(1)) * size_of::<f32>()
    }

    fn scratch_bytes(&self) -> usize {
        let tiles = |which: usize| self.tiles[which].as_ref().map_or(0, |t| t.scratch_bytes());
        tiles(0).max(self.sequence_bytes() + tiles(1))
    }

    unsafe fn run(&self, phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let last = self.phases.len() - 1;
        // SAFETY: passed on.
        unsafe {
            if phase == last {
                let groups = self.batch.div_ceil(self.group);
                let first = task % groups * self.group;
                return self.sequences(task / groups, first..(first + self.group).min(self.batch), args);
            }
            if phase + 1 == last {
                self.inputs(task, args);
            } else {
                self.pack_share(task, args);
            }
        }
        Ok(())
    }
}

impl RecurrentKernel {
    fn new(op: &Rnn, p: &Problem<'_>) -> RecurrentKernel {
        let x = &p.inputs[0].desc;
        let (steps, batch, directions) = (x.shape[0], x.shape[1], op.directions());
        let layout = Layout::new(op);
        let flops = 2.0 * (steps * batch * directions * layout.columns * x.shape[2]) as f64;
        let pieces = directions * (steps * batch).div_ceil(ROWS) * (layout.columns / PANEL).div_ceil(PANELS);
        let tasks = if flops < 2e5 { 1 } else { pieces.min(4 * p.threads) };
        let group = group(op, p);
        let packed = [1, 2].map(|i| p.inputs[i].constant.is_some());
        let mut phases = SmallVec::new();
        if packed != [true; 2] {
            phases.push((directions * layout.columns / PANEL).min(4 * p.threads.max(1)));
        }
        phases.extend([tasks.max(1), directions * batch.div_ceil(group)]);
        RecurrentKernel {
            op: op.clone(),
            layout,
            isa: p.isa,
            steps,
            batch,
            width: x.shape[2],
            directions,
            x: [x.strides[0], x.strides[1]],
            operands: Operands::new(op),
            packed,
            tiles: [None, None],
            group,
            phases,
        }
    }

    /// Rows of the states of a task, and of the products with them.
    fn state_rows(&self) -> (RowMap, RowMap) {
        let rows = |floats: usize| RowMap::uniform(self.group, floats as isize);
        (rows(self.layout.padded), rows(self.layout.columns))
    }

    /// Bytes of scratch that a task has for its sequences, before that of products on tiles.
    fn sequence_bytes(&self) -> usize {
        (self.layout.scratch(self.group) * size_of::<f32>()).next_multiple_of(64)
    }

    /// Floats of the products with all inputs, at the start of the workspace.
    fn gates_len(&self) -> usize {
        self.directions * self.steps * self.batch * self.layout.columns
    }

    fn depth(&self, which: usize) -> usize {
        if which == 0 { self.width } else { self.layout.hidden }
    }

    /// Floats of w (0) or r (1) that the workspace holds.
    fn weights_len(&self, which: usize) -> usize {
        if self.packed[which] { 0 } else { self.directions * self.layout.columns * self.depth(which) }
    }

    /// Where the panels of w (0) or r (1) begin.
    fn weights(&self, which: usize, args: &Args<'_>) -> *const f32 {
        if self.packed[which] {
            return args.inputs[1 + which].cast();
        }
        let before = self.gates_len() + if which == 1 { self.weights_len(0) } else { 0 };
        args.workspace.cast::<f32>().wrapping_add(before)
    }

    /// Packs a share of the weights that were not known in advance.
    ///
    /// # Safety
    /// See [`Kernel::run`].
    unsafe fn pack_share(&self, task: usize, args: &Args<'_>) {
        let (all, tasks) = (self.directions * self.layout.columns / PANEL, self.phases[0]);
        for which in (0..2).filter(|w| !self.packed[*w]) {
            let (from, to) = (args.inputs[1 + which].cast::<f32>(), self.weights(which, args).cast_mut());
            let panels = all * task / tasks..all * (task + 1) / tasks;
            // SAFETY: the weights are dense, the workspace has room for their panels.
            unsafe { pack_panels(&self.layout, self.depth(which), from, to, panels) };
        }
    }

    /// The products with the inputs of all steps, without biases: `[D, T * B, columns]` in the workspace.
    ///
    /// # Safety
    /// See [`Kernel::run`].
    unsafe fn inputs(&self, task: usize, args: &Args<'_>) {
        let rows = self.steps * self.batch;
        let blocks = rows.div_ceil(ROWS);
        let all = self.layout.columns / PANEL;
        let groups = all.div_ceil(PANELS);
        let total = self.directions * groups * blocks;
        let tasks = self.phases[self.phases.len() - 2];
        for piece in total * task / tasks..total * (task + 1) / tasks {
            let (d, rest) = (piece / (groups * blocks), piece % (groups * blocks));
            let (group, block) = (rest / blocks, rest % blocks);
            let panels = group * PANELS..((group + 1) * PANELS).min(all);
            let x = args.inputs[0].cast::<f32>();
            let block_rows = block * ROWS..((block + 1) * ROWS).min(rows);
            if let Some(tiles) = &self.tiles[0] {
                // SAFETY: rows of x, the direction's panels, and rows of the workspace.
                unsafe {
                    let weights = args.inputs[1].add(d * tiles.packed_bytes());
                    let out = args.workspace.cast::<f32>().add(d * rows * self.layout.columns);
                    tiles.run(x, block_rows, panels, weights, out, args.scratch);
                }
                continue;
            }
            // SAFETY: rows of x, the direction's panels, and rows of the workspace.
            unsafe {
                let row = |r: usize| {
                    x.offset((r / self.batch) as isize * self.x[0] + (r % self.batch) as isize * self.x[1])
                };
                let out = args.workspace.cast::<f32>().add(d * rows * self.layout.columns);
                let product = Product {
                    depth: self.width,
                    rows: block_rows,
                    panels,
                    row: &row,
                    weights: self.weights(0, args).add(d * self.layout.columns * self.width),
                    out,
                    out_row: self.layout.columns,
                };
                dispatch(self.isa, product);
            }
        }
    }

    /// Runs the sequences `group` of direction `d` from the first step to the last.
    ///
    /// # Safety
    /// See [`Kernel::run`].
    unsafe fn sequences(&self, d: usize, group: Range<usize>, args: &Args<'_>) -> Result<(), KernelError> {
        let Layout { hidden, padded, columns, .. } = self.layout;
        let backward = self.op.direction == Direction::Reverse || d == 1;
        let count = group.len();
        let input = |i: Option<usize>| i.map(|i| args.inputs[i].cast::<f32>());
        // SAFETY: operands, results and scratch have the sizes that `prepare` derived.
        unsafe {
            let mut memory = args.scratch.cast::<f32>();
            let mut take = |floats: usize| {
                let at = memory;
                memory = memory.add(floats);
                std::slice::from_raw_parts_mut(at, floats)
            };
            let (h, c) = (take(count * padded), take(count * padded));
            let sums = take(count * columns);
            let gated = take(count * padded);
            let biases = take(self.layout.biases());
            let peephole = take(3 * padded);
            h.fill(0.0);
            c.fill(0.0);
            gated.fill(0.0);
            self.layout.load_biases(&self.op, input(self.operands.bias), d, biases);
            peephole.fill(0.0);
            if let Some(p) = input(self.operands.peephole) {
                for i in 0..3 {
                    let from = std::slice::from_raw_parts(p.add((d * 3 + i) * hidden), hidden);
                    peephole[i * padded..i * padded + hidden].copy_from_slice(from);
                }
            }
            for (state, operand) in [(&mut *h, self.operands.initial_h), (&mut *c, self.operands.initial_c)] {
                if let Some(from) = input(operand) {
                    for (i, b) in group.clone().enumerate() {
                        let row = std::slice::from_raw_parts(from.add((d * self.batch + b) * hidden), hidden);
                        state[i * padded..i * padded + hidden].copy_from_slice(row);
                    }
                }
            }
            let length = |b: usize| match self.operands.lens {
                Some(i) => args.inputs[i].cast::<i32>().add(b).read_unaligned(),
                None => self.steps as i32,
            };
            for b in group.clone() {
                if !(0..=self.steps as i64).contains(&i64::from(length(b))) {
                    let text = format!("a sequence length of {} for {} steps", length(b), self.steps);
                    return Err(KernelError::Data(text));
                }
            }
            let mask = self.operands.mask.map(|i| args.inputs[i].cast::<u8>());
            let y = args.outputs[0].cast::<f32>();
            let place = |t: usize, b: usize| y.add(((t * self.directions + d) * self.batch + b) * hidden);
            let longest = group.clone().map(|b| length(b) as usize).max().unwrap_or(0);
            let states = States {
                kernel: self,
                weights: match &self.tiles[1] {
                    Some(tiles) => args.inputs[2].add(d * tiles.packed_bytes()),
                    None => self.weights(1, args).add(d * columns * hidden).cast(),
                },
                count,
                scratch: args.scratch.add(self.sequence_bytes()),
            };
            let activations = self.op.kind.activations();
            let cell = Cell {
                op: &self.op,
                layout: self.layout,
                activations: &self.op.activations[d * activations..(d + 1) * activations],
                biases,
                peephole,
            };
            for s in 0..longest {
                let first = self.layout.first_columns(&self.op);
                states.product(h, 0..first, sums);
                // The step of a sequence that is left to run, and whether the mask has it leave the state alone.
                let step = |i: usize| {
                    let (b, len) = (group.start + i, length(group.start + i) as usize);
                    (s < len).then(|| {
                        let t = if backward { len - 1 - s } else { s };
                        (t, mask.is_some_and(|mask| mask.add(t * self.batch + b).read() == 0))
                    })
                };
                let inputs = |i: usize| {
                    step(i).filter(|(_, masked)| !masked).map(|(t, _)| {
                        let row = (d * self.steps + t) * self.batch + group.start + i;
                        args.workspace.cast::<f32>().add(row * columns).cast_const()
                    })
                };
                if first < columns / PANEL {
                    // GRU: the candidate's product is with the state after the reset gate.
                    for i in 0..count {
                        if let Some(x) = inputs(i) {
                            let at = i * padded;
                            dispatch(
                                self.isa,
                                cell.reset(x, &sums[i * columns..], &h[at..], &mut gated[at..]),
                            );
                        }
                    }
                    states.product(gated, first..columns / PANEL, sums);
                }
                for i in 0..count {
                    let Some((t, _)) = step(i) else { continue };
                    let at = i * padded;
                    if let Some(x) = inputs(i) {
                        let (h, c) = (&mut h[at..at + padded], &mut c[at..at + padded]);
                        dispatch(self.isa, cell.step(x, &sums[i * columns..], h, c));
                    }
                    std::ptr::copy_nonoverlapping(h[at..].as_ptr(), place(t, group.start + i), hidden);
                }
            }
            for (i, b) in group.enumerate() {
                for t in length(b) as usize..self.steps {
                    std::slice::from_raw_parts_mut(place(t, b), hidden).fill(0.0);
                }
                let at = (d * self.batch + b) * hidden;
                std::ptr::copy_nonoverlapping(
                    h[i * padded..].as_ptr(),
                    args.outputs[1].cast::<f32>().add(at),
                    hidden,
                );
                if self.op.kind == RnnKind::Lstm {
                    let out = args.outputs[2].cast::<f32>().add(at);
                    std::ptr::copy_nonoverlapping(c[i * padded..].as_ptr(), out, hidden);
                }
            }
        }
        Ok(())
    }
}

/// Products of a task's states with the recurrent weights.
struct States<'a> {
    kernel: &'a RecurrentKernel,
    /// The direction's panels.
    weights: *const u8,
    /// Sequences.
    count: usize,
    /// Room for products on tiles.
    scratch: *mut u8,
}

impl States<'_> {
    /// Some panels of the products.
    ///
    /// # Safety
    /// `state` and `sums` hold the rows of all sequences, the weights are packed.
    unsafe fn product(&self, state: &[f32], panels: Range<usize>, sums: &mut [f32]) {
        let Layout { hidden, padded, columns, .. } = self.kernel.layout;
        let (rows, state, out) = (0..self.count, state.as_ptr(), sums.as_mut_ptr());
        if let Some(tiles) = &self.kernel.tiles[1] {
            // SAFETY: by the caller's contract; the scratch ends with what the product asked for.
            return unsafe { tiles.run(state, rows, panels, self.weights, out, self.scratch) };
        }
        let row = |r: usize| state.wrapping_add(r * padded);
        let weights = self.weights.cast();
        dispatch(
            self.kernel.isa,
            Product { depth: hidden, rows, panels, row: &row, weights, out, out_row: columns },
        );
    }
}
