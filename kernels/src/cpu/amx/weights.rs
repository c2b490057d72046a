//! The second operand, packed for tiles.

use super::split::{self, PackPanel};
use super::tile::Products;
use crate::cpu::gemm::matmul::Operand2;
use crate::cpu::simd::dispatch;
use crate::cpu::storage::Storage;
use crate::{Problem, Reject, TensorDesc};
use engraft_network::ops::Conv;
use engraft_network::{DType, Op, Tensor};

/// Fewer channels than this are taken line by line of the kernel, or window by window.
pub(super) const FEW_CHANNELS: usize = 16;

/// Whether a line of the kernel is one run of values along k: few channels, of pixels next to each other.
pub(super) fn by_lines(op: &Conv, channels: usize) -> bool {
    channels < FEW_CHANNELS && op.dilations.last() == Some(&1)
}

/// Sizes of the second operand: matrices (or groups), taps, values along k, columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weights {
    pub matrices: usize,
    pub taps: usize,
    pub k: usize,
    pub n: usize,
}

impl Weights {
    pub fn new(p: &Problem<'_>) -> Result<Weights, Reject> {
        let w = &p.inputs[1].desc;
        match p.op {
            Op::MatMul(op) => {
                let b = Operand2::new(w, op.trans_b);
                let matrices = w.shape[..w.rank() - 2].iter().product();
                Ok(Weights { matrices, taps: 1, k: b.rows, n: b.cols })
            }
            Op::Conv(op) => {
                let (channels, outputs) = (w.shape[w.rank() - 2], w.shape[w.rank() - 1]);
                let taps: usize = w.shape[..w.rank() - 2].iter().product();
                let line = w.shape[w.rank() - 3];
                let (taps, k) = match channels < FEW_CHANNELS {
                    true if by_lines(op, channels) => (taps / line, line * channels),
                    // Windows of few channels are one run.
                    true => (1, taps * channels),
                    false => (taps, channels),
                };
                Ok(Weights { matrices: op.groups, taps, k, n: outputs / op.groups.max(1) })
            }
            _ => Err(Reject::new("neither a matrix product nor a convolution")),
        }
    }

    pub fn matrix_bytes(&self, products: Products) -> usize {
        split::packed_bytes(products, self.taps, self.k, self.n)
    }
    /// Bytes of all of it, packed.
    pub fn bytes(&self, products: Products) -> usize {
        self.matrices * self.matrix_bytes(products)
    }
}

/// Packs constant operand `input` of the problem, matrix by matrix, panel by panel ([`PackPanel`]).
pub(super) fn pack(products: Products, p: &Problem<'_>, input: usize, out: &mut [u8]) {
    let (Ok(w), Some(tensor)) = (Weights::new(p), p.inputs[input].constant) else { return };
    assert_eq!(out.len(), w.bytes(products), "packed operand of another size");
    match tensor.dtype() {
        DType::BF16 => {
            pack_values::<half::bf16>(products, p, w, tensor, bytemuck::cast_slice(tensor.bytes()), out);
        }
        _ => pack_values::<f32>(products, p, w, tensor, bytemuck::cast_slice(tensor.bytes()), out),
    }
}

fn pack_values<T: Storage>(
    products: Products,
    p: &Problem<'_>,
    w: Weights,
    tensor: &Tensor,
    values: &[T],
    out: &mut [u8],
) {
    let (row, col, matrix) = match p.op {
        Op::MatMul(op) => {
            let desc = TensorDesc::dense(tensor.dtype(), tensor.shape());
            let b = Operand2::new(&desc, op.trans_b);
            (b.row, b.col, w.k * w.n)
        }
        // Groups stand side by side in each row.
        _ => ((w.matrices * w.n) as isize, 1, w.n),
    };
    let bytes = w.matrix_bytes(products);
    let panel_bytes = bytes / split::panels(w.n).max(1);
    for (i, out) in out.chunks_exact_mut(bytes).enumerate() {
        for (panel, out) in out.chunks_exact_mut(panel_bytes).enumerate() {
            let (from, to) = (values[i * matrix..].as_ptr(), out.as_mut_ptr());
            dispatch(p.isa, PackPanel { products, from, row, col, taps: w.taps, k: w.k, n: w.n, panel, to });
        }
    }
}
