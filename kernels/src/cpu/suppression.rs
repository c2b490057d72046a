//! NonMaxSuppression: per batch and class, boxes by falling score, each against all that were kept.

use super::simd::{Simd, Task, dispatch};
use super::{Isa, pointwise};
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic};
use engraft_network::Op;

/// Non-maximum suppression of `f32` boxes at any strides, shared out over batches and classes.
///
/// Candidates become integers of score and index, of which as many are sorted as are looked at: a selection finds the next
/// best some, twice as many every time. Kept boxes stand as columns of coordinates, so that a candidate meets a vector of
/// them at once. A second phase lists what was kept.
#[derive(Debug)]
pub struct SuppressionTactic;

/// The family's row of the catalog.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    &[&SuppressionTactic]
}

struct SuppressionKernel {
    center_point_box: bool,
    threshold: bool,
    batches: usize,
    classes: usize,
    boxes: usize,
    /// Most boxes that are kept per pair of batch and class.
    limit: usize,
    /// Strides in elements: of boxes `[batch, box, number]`, scores `[batch, class, box]`, rows `[row, number]`.
    box_strides: [isize; 3],
    score_strides: [isize; 3],
    row_strides: [isize; 2],
    isa: Isa,
    phases: [usize; 2],
}

/// Rows of the second phase that are worth a task.
const LISTED: usize = 4096;

impl Tactic for SuppressionTactic {
    fn id(&self) -> &'static str {
        "suppression.f32"
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let Op::NonMaxSuppression(_) = p.op else { return Err(Reject::new("not a suppression")) };
        let scores = &p.inputs[1].desc;
        if scores.shape[2] > u32::MAX as usize {
            return Err(Reject::new("more than 2^32 boxes"));
        }
        let pairs = scores.shape[0] * scores.shape[1];
        let kept = (p.outputs[0].shape[0] / pairs.max(1)) as f64;
        let cost = 200.0 + pairs as f64 * (50.0 + scores.shape[2] as f64 * 1.5 + kept * (20.0 + kept * 0.5));
        Ok(Fit { cost_ns: cost / p.threads.clamp(1, pairs.max(1)) as f64 })
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        let (boxes, scores, rows) = (&p.inputs[0].desc, &p.inputs[1].desc, &p.outputs[0]);
        let (batches, classes) = (scores.shape[0], scores.shape[1]);
        let pairs = batches * classes;
        let threads = p.threads.max(1);
        let share_out = |units: usize| units.clamp(1, if threads > 1 { 4 * threads } else { 1 });
        let (center_point_box, threshold) = match p.op {
            Op::NonMaxSuppression(op) => (op.center_point_box, op.score_threshold),
            _ => (false, false),
        };
        Box::new(SuppressionKernel {
            center_point_box,
            threshold,
            batches,
            classes,
            boxes: scores.shape[2],
            limit: rows.shape[0].checked_div(pairs).unwrap_or(0),
            box_strides: std::array::from_fn(|i| boxes.strides[i]),
            score_strides: std::array::from_fn(|i| scores.strides[i]),
            row_strides: std::array::from_fn(|i| rows.strides[i]),
            isa: p.isa,
            phases: [share_out(pairs), share_out(rows.shape[0] / LISTED)],
        })
    }
}

/// Columns of coordinates and areas are padded to whole vectors.
const MOST_LANES: usize = 16;

impl SuppressionKernel {
    fn pairs(&self) -> usize {
        self.batches * self.classes
    }

    fn column(&self) -> usize {
        self.limit.next_multiple_of(MOST_LANES)
    }
}

impl Kernel for SuppressionKernel {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    /// Keys of the candidates, then the columns of what is kept.
    fn scratch_bytes(&self) -> usize {
        8 * self.boxes.next_multiple_of(8) + 4 * 5 * self.column()
    }

    /// Per pair the number of kept boxes, then their indices.
    fn workspace_bytes(&self) -> usize {
        4 * self.pairs() * (1 + self.limit)
    }

