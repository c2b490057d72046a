//! Recurrent layers whose products run on tiles of bf16 (`cpu::amx`): those with the inputs of all steps, and for many
//! sequences those with the states as well.

use super::{Layout, PANEL, Recurrent, RecurrentKernel, accepted, costs, group, pack_panels};
use crate::cpu::amx::product::{self, TileProduct, pack_panel, packed_bytes};
use crate::cpu::amx::tile::{Products, Tiles};
use crate::cpu::gemm::rows::RowMap;
use crate::{Fit, Kernel, Problem, Reject, Tactic};
use engraft_network::ops::Rnn;
use std::marker::PhantomData;

/// LSTM, GRU and simple recurrent layers of `f32`.
pub(super) struct TileRecurrent<T> {
    id: &'static str,
    products: Products,
    packing: &'static str,
    /// Whether the products with the states run on tiles.
    states: bool,
    marker: PhantomData<fn() -> T>,
}

/// Fewer rows than this are faster with vectors: of all inputs, and of the states of one task.
const FEWEST_INPUTS: usize = 4;
const FEWEST_STATES: usize = 8;

impl<T: Tiles> TileRecurrent<T> {
    pub(super) const fn new(
        id: &'static str,
        products: Products,
        packing: &'static str,
        states: bool,
    ) -> Self {
        TileRecurrent { id, products, packing, states, marker: PhantomData }
    }

    fn accepted<'a>(&self, p: &Problem<'a>) -> Result<&'a Rnn, Reject> {
        let op = accepted(p)?;
        if p.precision != self.products.precision() {
            return Err(Reject(format!("for precision {}", self.products.precision())));
        }
        if !T::available(p.isa) {
            return Err(Reject::new("needs AMX"));
        }
        if p.inputs[1..3].iter().any(|o| o.constant.is_none()) {
            return Err(Reject::new("weights that are not constant"));
        }
        let x = &p.inputs[0].desc;
        if x.shape[0] * x.shape[1] < FEWEST_INPUTS || self.states && group(op, p) < FEWEST_STATES {
            return Err(Reject::new("too few rows for tiles"));
        }
        Ok(op)
    }

    /// Whether operand `input` is packed for tiles; else as [`Recurrent`] packs it.
    fn tiled(&self, input: usize) -> bool {
        input == 1 || input == 2 && self.states
    }
}

impl<T: Tiles + 'static> Tactic for TileRecurrent<T> {
    fn id(&self) -> &'static str {
        self.id
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let op = self.accepted(p)?;
        let x = &p.inputs[0].desc;
        let layout = Layout::new(op);
        let [_, mut states] = costs(op, p);
        let directions = op.directions() as f64;
        let rows = (x.shape[0] * x.shape[1]) as f64;
        let threads = p.threads.max(1) as f64;
        let inputs = directions * product::cost(self.products, rows, x.shape[2], layout.columns) / threads;
        if self.states {
            let each = group(op, p);
            let tasks = (x.shape[1].div_ceil(each) as f64) * directions;
            let step = product::cost(self.products, each as f64, op.hidden, layout.columns);
            let cells = each as f64 * layout.columns as f64 * 0.7;
            states = x.shape[0] as f64 * (step + cells + 150.0) * (tasks / threads).max(1.0);
        }
        Ok(Fit { cost_ns: 500.0 + inputs + states })
    }

    fn packing(&self, p: &Problem<'_>, input: usize) -> Option<&'static str> {
        match self.tiled(input) {
            true => p.inputs[input].constant.is_some().then_some(self.packing),
            false => Recurrent.packing(p, input),
        }
    }

    fn packing_moves(&self, p: &Problem<'_>, input: usize) -> bool {
        !self.tiled(input) && Recurrent.packing_moves(p, input)
    }

    fn packed_bytes(&self, p: &Problem<'_>, input: usize) -> usize {
        if !self.tiled(input) {
            return Recurrent.packed_bytes(p, input);
        }
        super::op_of(p).map_or(0, |op| {
            let depth = p.inputs[input].desc.shape[2];
            op.directions() * packed_bytes(self.products, depth, Layout::new(op).columns)
        })
    }

    fn pack(&self, p: &Problem<'_>, input: usize, out: &mut [u8]) {
        if !self.tiled(input) {
            return Recurrent.pack(p, input, out);
        }
        let (Ok(op), Some(weights)) = (super::op_of(p), p.inputs[input].constant) else { return };
        let (layout, depth) = (Layout::new(op), weights.shape()[2]);
        let panels = op.directions() * layout.columns / PANEL;
        assert_eq!(out.len(), self.packed_bytes(p, input), "packed operand of another size");
        let mut plain = vec![0f32; panels * depth * PANEL];
        // SAFETY: the tensor holds every row of the gates, `plain` all panels.
        unsafe {
            pack_panels(&layout, depth, weights.bytes().as_ptr().cast(), plain.as_mut_ptr(), 0..panels)
        };
        let each = packed_bytes(self.products, depth, PANEL);
        for (panel, out) in plain.chunks_exact(depth * PANEL).zip(out.chunks_exact_mut(each)) {
            pack_panel(self.products, p.isa, panel, depth, out);
        }
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        let op = match self.accepted(p) {
            Ok(op) => op,
            Err(reason) => unreachable!("prepared without being accepted: {reason}"),
        };
        let (x, columns) = (&p.inputs[0].desc, Layout::new(op).columns);
        let mut kernel = RecurrentKernel::new(op, p);
        let (steps, batch) = (x.shape[0], x.shape[1]);
        let rows = RowMap::new([(steps, x.strides[0]), (batch, x.strides[1])]);
        let rows = rows.unwrap_or_else(|| unreachable!("two dimensions are no more than four"));
        let out = RowMap::uniform(steps * batch, columns as isize);
        let inputs = TileProduct::<T>::new(self.products, rows, x.shape[2], columns, out, p.isa);
        kernel.tiles[0] = Some(Box::new(inputs));
        if self.states {
            let (rows, out) = kernel.state_rows();
            let states = TileProduct::<T>::new(self.products, rows, op.hidden, columns, out, p.isa);
            kernel.tiles[1] = Some(Box::new(states));
        }
        Box::new(kernel)
    }
}
