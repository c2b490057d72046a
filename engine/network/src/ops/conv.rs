use super::matmul::{Accumulate, axpy};
use super::{Epilogue, Fresh, OpError, Operator, OutputType, TypeVec, check};
use crate::convert::Values;
use crate::{DType, Dim, Tensor, TensorType};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// Padding of the spatial axes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Padding {
    /// Elements before and after, per spatial axis.
    Explicit { begin: Vec<usize>, end: Vec<usize> },
    /// Output size `ceil(input / stride)`; an odd total puts the extra element at the end.
    SameUpper,
    /// The same with the extra element at the beginning.
    SameLower,
}

impl Padding {
    pub fn none(spatial: usize) -> Padding {
        Padding::Explicit { begin: vec![0; spatial], end: vec![0; spatial] }
    }

    /// Elements before and after on one spatial axis for a concrete input size.
    pub fn resolve(
        &self,
        axis: usize,
        input: usize,
        kernel: usize,
        stride: usize,
        dilation: usize,
    ) -> (usize, usize) {
        match self {
            Padding::Explicit { begin, end } => (begin[axis], end[axis]),
            Padding::SameUpper | Padding::SameLower => {
                let out = input.div_ceil(stride);
                let need =
                    (out.saturating_sub(1) * stride + (kernel - 1) * dilation + 1).saturating_sub(input);
                let small = need / 2;
                if matches!(self, Padding::SameUpper) { (small, need - small) } else { (need - small, small) }
            }
        }
    }
}

/// Convolution, **channels-last by definition**. Operands: x `[N, spatial.., C]`, w `[kernel.., C / groups, M]`, then the
/// epilogue's (bias `[M]`, extras broadcastable to the output). Output `[N, spatial.., M]`. 1 to 3 spatial axes. Output
/// channel `m` belongs to group `m / (M / groups)`. Cross-correlation, as in ONNX Conv.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Conv {
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub padding: Padding,
    pub groups: usize,
    pub epilogue: Epilogue,
}

/// Transposed convolution, **channels-last by definition**. Operands: x `[N, spatial.., C]`, w `[kernel.., C, M / groups]`,
/// then the epilogue's (bias `[M]`, ...). Output `[N, spatial.., M]`, each spatial size
/// `(in - 1) * stride + (kernel - 1) * dilation + 1 + output_padding - begin - end`; with `SameUpper`/`SameLower` it is
/// `in * stride`. Input channel `c` belongs to group `c / (C / groups)`, whose outputs are channels
/// `g * M / groups ..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConvTranspose {
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub padding: Padding,
    pub output_padding: Vec<usize>,
    pub groups: usize,
    pub epilogue: Epilogue,
}

/// Output size of a sliding window: `floor((in + begin + end - dilation * (kernel - 1) - 1) / stride) + 1`, or
/// `ceil(in / stride)`. Errors: the window does not fit into the padded input.
pub(super) fn window_output(
    padding: &Padding,
    axis: usize,
    input: &Dim,
    kernel: &Dim,
    stride: usize,
    dilation: usize,
    ceil: bool,
) -> Result<Dim, OpError> {
    let one = Dim::Fixed(1);
    let stride = Dim::from(stride);
    let out = match padding {
        Padding::Explicit { begin, end } => {
            let reach = kernel.sub(&one).mul(&Dim::from(dilation)).add(&one);
            let front = input.add(&Dim::from(begin[axis]));
            let room = front.add(&Dim::from(end[axis])).sub(&reach);
            if ceil {
                // The last window starts inside the input or the padding before it.
                room.ceil_div(&stride).add(&one).minimum(&front.ceil_div(&stride))
            } else {
                room.floor_div(&stride).add(&one)
            }
        }
        Padding::SameUpper | Padding::SameLower => input.ceil_div(&stride),
    };
    if out.fixed().is_some_and(|n| n < 0) {
        return Err(OpError::Shape(format!(
            "spatial axis {axis}: a window of {kernel} (dilation {dilation}) does not fit into {input} with {padding:?}"
        )));
    }
    Ok(out)
}

/// Errors unless the window attributes have one positive entry for each of `spatial` axes.
pub(super) fn check_window(
    spatial: usize,
    strides: &[usize],
    dilations: &[usize],
    padding: &Padding,
) -> Result<(), OpError> {
    check::per_axis("strides", strides, spatial)?;
    check::per_axis("dilations", dilations, spatial)?;
    if let Padding::Explicit { begin, end } = padding {
        check::per_axis("padding", begin, spatial)?;
        check::per_axis("padding", end, spatial)?;
    }
    for (name, list) in [("strides", strides), ("dilations", dilations)] {
        if list.contains(&0) {
            return Err(check::attribute(name, "has a zero"));
        }
    }
    Ok(())
}