    unsafe fn run(&self, phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        // SAFETY: operands and results of the problem; scratch and workspace of the sizes asked for.
        unsafe {
            if phase == 1 {
                self.list(task, args);
                return Ok(());
            }
            let most_overlap = args.inputs[2].cast::<f32>().read_unaligned();
            if !(0.0..=1.0).contains(&most_overlap) {
                return Err(KernelError::Data(format!("the overlap {most_overlap} is not between 0 and 1")));
            }
            let (first, last) = pointwise::share(self.pairs(), self.phases[0], task);
            let least = self.threshold.then(|| args.inputs[3].cast::<f32>().read_unaligned());
            dispatch(self.isa, Suppress { kernel: self, args, pairs: first..last, most_overlap, least });
        }
        Ok(())
    }
}

impl SuppressionKernel {
    /// Writes a share of the rows, and of the zeros behind them.
    ///
    /// # Safety
    /// As [`Kernel::run`], after the first phase.
    unsafe fn list(&self, task: usize, args: &Args<'_>) {
        let pairs = self.pairs();
        let total = pairs * self.limit;
        let (from, to) = pointwise::share(total, self.phases[1], task);
        let [row, number] = self.row_strides;
        let (counts, out) = (args.workspace.cast::<u32>(), args.outputs[0].cast::<i64>());
        // SAFETY: counts and indices of every pair are in the workspace; rows `from..to` belong to this task.
        unsafe {
            let write = |at: usize, values: [i64; 3]| {
                for (i, value) in values.into_iter().enumerate() {
                    out.offset(at as isize * row + i as isize * number).write_unaligned(value);
                }
            };
            let kept = counts.add(pairs);
            let mut start = 0;
            for pair in 0..pairs {
                let count = counts.add(pair).read() as usize;
                for at in start.max(from)..(start + count).min(to) {
                    let index = kept.add(pair * self.limit + at - start).read();
                    let (batch, class) = (pair / self.classes, pair % self.classes);
                    write(at, [batch as i64, class as i64, i64::from(index)]);
                }
                start += count;
            }
            (start.max(from)..to).for_each(|at| write(at, [0; 3]));
            if task == 0 {
                args.outputs[1].cast::<i64>().write_unaligned(start as i64);
            }
        }
    }
}

struct Suppress<'a> {
    kernel: &'a SuppressionKernel,
    args: &'a Args<'a>,
    pairs: std::ops::Range<usize>,
    most_overlap: f32,
    least: Option<f32>,
}

/// Falls as the score rises, NaN last; of equal scores the lower index is smaller.
#[inline(always)]
fn key(score: f32, index: usize) -> u64 {
    let rank = match score.is_nan() {
        true => 0,
        false => {
            let bits = (score + 0.0).to_bits();
            if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
        }
    };
    u64::from(!rank) << 32 | index as u64
}

impl Task for Suppress<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let k = self.kernel;
        let counts = self.args.workspace.cast::<u32>();
        for pair in self.pairs.clone() {
            // SAFETY: the pair's places of the operands and the workspace, and this thread's scratch.
            unsafe {
                let kept = counts.add(k.pairs() + pair * k.limit);
                let count = self.pair(s, pair / k.classes, pair % k.classes, kept);
                counts.add(pair).write(count as u32);
            }
        }
    }
}

