//! Symbol values: from concrete inputs, and representative ones.

use crate::{Dim, DimEnv, Network, Node, Op, SymbolId, SymbolSource, TensorType, ValueId};

/// Why concrete inputs do not fit a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    #[error("rank is {got}, not {want}")]
    Rank { input: usize, want: usize, got: usize },
    #[error("axis {axis} is {got}, not {want} ({dim})")]
    Size { input: usize, axis: usize, want: i64, got: usize, dim: String },
    #[error("it has no element {index}, which a shape depends on")]
    Element { input: usize, index: usize },
}

impl BindError {
    /// Position of the input at fault.
    pub fn input(&self) -> Option<usize> {
        match self {
            BindError::Rank { input, .. }
            | BindError::Size { input, .. }
            | BindError::Element { input, .. } => Some(*input),
        }
    }
}

impl Network {
    /// Fills `env` (one entry per symbol) from the inputs' shapes and, for shape tensors, elements. Symbols that only
    /// data tells are left alone. Allocates nothing unless it fails.
    ///
    /// Every dim of every input is checked against the symbols' values.
    pub fn bind<'s>(
        &self,
        shape: &dyn Fn(usize) -> &'s [usize],
        element: &dyn Fn(usize, usize) -> i64,
        env: &mut DimEnv,
    ) -> Result<(), BindError> {
        for (i, v) in self.inputs.iter().enumerate() {
            let (want, got) = (self.ty(*v).rank(), shape(i).len());
            if want != got {
                return Err(BindError::Rank { input: i, want, got });
            }
        }
        for (value, s) in env.iter_mut().zip(&self.symbols) {
            match s.source {
                SymbolSource::InputDim { input, axis } => {
                    *value = shape(input as usize).get(axis as usize).map_or(0, |d| *d as i64);
                }
                SymbolSource::InputElement { input, index } => {
                    if index as usize >= shape(input as usize).iter().product() {
                        return Err(BindError::Element { input: input as usize, index: index as usize });
                    }
                    *value = element(input as usize, index as usize);
                }
                SymbolSource::Data { .. } | SymbolSource::DataElement { .. } => {}
            }
        }
        for (i, v) in self.inputs.iter().enumerate() {
            for (axis, (dim, got)) in self.ty(*v).shape.iter().zip(shape(i)).enumerate() {
                let want = dim.eval(env);
                if want != *got as i64 {
                    return Err(BindError::Size { input: i, axis, want, got: *got, dim: self.dim_name(dim) });
                }
            }
        }
        Ok(())
    }

    /// The dim as people know it: a lone symbol by its name.
    fn dim_name(&self, dim: &Dim) -> String {
        match dim.as_symbol() {
            Some(s) => format!("`{}`", self.symbols[s.0 as usize].name),
            None => dim.to_string(),
        }
    }

    /// Sizes that stand for "typical" where none are given: FLOP shares, tactic choice and layout are judged by them.
    ///
    /// Each symbol has its [`Network::representative_size`], except where the network's own reshapes and elementwise
    /// operators rule that out (a recogniser of text lines takes one height only): then one that they allow, if one of a
    /// list of common sizes does.
    pub fn representative_env(&self) -> Vec<i64> {
        let mut env: Vec<i64> =
            (0..self.symbols.len() as u32).map(|s| self.representative_size(SymbolId(s))).collect();
        self.reconcile(&mut env);
        env
    }

    /// The typical size of one symbol: a symbolic first axis is a batch of 1; other axes of inputs of rank 4 and 5 are 224
    /// (images), of lower ranks 128 (sequences); elements of shape tensors are 1; sizes that only data tells are 64.
    pub fn representative_size(&self, symbol: SymbolId) -> i64 {
        match self.symbols[symbol.0 as usize].source {
            SymbolSource::InputDim { axis: 0, .. } => 1,
            SymbolSource::InputDim { input, .. } => {
                let ty = self.inputs.get(input as usize).map(|v| self.ty(*v));
                let image = |ty: &TensorType| {
                    matches!(ty.rank(), 4 | 5) && ty.shape[1].fixed().is_some_and(|c| c <= 4)
                };
                if ty.is_some_and(image) { 224 } else { 128 }
            }
            SymbolSource::InputElement { .. } => 1,
            SymbolSource::Data { .. } | SymbolSource::DataElement { .. } => 64,
        }
    }

    /// Changes sizes of inputs and elements of shapes until no operator contradicts them, as far as common sizes reach.
    fn reconcile(&self, env: &mut [i64]) {
        const COMMON: [i64; 24] = [
            48, 32, 64, 96, 128, 160, 192, 224, 256, 320, 384, 512, 640, 80, 112, 16, 8, 4, 2, 1, 1024, 4096,
            16384, 65536,
        ];
        let constraints: Vec<&Node> = self
            .nodes()
            .map(|(_, node)| node)
            .filter(|node| {
                matches!(node.op, Op::Reshape(_) | Op::Binary(_) | Op::Conv(_) | Op::Pool(_) | Op::Stft(_))
            })
            .filter(|node| self.ty(node.outputs[0]).fixed_shape().is_none())
            .collect();
        let broken = |env: &[i64]| constraints.iter().filter(|node| !self.holds(node, env)).count();
        let mut worst = broken(env);
        while worst > 0 {
            let mut suspects = std::collections::BTreeSet::new();
            for node in constraints.iter().filter(|node| !self.holds(node, env)) {
                for value in node.inputs.iter().chain(&node.outputs) {
                    self.ty(*value).shape.iter().for_each(|d| {
                        d.for_each_symbol(&mut |s| {
                            suspects.insert(s);
                        });
                    });
                }
            }
            let mut best: Option<(usize, SymbolId, i64)> = None;
            for symbol in suspects {
                let index = symbol.0 as usize;
                // An element of a shape may also ask for what is left.
                let rest: &[i64] = match self.symbols[index].source {
                    SymbolSource::InputDim { .. } => &[],
                    SymbolSource::InputElement { .. } | SymbolSource::DataElement { .. } => &[-1],
                    SymbolSource::Data { .. } => continue,
                };
                let old = env[index];
                for size in rest.iter().copied().chain(COMMON) {
                    env[index] = size;
                    let count = broken(env);
                    if count < best.map_or(worst, |b| b.0) {
                        best = Some((count, symbol, size));
                    }
                }
                env[index] = old;
            }
            let Some((count, symbol, size)) = best else { return };
            env[symbol.0 as usize] = size;
            worst = count;
        }
    }

    /// Whether a reshape keeps the number of elements, a window fits into its signal or image, or the operands of an
    /// elementwise operator broadcast.
    fn holds(&self, node: &Node, env: &DimEnv) -> bool {
        let sizes = |v: ValueId| self.ty(v).shape.iter().map(move |d| d.eval(env));
        match node.op {
            Op::Reshape(_) => {
                let count = |v| sizes(v).fold(1i64, i64::wrapping_mul);
                count(node.inputs[0]) == count(node.outputs[0])
            }
            Op::Conv(_) | Op::Pool(_) | Op::Stft(_) => sizes(node.outputs[0]).all(|size| size > 0),
            _ => sizes(node.inputs[0])
                .rev()
                .zip(sizes(node.inputs[1]).rev())
                .all(|(a, b)| a == b || a == 1 || b == 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, ops};

    #[test]
    fn representative_sizes_fit_the_network() {
        let mut net = Network::new("t");
        let [h, w] = [("h", 2), ("w", 3)]
            .map(|(name, axis)| Dim::symbol(net.add_symbol(name, SymbolSource::InputDim { input: 0, axis })));
        let shape = [Dim::Fixed(1), Dim::Fixed(3), h.clone(), w.clone()];
        net.add_input("x", TensorType::new(DType::F32, shape));
        assert_eq!(net.representative_env(), [224, 224]);
        // Fits only where floor(h / 32) is 1.
        let one = net.add_constant("one", crate::Tensor::scalar(1f32));
        let line = h.floor_div(&Dim::Fixed(32)).mul(&w);
        let line = net.add("line", ops::Expand { shape: vec![line] }.into(), &[one]).unwrap();
        let y = net.add("y", ops::Reshape { shape: vec![Dim::Fixed(1), w] }.into(), &[line]).unwrap();
        net.set_outputs(vec![y]);
        assert_eq!(net.representative_env(), [48, 224]);
    }

    #[test]
    fn a_bound_input_is_a_constant_and_the_others_move_up() {
        let mut net = Network::new("t");
        let rows = Dim::symbol(net.add_symbol("rows", SymbolSource::InputDim { input: 1, axis: 0 }));
        let w = net.add_input("w", TensorType::new(DType::F32, [Dim::Fixed(2)]));
        let x = net.add_input("x", TensorType::new(DType::F32, [rows, Dim::Fixed(2)]));
        net.set_outputs(vec![x, w]);
        let tensor = |values: &[f32]| crate::Tensor::from_slice(&[values.len()], values).unwrap();
        assert!(net.bind_input(0, tensor(&[1.0; 3])).is_err(), "another shape");
        assert!(
            net.bind_input(1, crate::Tensor::zeros(DType::F32, &[4, 2]).unwrap()).is_err(),
            "it tells `rows`"
        );
        assert!(net.bind_input(2, tensor(&[1.0])).is_err(), "there is none");
        net.bind_input(0, tensor(&[1.0, 2.0])).unwrap();
        assert_eq!(net.inputs(), [x]);
        assert_eq!(net.constant(w).unwrap().to_vec::<f32>().unwrap(), [1.0, 2.0]);
        let mut env = vec![0];
        net.bind(&|_| &[5, 2], &|_, _| 0, &mut env).unwrap();
        assert_eq!(env, [5]);
    }

    #[test]
    fn representative_signals_have_a_frame() {
        let mut net = Network::new("t");
        let samples = Dim::symbol(net.add_symbol("samples", SymbolSource::InputDim { input: 0, axis: 1 }));
        let x = net.add_input("x", TensorType::new(DType::F32, [Dim::Fixed(1), samples, Dim::Fixed(1)]));
        let op = ops::Stft { length: Dim::Fixed(400), step: 160, onesided: true, window: false };
        let y = net.add("y", op.into(), &[x]).unwrap();
        net.set_outputs(vec![y]);
        assert_eq!(net.representative_env(), [512]);
    }
}