/// Number of spatial axes of x `[N, spatial.., C]` with w of the same rank.
fn spatial_of(inputs: &[&TensorType]) -> Result<usize, OpError> {
    let r = inputs[0].rank();
    if !(3..=5).contains(&r) {
        return Err(OpError::Rank { operand: 0, got: r, want: "3 to 5".into() });
    }
    check::rank(inputs, 1, r)?;
    check::dtype(inputs, 0, |t| t != DType::Bool, "a number")?;
    check::same(inputs, 1, 0)?;
    if inputs[1].shape[..r - 2].iter().any(|k| k.fixed() == Some(0)) {
        return Err(OpError::Shape(format!("the kernel of {} is empty", inputs[1])));
    }
    Ok(r - 2)
}

/// A sliding window over up to three spatial axes, absent ones of size 1 in front.
pub(super) struct Window {
    pub input: [usize; 3],
    pub output: [usize; 3],
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
    pub dilation: [usize; 3],
    pub begin: [usize; 3],
    pub end: [usize; 3],
}

impl Window {
    /// For the spatial sizes of concrete shapes.
    pub(super) fn new(
        input: &[usize],
        output: &[usize],
        kernel: &[usize],
        strides: &[usize],
        dilations: &[usize],
        padding: &Padding,
    ) -> Window {
        let shift = 3 - input.len();
        let three = |list: &[usize], absent: usize| -> [usize; 3] {
            std::array::from_fn(|i| i.checked_sub(shift).map_or(absent, |i| list[i]))
        };
        let pads: Vec<(usize, usize)> = (0..input.len())
            .map(|i| padding.resolve(i, input[i], kernel[i], strides[i], dilations[i]))
            .collect();
        let (begin, end): (Vec<usize>, Vec<usize>) = pads.into_iter().unzip();
        Window {
            input: three(input, 1),
            output: three(output, 1),
            kernel: three(kernel, 1),
            stride: three(strides, 1),
            dilation: three(dilations, 1),
            begin: three(&begin, 0),
            end: three(&end, 0),
        }
    }

    pub(super) fn inputs(&self) -> usize {
        self.input.iter().product()
    }

    pub(super) fn outputs(&self) -> usize {
        self.output.iter().product()
    }

    /// Kernel elements of the window at output `o` that lie inside the padded input.
    pub(super) fn padded(&self, o: usize) -> usize {
        let at =
            [o / (self.output[1] * self.output[2]), o / self.output[2] % self.output[1], o % self.output[2]];
        let inside = |axis: usize| {
            let limit = self.input[axis] + self.begin[axis] + self.end[axis];
            let start = at[axis] * self.stride[axis];
            (0..self.kernel[axis]).filter(|k| start + k * self.dilation[axis] < limit).count()
        };
        inside(0) * inside(1) * inside(2)
    }

    /// Calls `f(kernel element, input element)` for what lies inside the input of the window at output `o`.
    pub(super) fn for_each(&self, o: usize, mut f: impl FnMut(usize, usize)) {
        let at =
            [o / (self.output[1] * self.output[2]), o / self.output[2] % self.output[1], o % self.output[2]];
        let place = |axis: usize, k: usize| {
            (at[axis] * self.stride[axis] + k * self.dilation[axis])
                .checked_sub(self.begin[axis])
                .filter(|i| *i < self.input[axis])
        };
        for kd in 0..self.kernel[0] {
            let Some(d) = place(0, kd) else { continue };
            for kh in 0..self.kernel[1] {
                let Some(h) = place(1, kh) else { continue };
                for kw in 0..self.kernel[2] {
                    let Some(w) = place(2, kw) else { continue };
                    f(
                        (kd * self.kernel[1] + kh) * self.kernel[2] + kw,
                        (d * self.input[1] + h) * self.input[2] + w,
                    );
                }
            }
        }
    }
}

/// Errors unless `groups` divides `channels` (where that is known).
fn check_groups(groups: usize, channels: &Dim, what: &str) -> Result<(), OpError> {
    if groups == 0 || channels.fixed().is_some_and(|c| c % groups as i64 != 0) {
        return Err(check::attribute("groups", format!("{groups} does not divide the {channels} {what}")));
    }
    Ok(())
}