impl Suppress<'_> {
    /// Writes the indices of the boxes that are kept of one batch and class; returns how many.
    ///
    /// # Safety
    /// As [`Kernel::run`]; `kept` has room for `limit` indices.
    #[inline(always)]
    unsafe fn pair<S: Simd>(&self, s: S, batch: usize, class: usize, kept: *mut u32) -> usize {
        let k = self.kernel;
        let keys = self.args.scratch.cast::<u64>();
        let mut columns = Columns {
            // SAFETY: the columns lie behind the keys.
            base: unsafe { keys.add(k.boxes.next_multiple_of(8)) }.cast::<f32>(),
            size: k.column(),
            count: 0,
        };
        let [batch_stride, class_stride, score_stride] = k.score_strides;
        // SAFETY: scores of the batch and class; boxes of the batch at indices below their number.
        unsafe {
            let scores = self.args.inputs[1].cast::<f32>();
            let scores = scores.offset(batch as isize * batch_stride + class as isize * class_stride);
            let boxes = self.args.inputs[0].cast::<f32>().offset(batch as isize * k.box_strides[0]);
            let mut candidates = 0;
            for i in 0..k.boxes {
                let score = scores.offset(i as isize * score_stride).read_unaligned();
                keys.add(candidates).write(key(score, i));
                candidates += usize::from(self.least.is_none_or(|least| score > least));
            }
            let keys = std::slice::from_raw_parts_mut(keys, candidates);
            let (mut sorted, mut next) = (0, (2 * k.limit).clamp(32, 4096));
            for i in 0..candidates {
                if columns.count == k.limit {
                    break;
                }
                if i == sorted {
                    let rest = &mut keys[sorted..];
                    if next < rest.len() {
                        rest.select_nth_unstable(next);
                        rest[..next].sort_unstable();
                        (sorted, next) = (sorted + next, 2 * next);
                    } else {
                        rest.sort_unstable();
                        sorted = candidates;
                    }
                }
                let index = keys[i] as u32;
                let corners = self.corners(boxes.offset(index as isize * k.box_strides[1]));
                if !columns.overlap(s, corners, self.most_overlap) {
                    kept.add(columns.count).write(index);
                    columns.push(corners);
                }
            }
        }
        columns.count
    }

    /// Least and largest coordinates of a box.
    ///
    /// # Safety
    /// A box of the operand begins at `at`.
    #[inline(always)]
    unsafe fn corners(&self, at: *const f32) -> [f32; 4] {
        let stride = self.kernel.box_strides[2];
        // SAFETY: the box's four numbers.
        let b: [f32; 4] = std::array::from_fn(|i| unsafe { at.offset(i as isize * stride).read_unaligned() });
        if self.kernel.center_point_box {
            let (w, h) = (b[2] * 0.5, b[3] * 0.5);
            return [b[0] - w, b[1] - h, b[0] + w, b[1] + h];
        }
        let small = |a: f32, b: f32| if a < b { a } else { b };
        let large = |a: f32, b: f32| if a > b { a } else { b };
        [small(b[0], b[2]), small(b[1], b[3]), large(b[0], b[2]), large(b[1], b[3])]
    }
}

/// Kept boxes: four columns of coordinates and one of areas, of `size` places each.
struct Columns {
    base: *mut f32,
    size: usize,
    count: usize,
}

#[inline(always)]
fn area(b: [f32; 4]) -> f32 {
    (b[2] - b[0]) * (b[3] - b[1])
}

impl Columns {
    /// # Safety
    /// There is room for one more.
    #[inline(always)]
    unsafe fn push(&mut self, b: [f32; 4]) {
        for (i, x) in [b[0], b[1], b[2], b[3], area(b)].into_iter().enumerate() {
            // SAFETY: by this function's contract.
            unsafe { self.base.add(i * self.size + self.count).write(x) };
        }
        self.count += 1;
    }

    /// Whether the intersection over union of `b` and any box exceeds `most`.
    ///
    /// # Safety
    /// The columns are readable in whole vectors beyond the count.
    #[inline(always)]
    unsafe fn overlap<S: Simd>(&self, s: S, b: [f32; 4], most: f32) -> bool {
        let own = area(b);
        if own.is_nan() || own <= 0.0 {
            return false;
        }
        let [x0, y0, x1, y1] = b.map(|v| s.splat(v));
        let (own, most, zero) = (s.splat(own), s.splat(most), s.zero());
        let mut i = 0;
        while i < self.count {
            // SAFETY: by this function's contract; the columns' size is a multiple of the lanes.
            let [k0, l0, k1, l1, area]: [S::F; 5] =
                std::array::from_fn(|c| unsafe { s.load(self.base.add(c * self.size + i)) });
            let w = s.sub(s.min(x1, k1), s.max(x0, k0));
            let h = s.sub(s.min(y1, l1), s.max(y0, l0));
            let common = s.mul(w, h);
            let union = s.sub(s.add(own, area), common);
            let both = s.and_m(s.gt(w, zero), s.gt(h, zero));
            let solid = s.and_m(s.gt(common, zero), s.and_m(s.gt(area, zero), s.gt(union, zero)));
            let hit = s.and_m(s.and_m(both, solid), s.gt(s.div(common, union), most));
            // Lanes beyond the count hold anything.
            let inside = s.gt_i(s.splat_i((self.count - i) as i32), s.iota());
            if s.any(s.and_m(hit, inside)) {
                return true;
            }
            i += S::LANES;
        }
        false
    }
}
