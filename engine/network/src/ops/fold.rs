use super::conv::{check_window, window_output};
use super::{Fresh, OpError, Operator, OutputType, Padding, TypeVec, check};
use crate::{Dim, Tensor, TensorType};
use serde::{Deserialize, Serialize};

/// ONNX Col2Im, channels first: sums blocks `[N, C * product of block, L]` into images `[N, C, image..]`, L counting the
/// places of the block in the padded image, row-major. 1 to 3 spatial axes; explicit padding.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fold {
    pub image: Vec<Dim>,
    pub block: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub padding: Padding,
}

impl Fold {
    /// Places of the block along each axis.
    fn places(&self) -> Result<Vec<Dim>, OpError> {
        (0..self.image.len())
            .map(|i| {
                let block = Dim::from(self.block[i]);
                let (stride, dilation) = (self.strides[i], self.dilations[i]);
                window_output(&self.padding, i, &self.image[i], &block, stride, dilation, false)
            })
            .collect()
    }
}

impl Operator for Fold {
    const NAME: &'static str = "fold";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        let t = check::float(inputs, 0)?;
        check::rank(inputs, 0, 3)?;
        let spatial = self.image.len();
        if !(1..=3).contains(&spatial) {
            return Err(check::attribute("image", format!("has {spatial} axes, wants 1 to 3")));
        }
        check::not_negative("image", &self.image)?;
        check::per_axis("block", &self.block, spatial)?;
        check_window(spatial, &self.strides, &self.dilations, &self.padding)?;
        if self.block.contains(&0) {
            return Err(check::attribute("block", "has a zero"));
        }
        if !matches!(self.padding, Padding::Explicit { .. }) {
            return Err(check::attribute("padding", "is not explicit"));
        }
        let (x, elements) = (&inputs[0].shape, Dim::from(self.block.iter().product::<usize>()));
        let channels = x[1].floor_div(&elements);
        check::agree(&channels.mul(&elements), &x[1], "elements of blocks against their channels")?;
        check::agree(&Dim::product(&self.places()?), &x[2], "places of the block against blocks")?;
        Ok(check::one(t, [x[0].clone(), channels].into_iter().chain(self.image.iter().cloned())))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let out = &outputs[0];
        let shape = &out.shape[2..];
        let places: Vec<usize> = self.places()?.iter().map(|d| d.fixed().map_or(0, |n| n as usize)).collect();
        let Padding::Explicit { begin, .. } = &self.padding else {
            return Err(check::attribute("padding", "is not explicit"));
        };
        let (elements, count, size): (usize, usize, usize) =
            (self.block.iter().product(), places.iter().product(), shape.iter().product());
        let columns = inputs[0].to_f64s();
        let mut y = vec![0.0; out.shape[0] * out.shape[1] * size];
        for (i, v) in columns.iter().enumerate() {
            let (plane, mut element, mut place) = (i / (elements * count), i / count % elements, i % count);
            let (mut at, mut step) = (plane * size, 1);
            let mut inside = true;
            for a in (0..shape.len()).rev() {
                let x = (place % places[a]) * self.strides[a] + (element % self.block[a]) * self.dilations[a];
                (element, place) = (element / self.block[a], place / places[a]);
                match x.checked_sub(begin[a]).filter(|x| *x < shape[a]) {
                    Some(x) => at += x * step,
                    None => inside = false,
                }
                step *= shape[a];
            }
            if inside {
                y[at] += v;
            }
        }
        Ok(vec![Tensor::from_f64s(out.dtype, &out.shape, &y)?])
    }

    fn flops(&self, inputs: &[&[usize]], _: &[&[usize]]) -> f64 {
        check::elements(inputs[0])
    }

    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        self.image.iter_mut().for_each(|d| *d = f(d));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;

    fn fold(op: Fold, columns: &[usize], x: &[f32]) -> Vec<f32> {
        let x = Tensor::from_slice(columns, x).unwrap();
        Op::from(op).eval(&[x], &[]).unwrap()[0].to_vec().unwrap()
    }

    #[test]
    fn overlapping_blocks_are_summed() {
        let mut op = Fold {
            image: vec![Dim::Fixed(4)],
            block: vec![2],
            strides: vec![1],
            dilations: vec![1],
            padding: Padding::none(1),
        };
        // Blocks (1 4), (2 5), (3 6) at 0, 1, 2.
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(fold(op.clone(), &[1, 2, 3], &x), [1.0, 6.0, 8.0, 6.0]);
        // With one element of padding on either side: blocks at -1, 1, 3 in steps of 2.
        op.padding = Padding::Explicit { begin: vec![1], end: vec![1] };
        op.strides = vec![2];
        assert_eq!(fold(op.clone(), &[1, 2, 3], &x), [4.0, 2.0, 5.0, 3.0]);
        // Elements two apart: blocks (1 4), (2 5) at 0, 1.
        op = Fold { padding: Padding::none(1), strides: vec![1], dilations: vec![2], ..op };
        assert_eq!(fold(op, &[1, 2, 2], &[1.0, 2.0, 4.0, 5.0]), [1.0, 2.0, 4.0, 5.0]);
    }

    #[test]
    fn blocks_and_images_count_row_by_row() {
        let op = Fold {
            image: vec![Dim::Fixed(2), Dim::Fixed(3)],
            block: vec![1, 2],
            strides: vec![1, 1],
            dilations: vec![1, 1],
            padding: Padding::none(2),
        };
        let x: Vec<f32> = (0..8).map(|i| i as f32).collect();
        // Left elements 0 1 / 2 3, right elements 4 5 / 6 7.
        assert_eq!(fold(op, &[1, 2, 4], &x), [0.0, 5.0, 5.0, 2.0, 9.0, 7.0]);
    }
}
