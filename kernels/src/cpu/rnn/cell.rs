//! The cells: what makes the next state of the sums that the products give.

use super::product::PANEL;
use crate::cpu::math;
use crate::cpu::simd::{Simd, Task};
use engraft_network::ops::{Activation, Rnn, RnnKind};

/// How units and gates lie in rows: each gate begins at a multiple of 16 columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub hidden: usize,
    /// Columns of a gate.
    pub padded: usize,
    pub gates: usize,
    /// Columns of all gates, a multiple of the panels'.
    pub columns: usize,
}

impl Layout {
    pub fn new(op: &Rnn) -> Layout {
        let (hidden, gates) = (op.hidden, op.kind.gates());
        let padded = hidden.next_multiple_of(16);
        Layout { hidden, padded, gates, columns: (gates * padded).next_multiple_of(PANEL) }
    }

    /// Floats of scratch for running `count` sequences.
    pub fn scratch(&self, count: usize) -> usize {
        count * (3 * self.padded + self.columns) + self.biases() + 3 * self.padded
    }

    /// Floats of biases: of all gates, and those of the recurrent part of a GRU's candidate.
    pub fn biases(&self) -> usize {
        (self.gates + 1) * self.padded
    }

    /// Adds the two biases of every gate, but for a GRU's candidate where they are needed apart.
    ///
    /// # Safety
    /// `from`, if any, has the operand's biases of direction `d`.
    pub unsafe fn load_biases(&self, op: &Rnn, from: Option<*const f32>, d: usize, out: &mut [f32]) {
        out.fill(0.0);
        let Some(from) = from else { return };
        for gate in 0..self.gates {
            let apart = op.kind == RnnKind::Gru && op.linear_before_reset && gate == 2;
            for unit in 0..self.hidden {
                let at = 2 * d * self.gates * self.hidden + gate * self.hidden + unit;
                // SAFETY: the biases of the inputs, then those of the states, of this direction.
                let (w, r) = unsafe { (*from.add(at), *from.add(at + self.gates * self.hidden)) };
                out[gate * self.padded + unit] = if apart { w } else { w + r };
                if apart {
                    out[self.gates * self.padded + unit] = r;
                }
            }
        }
    }

    /// Panels whose product is with the state itself: all but a GRU's candidate, unless its reset comes after the product.
    pub fn first_columns(&self, op: &Rnn) -> usize {
        if op.kind == RnnKind::Gru && !op.linear_before_reset {
            2 * self.padded / PANEL
        } else {
            self.columns / PANEL
        }
    }
}

/// One direction's cell.
pub(super) struct Cell<'a> {
    pub op: &'a Rnn,
    pub layout: Layout,
    pub activations: &'a [Activation],
    pub biases: &'a [f32],
    pub peephole: &'a [f32],
}

/// Advances one state.
pub(super) struct Step<'a> {
    cell: &'a Cell<'a>,
    /// Products with the input and with the state, by column.
    x: *const f32,
    sums: &'a [f32],
    h: &'a mut [f32],
    c: &'a mut [f32],
}

/// A GRU's state after its reset gate.
pub(super) struct Reset<'a> {
    cell: &'a Cell<'a>,
    x: *const f32,
    sums: &'a [f32],
    h: &'a [f32],
    gated: &'a mut [f32],
}

impl Cell<'_> {
    /// # Safety
    /// `x` and `sums` have the layout's columns, the states `padded` floats.
    pub unsafe fn step<'a>(
        &'a self,
        x: *const f32,
        sums: &'a [f32],
        h: &'a mut [f32],
        c: &'a mut [f32],
    ) -> Step<'a> {
        Step { cell: self, x, sums, h, c }
    }

    /// # Safety
    /// As [`Cell::step`].
    pub unsafe fn reset<'a>(
        &'a self,
        x: *const f32,
        sums: &'a [f32],
        h: &'a [f32],
        gated: &'a mut [f32],
    ) -> Reset<'a> {
        Reset { cell: self, x, sums, h, gated }
    }

    /// An activation of a clipped sum.
    #[inline(always)]
    fn act<S: Simd>(&self, s: S, which: usize, x: S::F) -> S::F {
        let x = match self.op.clip.map(f32::from_bits) {
            Some(c) if c > 0.0 => s.min(s.max(x, s.splat(-c)), s.splat(c)),
            _ => x,
        };
        activate(s, self.activations[which], x)
    }
}