impl Operator for Conv {
    const NAME: &'static str = "conv";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 2 + self.epilogue.operands())?;
        let spatial = spatial_of(inputs)?;
        check_window(spatial, &self.strides, &self.dilations, &self.padding)?;
        let (x, w) = (&inputs[0].shape, &inputs[1].shape);
        check_groups(self.groups, &x[spatial + 1], "input channels")?;
        check_groups(self.groups, &w[spatial + 1], "output channels")?;
        check::agree(
            &w[spatial].mul(&Dim::from(self.groups)),
            &x[spatial + 1],
            "channels of all groups of w against channels of x",
        )?;
        let mut out: check::Shape = SmallVec::new();
        out.push(x[0].clone());
        for i in 0..spatial {
            out.push(window_output(
                &self.padding,
                i,
                &x[i + 1],
                &w[i],
                self.strides[i],
                self.dilations[i],
                false,
            )?);
        }
        out.push(w[spatial + 1].clone());
        let dtype = self.epilogue.infer(inputs, 2, inputs[0].dtype, &out)?;
        Ok(check::one(dtype, out))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let out = &outputs[0];
        let (x, w) = (&inputs[0], &inputs[1]);
        let last = x.shape().len() - 1;
        let window = Window::new(
            &x.shape()[1..last],
            &out.shape[1..last],
            &w.shape()[..last - 1],
            &self.strides,
            &self.dilations,
            &self.padding,
        );
        let (n, c, m) = (x.shape()[0], x.shape()[last], w.shape()[last]);
        let acc = match (Values::of(x), Values::of(w)) {
            (Values::Float(x), Values::Float(w)) => {
                Values::Float(convolve(&window, n, c, m, self.groups, &x, &w))
            }
            (Values::Int(x), Values::Int(w)) => Values::Int(convolve(&window, n, c, m, self.groups, &x, &w)),
            _ => return Err(OpError::Eval("operands of different kinds".into())),
        };
        Ok(vec![self.epilogue.apply(acc, x.dtype(), inputs, 2, out)?])
    }

    fn flops(&self, inputs: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        let w = inputs[1];
        check::elements(outputs[0]) * (2.0 * check::elements(&w[..w.len() - 1]) + self.epilogue.flops())
    }
}

impl Operator for ConvTranspose {
    const NAME: &'static str = "conv_transpose";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 2 + self.epilogue.operands())?;
        let spatial = spatial_of(inputs)?;
        check_window(spatial, &self.strides, &self.dilations, &self.padding)?;
        check::per_axis("output_padding", &self.output_padding, spatial)?;
        let (x, w) = (&inputs[0].shape, &inputs[1].shape);
        check_groups(self.groups, &x[spatial + 1], "input channels")?;
        check::agree(&w[spatial], &x[spatial + 1], "input channels of w against channels of x")?;
        let mut out: check::Shape = SmallVec::new();
        out.push(x[0].clone());
        let one = Dim::Fixed(1);
        for i in 0..spatial {
            let stride = Dim::from(self.strides[i]);
            let d = match &self.padding {
                Padding::Explicit { begin, end } => x[i + 1]
                    .sub(&one)
                    .mul(&stride)
                    .add(&w[i].sub(&one).mul(&Dim::from(self.dilations[i])))
                    .add(&Dim::Fixed(1 + self.output_padding[i] as i64 - begin[i] as i64 - end[i] as i64)),
                Padding::SameUpper | Padding::SameLower => x[i + 1].mul(&stride),
            };
            if d.fixed().is_some_and(|n| n < 0) {
                return Err(OpError::Shape(format!(
                    "spatial axis {i}: padding takes away all of the output ({d})"
                )));
            }
            out.push(d);
        }
        out.push(w[spatial + 1].mul(&Dim::from(self.groups)));
        let dtype = self.epilogue.infer(inputs, 2, inputs[0].dtype, &out)?;
        Ok(check::one(dtype, out))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let out = &outputs[0];
        let (x, w) = (&inputs[0], &inputs[1]);
        let last = x.shape().len() - 1;
        let (from, to, kernel) = (&x.shape()[1..last], &out.shape[1..last], &w.shape()[..last - 1]);
        let mut begin = Vec::new();
        for i in 0..last - 1 {
            let full = (from[i].max(1) - 1) * self.strides[i] + (kernel[i] - 1) * self.dilations[i] + 1;
            let total = (full + self.output_padding[i]).saturating_sub(to[i]);
            begin.push(match &self.padding {
                Padding::Explicit { begin, .. } => begin[i],
                Padding::SameUpper => total / 2,
                Padding::SameLower => total - total / 2,
            });
        }
        // A transposed convolution spreads what the convolution over its output would gather.
        let padding = Padding::Explicit { end: vec![0; begin.len()], begin };
        let window = Window::new(to, from, kernel, &self.strides, &self.dilations, &padding);
        let (n, c, m) = (x.shape()[0], x.shape()[last], w.shape()[last] * self.groups);
        let acc = match (Values::of(x), Values::of(w)) {
            (Values::Float(x), Values::Float(w)) => {
                Values::Float(spread(&window, n, c, m, self.groups, &x, &w))
            }
            (Values::Int(x), Values::Int(w)) => Values::Int(spread(&window, n, c, m, self.groups, &x, &w)),
            _ => return Err(OpError::Eval("operands of different kinds".into())),
        };
        Ok(vec![self.epilogue.apply(acc, x.dtype(), inputs, 2, out)?])
    }

    fn flops(&self, inputs: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        let (x, w) = (inputs[0], inputs[1]);
        let per_input = check::elements(&w[..w.len() - 2]) * w[w.len() - 1] as f64;
        2.0 * check::elements(x) * per_input + check::elements(outputs[0]) * self.epilogue.flops()
    }
}

