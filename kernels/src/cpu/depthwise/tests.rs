//! Images that are too wide for one block, and rings that turn more than once.

use crate::cpu::gemm::check::{Given, Random, check, epilogue, optimized};
use crate::tactic::Tactic;
use engraft_network::ops::{Conv, Epilogue, Padding};
use engraft_network::{DType, Op};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn wide_images_agree_with_eval(
        narrow: bool, size in [1usize..3, 1usize..24, 1usize..160], kernel in [1usize..3, 1usize..6, 1usize..8],
        stride in [1usize..3, 1usize..4, 1usize..4], dilation in [1usize..2, 1usize..4, 1usize..3], pad in [0usize..2, 0usize..4, 0usize..4],
        channels in 1usize..150, bias: bool, which in 0usize..18, threads in 1usize..4, gap in 0usize..3, seed in 1u64..u64::MAX,
    ) {
        let dtype = if narrow { DType::BF16 } else { DType::F32 };
        let mut random = Random(seed);
        let mut out = vec![1];
        for d in 0..3 {
            let span = (kernel[d] - 1) * dilation[d] + 1;
            prop_assume!(size[d] + 2 * pad[d] >= span);
            out.push((size[d] + 2 * pad[d] - span) / stride[d] + 1);
        }
        out.push(channels);
        let x = [&[1], &size[..], &[channels]].concat();
        let weights = [&kernel[..], &[1, channels]].concat();
        let (post, extras) = epilogue(which, dtype, &out);
        let op = Op::Conv(Conv {
            strides: stride.to_vec(),
            dilations: dilation.to_vec(),
            padding: Padding::Explicit { begin: pad.to_vec(), end: pad.to_vec() },
            groups: channels,
            epilogue: Epilogue { bias, post },
        });
        let mut given = vec![Given::new(random.tensor(dtype, &x)), Given::new(random.tensor(dtype, &weights))];
        given[0].gap = gap;
        given[1].constant = true;
        if bias {
            given.push(Given::new(random.tensor(DType::F32, &[channels])));
        }
        given.extend(extras.iter().map(|shape| Given::new(random.tensor(dtype, shape))));
        let own: Vec<&'static dyn Tactic> =
            optimized().into_iter().filter(|t| t.id().starts_with("depthwise.")).collect();
        let taken = check(&own, &op, &given, threads, gap)?;
        prop_assert!(taken > 0, "nobody took it");
    }

    #[test]
    fn few_channels_in_planes_agree_with_eval(
        size in [1usize..40, 1usize..60], kernel in [1usize..6, 1usize..6], stride in [1usize..4, 1usize..4],
        dilation in [1usize..3, 1usize..3], pad in [0usize..3, 0usize..3], inputs in 1usize..5, outputs in 2usize..70, planes: bool,
        constant: bool, bias: bool, which in 0usize..18, threads in 1usize..4, gap in 0usize..3, seed in 1u64..u64::MAX,
    ) {
        let mut random = Random(seed);
        let mut out = vec![2];
        for d in 0..2 {
            let span = (kernel[d] - 1) * dilation[d] + 1;
            prop_assume!(size[d] + 2 * pad[d] >= span);
            out.push((size[d] + 2 * pad[d] - span) / stride[d] + 1);
        }
        out.push(outputs);
        let (post, extras) = epilogue(which, DType::F32, &out);
        let op = Op::Conv(Conv {
            strides: stride.to_vec(),
            dilations: dilation.to_vec(),
            padding: Padding::Explicit { begin: pad.to_vec(), end: pad.to_vec() },
            groups: 1,
            epilogue: Epilogue { bias, post },
        });
        let x = [&[2], &size[..], &[inputs]].concat();
        let weights = [&kernel[..], &[inputs, outputs]].concat();
        let mut given: Vec<Given> =
            [x, weights].iter().map(|shape| Given::new(random.tensor(DType::F32, shape))).collect();
        if planes {
            given[0].order = vec![0, 3, 1, 2];
        }
        given[0].gap = gap;
        given[1].constant = constant;
        if bias {
            given.push(Given::new(random.tensor(DType::F32, &[outputs])));
        }
        given.extend(extras.iter().map(|shape| Given::new(random.tensor(DType::F32, shape))));
        let own: Vec<&'static dyn Tactic> =
            optimized().into_iter().filter(|t| t.id().starts_with("conv.few.")).collect();
        let taken = check(&own, &op, &given, threads, gap)?;
        prop_assert!(taken > 0, "nobody took it");
    }
}