#[inline(always)]
fn activate<S: Simd>(s: S, activation: Activation, x: S::F) -> S::F {
    let f = |bits: u32| s.splat(f32::from_bits(bits));
    let (zero, one) = (s.zero(), s.splat(1.0));
    match activation {
        Activation::Sigmoid => math::sigmoid(s, x),
        Activation::Tanh => math::tanh(s, x),
        Activation::Relu => s.select(s.lt(x, zero), zero, x),
        Activation::Affine { alpha, beta } => s.fma(f(alpha), x, f(beta)),
        Activation::LeakyRelu { alpha } => s.select(s.lt(x, zero), s.mul(f(alpha), x), x),
        Activation::ThresholdedRelu { alpha } => s.select(s.gt(x, f(alpha)), x, zero),
        Activation::ScaledTanh { alpha, beta } => s.mul(f(alpha), math::tanh(s, s.mul(f(beta), x))),
        Activation::HardSigmoid { alpha, beta } => s.min(s.max(s.fma(f(alpha), x, f(beta)), zero), one),
        Activation::Elu { alpha } => s.select(s.lt(x, zero), s.mul(f(alpha), math::expm1(s, x)), x),
        Activation::Softsign => s.div(x, s.add(one, s.abs(x))),
        Activation::Softplus => math::softplus(s, x),
    }
}

/// Reads the parts of a gate's sum at a unit.
#[derive(Clone, Copy)]
struct Sums<'a> {
    cell: &'a Cell<'a>,
    x: *const f32,
    sums: *const f32,
}

impl Sums<'_> {
    /// Input, state and bias.
    ///
    /// # Safety
    /// `unit` and the lanes after it lie in the gate.
    #[inline(always)]
    unsafe fn gate<S: Simd>(&self, s: S, gate: usize, unit: usize) -> S::F {
        // SAFETY: columns of the layout.
        unsafe {
            s.add(self.input(s, gate, unit), s.load(self.sums.add(gate * self.cell.layout.padded + unit)))
        }
    }

    /// Input and bias.
    ///
    /// # Safety
    /// As [`Sums::gate`].
    #[inline(always)]
    unsafe fn input<S: Simd>(&self, s: S, gate: usize, unit: usize) -> S::F {
        let at = gate * self.cell.layout.padded + unit;
        // SAFETY: columns of the layout.
        unsafe { s.add(s.load(self.x.add(at)), s.load(self.cell.biases.as_ptr().add(at))) }
    }
}

impl Task for Reset<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let sums = Sums { cell: self.cell, x: self.x, sums: self.sums.as_ptr() };
        for u in (0..self.cell.layout.padded).step_by(S::LANES) {
            // SAFETY: whole vectors within the padded gate and states.
            unsafe {
                let reset = self.cell.act(s, 0, sums.gate(s, 1, u));
                s.store(self.gated.as_mut_ptr().add(u), s.mul(reset, s.load(self.h.as_ptr().add(u))));
            }
        }
    }
}

impl Task for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Step { cell, x, sums, h, c } = self;
        let padded = cell.layout.padded;
        let recurrent = sums.as_ptr();
        let sums = Sums { cell, x, sums: recurrent };
        let (h, c) = (h.as_mut_ptr(), c.as_mut_ptr());
        let one = s.splat(1.0);
        for u in (0..padded).step_by(S::LANES) {
            // SAFETY: whole vectors within the padded gates and states.
            unsafe {
                let next = match cell.op.kind {
                    RnnKind::Simple => cell.act(s, 0, sums.gate(s, 0, u)),
                    RnnKind::Gru => {
                        let z = cell.act(s, 0, sums.gate(s, 0, u));
                        let state = s.load(recurrent.add(2 * padded + u));
                        let candidate = if cell.op.linear_before_reset {
                            let reset = cell.act(s, 0, sums.gate(s, 1, u));
                            let bias = s.load(cell.biases.as_ptr().add(3 * padded + u));
                            s.fma(reset, s.add(state, bias), sums.input(s, 2, u))
                        } else {
                            s.add(sums.input(s, 2, u), state)
                        };
                        let candidate = cell.act(s, 1, candidate);
                        let old = s.load(h.add(u));
                        s.add(s.mul(s.sub(one, z), candidate), s.mul(z, old))
                    }
                    RnnKind::Lstm => {
                        let old = s.load(c.add(u));
                        // Peepholes stand in the order i, o, f.
                        let peep = |i: usize, c: S::F, sum: S::F| {
                            if cell.op.peephole {
                                s.fma(s.load(cell.peephole.as_ptr().add(i * padded + u)), c, sum)
                            } else {
                                sum
                            }
                        };
                        let i = cell.act(s, 0, peep(0, old, sums.gate(s, 0, u)));
                        let f = if cell.op.input_forget {
                            s.sub(one, i)
                        } else {
                            cell.act(s, 0, peep(2, old, sums.gate(s, 2, u)))
                        };
                        let candidate = cell.act(s, 1, sums.gate(s, 3, u));
                        let new = s.fma(f, old, s.mul(i, candidate));
                        s.store(c.add(u), new);
                        let o = cell.act(s, 0, peep(1, new, sums.gate(s, 1, u)));
                        s.mul(o, activate(s, cell.activations[2], new))
                    }
                };
                s.store(h.add(u), next);
            }
        }
    }
}