/// Sums of products, x `[n, inputs, c]` with w `[kernel, c / groups, m]` to `[n, outputs, m]`.
fn convolve<T: Accumulate>(
    window: &Window,
    n: usize,
    c: usize,
    m: usize,
    groups: usize,
    x: &[T],
    w: &[T],
) -> Vec<T> {
    let (cg, mg) = (c / groups, m / groups);
    let (inputs, outputs) = (window.inputs(), window.outputs());
    let mut out = vec![T::default(); n * outputs * m];
    for b in 0..n {
        for o in 0..outputs {
            let to = &mut out[(b * outputs + o) * m..][..m];
            window.for_each(o, |k, i| {
                let from = &x[(b * inputs + i) * c..][..c];
                for (j, v) in from.iter().enumerate() {
                    let (g, j) = (j / cg, j % cg);
                    axpy(&mut to[g * mg..(g + 1) * mg], *v, &w[(k * cg + j) * m + g * mg..][..mg]);
                }
            });
        }
    }
    out
}

/// The transposed counterpart: x `[n, outputs, c]` with w `[kernel, c, m / groups]` to `[n, inputs, m]`, where inputs and
/// outputs are those of the window.
fn spread<T: Accumulate>(
    window: &Window,
    n: usize,
    c: usize,
    m: usize,
    groups: usize,
    x: &[T],
    w: &[T],
) -> Vec<T> {
    let (cg, mg) = (c / groups, m / groups);
    let (inputs, outputs) = (window.inputs(), window.outputs());
    let mut out = vec![T::default(); n * inputs * m];
    for b in 0..n {
        for o in 0..outputs {
            let from = &x[(b * outputs + o) * c..][..c];
            window.for_each(o, |k, i| {
                let to = &mut out[(b * inputs + i) * m..][..m];
                for (j, v) in from.iter().enumerate() {
                    let g = j / cg;
                    axpy(&mut to[g * mg..(g + 1) * mg], *v, &w[(k * c + j) * mg..][..mg]);
                }
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;

    fn spread(padding: Padding, output_padding: usize) -> Vec<f32> {
        let op = Op::from(ConvTranspose {
            strides: vec![2],
            dilations: vec![1],
            padding,
            output_padding: vec![output_padding],
            groups: 1,
            epilogue: Epilogue::default(),
        });
        let x = Tensor::from_slice(&[1, 2, 1], &[1f32, 2.0]).unwrap();
        let w = Tensor::from_slice(&[3, 1, 1], &[1f32, 10.0, 100.0]).unwrap();
        op.eval(&[x, w], &[]).unwrap()[0].to_vec().unwrap()
    }

    #[test]
    fn a_transposed_convolution_crops_what_padding_says() {
        // The whole: 1 10 100 and, two further, 2 20 200.
        assert_eq!(spread(Padding::none(1), 0), [1.0, 10.0, 102.0, 20.0, 200.0]);
        assert_eq!(spread(Padding::none(1), 1), [1.0, 10.0, 102.0, 20.0, 200.0, 0.0]);
        // Twice the input's size: one too many, taken from the end, or from the beginning.
        assert_eq!(spread(Padding::SameUpper, 0), [1.0, 10.0, 102.0, 20.0]);
        assert_eq!(spread(Padding::SameLower, 0), [10.0, 102.0, 20.0, 200.0]);
        let explicit = Padding::Explicit { begin: vec![2], end: vec![1] };
        assert_eq!(spread(explicit, 0), [102.0, 20.0]);
    }

    #[test]
    fn the_same_padding_of_a_convolution() {
        let conv = |padding| {
            let op = Op::from(Conv {
                strides: vec![1],
                dilations: vec![1],
                padding,
                groups: 1,
                epilogue: Epilogue::default(),
            });
            let x = Tensor::from_slice(&[1, 3, 1], &[1f32, 2.0, 3.0]).unwrap();
            let w = Tensor::from_slice(&[2, 1, 1], &[1f32, 10.0]).unwrap();
            op.eval(&[x, w], &[]).unwrap()[0].to_vec::<f32>().unwrap()
        };
        assert_eq!(conv(Padding::SameUpper), [21.0, 32.0, 3.0]);
        assert_eq!(conv(Padding::SameLower), [10.0, 21.0, 32.0]);
    }
}
