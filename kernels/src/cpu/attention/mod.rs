//! Scaled dot-product attention without its matrix of scores in memory.
//!
//! Queries are taken in blocks. For each block of keys the scores of the block go through a maximum and sum that are
//! carried along (Dao et al., "FlashAttention", 2022), and their weights are multiplied with the values while they
//! are in the cache. Both products run on the micro-kernels of matrix products ([`flash`]). A handful of queries, as when a
//! decoder makes one token, read keys and values once as they lie instead ([`few`]). Where the precision allows it and the
//! CPU has tiles, both products run on them ([`tiles`]).

mod few;
mod flash;
mod rows;
#[cfg(test)]
mod tests;
mod tiled;
mod tiles;

use super::gemm::micro::{self, Micro};
use super::storage::{Storage, is_storage};
use crate::{Args, Fit, Isa, Kernel, Problem, Reject, Tactic, TensorDesc};
use engraft_network::ops::Attention;
use engraft_network::{DType, Op};

/// Attention of `f32`, `f16` and `bf16` operands at any strides; computes in `f32`.
#[derive(Debug)]
pub struct AttentionTactic;

/// What is added to the scores, or excludes some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mask {
    None,
    /// Of the operands' type.
    Added,
    /// Excludes keys where it is false.
    Bool,
}

/// A problem in the kernel's terms. Strides are in elements, of batch, head, row (query or key) and column.
#[derive(Clone, Debug)]
struct Shape {
    dtype: DType,
    batch: usize,
    heads: usize,
    /// Heads of keys and values; each serves `heads / groups` heads of queries.
    groups: usize,
    queries: usize,
    keys: usize,
    /// Columns of queries and keys, and of values.
    d: usize,
    dv: usize,
    q: [isize; 4],
    k: [isize; 4],
    v: [isize; 4],
    out: [isize; 4],
    /// Along batch, head, query and key; 0 where the mask broadcasts.
    mask_strides: [isize; 4],
    mask: Mask,
    causal: bool,
    scale: f32,
    isa: Isa,
}

/// First elements of what one batch entry and key head read and write. The mask is of type `T` or bytes, as the shape says.
struct Operands<T> {
    q: *const T,
    k: *const T,
    v: *const T,
    out: *mut T,
    mask: *const u8,
}

fn strides(desc: &TensorDesc) -> [isize; 4] {
    std::array::from_fn(|i| if desc.shape[i] == 1 { 0 } else { desc.strides[i] })
}

impl Shape {
    fn new(op: &Attention, p: &Problem<'_>) -> Result<Shape, Reject> {
        let (q, k, v) = (&p.inputs[0].desc, &p.inputs[1].desc, &p.inputs[2].desc);
        let out = &p.outputs[0];
        if !is_storage(q.dtype) || [k, v, out].iter().any(|d| d.dtype != q.dtype) {
            return Err(Reject(format!("attention of {}", q.dtype)));
        }
        let (mut mask, mut mask_strides) = (Mask::None, [0; 4]);
        if op.mask {
            let desc = &p.inputs[3].desc;
            mask = match desc.dtype {
                DType::Bool => Mask::Bool,
                t if t == q.dtype => Mask::Added,
                t => return Err(Reject(format!("a mask of {t}"))),
            };
            let first = 4usize.checked_sub(desc.rank()).ok_or_else(|| Reject::new("a mask of rank 5"))?;
            for (i, (size, stride)) in desc.shape.iter().zip(&desc.strides).enumerate() {
                mask_strides[first + i] = if *size == 1 { 0 } else { *stride };
            }
        }
        let groups = k.shape[1];
        if groups == 0 || q.shape[1] % groups != 0 {
            return Err(Reject::new("heads that no number of key heads divides"));
        }
        Ok(Shape {
            dtype: q.dtype,
            batch: q.shape[0],
            heads: q.shape[1],
            groups,
            queries: q.shape[2],
            keys: k.shape[2],
            d: q.shape[3],
            dv: v.shape[3],
            q: strides(q),
            k: strides(k),
            v: strides(v),
            out: strides(out),
            mask_strides,
            mask,
            causal: op.causal,
            scale: op.scale.to_f64() as f32,
            isa: p.isa,
        })
    }

    /// Query rows that read one head of keys, in all heads of the group.
    fn team(&self) -> usize {
        self.heads / self.groups * self.queries
    }

    /// Where row `row` of the team of batch entry `b` and key head `g` lies: head, query.
    fn place(&self, g: usize, row: usize) -> (usize, usize) {
        (g * (self.heads / self.groups) + row / self.queries, row % self.queries)
    }

