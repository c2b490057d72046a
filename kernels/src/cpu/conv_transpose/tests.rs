//! Transposed convolutions against the network's evaluation.

use crate::cpu::gemm::check::{Given, Random, check, dtypes, epilogue, optimized};
use engraft_network::Op;
use engraft_network::ops::{ConvTranspose, Epilogue, Padding};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_tactic_agrees_with_eval(
        spatial in 1usize..4, batch in 1usize..3, size in [1usize..8, 1usize..8, 1usize..8], kernel in [1usize..5, 1usize..5, 1usize..5],
        stride in [1usize..4, 1usize..4, 1usize..4], dilation in [1usize..3, 1usize..3, 1usize..3],
        begin in [0usize..3, 0usize..3, 0usize..3], end in [0usize..3, 0usize..3, 0usize..3], extra in [0usize..3, 0usize..3, 0usize..3],
        same in 0usize..8, groups in prop_oneof![2 => Just(1usize), 1 => 2usize..4], channels in 1usize..14, outputs in 1usize..40,
        constant: bool, bias: bool, which in 0usize..18, threads in 1usize..5, gap in 0usize..3, seed in 1u64..u64::MAX,
        dtype in dtypes(),
    ) {
        let mut random = Random(seed);
        let take = |a: &[usize; 3]| a[..spatial].to_vec();
        let (strides, dilations, output_padding) = (take(&stride), take(&dilation), take(&extra));
        let padding = match same {
            0 => Padding::SameUpper,
            1 => Padding::SameLower,
            _ => Padding::Explicit { begin: take(&begin), end: take(&end) },
        };
        let mut out = vec![batch];
        for d in 0..spatial {
            prop_assume!(extra[d] < strides[d].max(dilations[d]));
            let full = (size[d] - 1) * strides[d] + (kernel[d] - 1) * dilations[d] + 1 + extra[d];
            let n = if same < 2 { size[d] * strides[d] } else { full.saturating_sub(begin[d] + end[d]) };
            prop_assume!(n > 0 && n <= full);
            out.push(n);
        }
        out.push(groups * outputs);
        let mut x = vec![batch];
        x.extend(&size[..spatial]);
        x.push(groups * channels);
        let mut w = take(&kernel);
        w.extend([groups * channels, outputs]);
        let (post, extras) = epilogue(which, dtype, &out);
        let op = Op::ConvTranspose(ConvTranspose {
            strides, dilations, padding, output_padding, groups, epilogue: Epilogue { bias, post },
        });
        let mut given = vec![Given::new(random.tensor(dtype, &x)), Given::new(random.tensor(dtype, &w))];
        given[0].gap = gap;
        given[1].constant = constant;
        if bias {
            given.push(Given::new(random.tensor(dtype, &[groups * outputs])));
        }
        for shape in &extras {
            given.push(Given::new(random.tensor(dtype, shape)));
        }
        let taken = check(&optimized(), &op, &given, threads, gap)?;
        prop_assert!(taken > 0, "nobody took it");
    }
}