    /// Keys that query `i` may see.
    fn visible(&self, i: usize) -> usize {
        if self.causal { (i + self.keys + 1).saturating_sub(self.queries).min(self.keys) } else { self.keys }
    }

    /// The part of all scores that queries may see.
    fn share_visible(&self) -> f64 {
        if !self.causal || self.queries == 0 {
            return 1.0;
        }
        // The number of keys grows by one with every query, where there are some.
        let (most, least) = (self.visible(self.queries - 1), self.visible(0));
        let seeing = self.queries.min(most) as f64 / self.queries as f64;
        seeing * (most + least) as f64 / (2 * self.keys).max(1) as f64
    }

    /// Operands and result of batch entry `b` and key head `g`: queries and result at their first head.
    ///
    /// # Safety
    /// `args` holds the operands of the problem, of type `T`.
    unsafe fn operands<T: Storage>(&self, b: usize, g: usize, args: &Args<'_>) -> Operands<T> {
        let entry = |strides: &[isize; 4], g: usize| b as isize * strides[0] + g as isize * strides[1];
        let mask_at = b as isize * self.mask_strides[0];
        // SAFETY: batch entry and head exist in every operand.
        unsafe {
            Operands {
                q: args.inputs[0].cast::<T>().offset(entry(&self.q, 0)),
                k: args.inputs[1].cast::<T>().offset(entry(&self.k, g)),
                v: args.inputs[2].cast::<T>().offset(entry(&self.v, g)),
                out: args.outputs[0].cast::<T>().offset(entry(&self.out, 0)),
                mask: match self.mask {
                    Mask::None => std::ptr::null(),
                    Mask::Bool => args.inputs[3].offset(mask_at),
                    Mask::Added => args.inputs[3].cast::<T>().offset(mask_at).cast(),
                },
            }
        }
    }

    fn micro(&self) -> &'static Micro<f32> {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx if Isa::Avx512.supported() => &micro::F32_AVX512,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 if self.isa.supported() => &micro::F32_AVX2,
            _ => &micro::F32_PORTABLE,
        }
    }

    /// Whether so few rows read each key that packing would cost more than it saves.
    fn is_few(&self) -> bool {
        let contiguous = [(self.q[3], self.d), (self.k[3], self.d), (self.v[3], self.dv)];
        self.team() <= few::MOST_ROWS && contiguous.iter().all(|(stride, n)| *stride == 1 || *n <= 1)
    }

    /// Expected nanoseconds on one thread.
    fn cost(&self) -> f64 {
        let (products, weight, packed) = match self.isa {
            Isa::Portable => (15.0, 3.0, 1.5),
            Isa::Avx2 => (48.0, 0.8, 0.6),
            _ => (75.0, 0.5, 0.4),
        };
        let scores = (self.batch * self.heads * self.queries * self.keys) as f64 * self.share_visible();
        let columns = (self.d + self.dv) as f64;
        let operands = (self.batch * self.groups * self.keys) as f64 * columns;
        if self.is_few() {
            return 100.0 + scores * (columns * 0.03 + weight) + operands * 0.25;
        }
        100.0 + scores * (columns / products + weight) + operands * packed
    }
}

impl Tactic for AttentionTactic {
    fn id(&self) -> &'static str {
        "attention.flash"
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let Op::Attention(op) = p.op else { return Err(Reject::new("not attention")) };
        let shape = Shape::new(op, p)?;
        Ok(Fit { cost_ns: shape.cost() / p.threads.clamp(1, (shape.batch * shape.heads).max(1)) as f64 })
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        let Op::Attention(op) = p.op else { unreachable!("prepared for what it refuses: {:?}", p.op) };
        let shape = match Shape::new(op, p) {
            Ok(shape) => shape,
            Err(reject) => unreachable!("prepared for what it refuses: {reject}"),
        };
        if shape.is_few() {
            Box::new(few::FewKernel::new(shape, p.threads))
        } else {
            Box::new(flash::FlashKernel::new(shape, p.threads))
        }
    }
}

/// The family's rows of the catalog.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        use super::amx::tile::{Amx, Products};
        static TILES: [tiles::TileAttention<Amx>; 2] = [
            tiles::TileAttention::new("attention.tiles.bf16x3.amx", Products::Three),
            tiles::TileAttention::new("attention.tiles.bf16.amx", Products::One),
        ];
        static ALL: [&dyn Tactic; 3] = [&TILES[0], &TILES[1], &AttentionTactic];
        &ALL
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    &[&AttentionTactic]
}
