//! Matrix products against the network's evaluation.

use super::check::{Given, Random, check, dtypes, epilogue, optimized};
use engraft_network::Op;
use engraft_network::ops::{Epilogue, MatMul};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_tactic_agrees_with_eval(
        m in prop_oneof![1usize..9, 1usize..40], k in 1usize..90, n in 1usize..80, deep in 0usize..12, batch in proptest::collection::vec(1usize..4, 0..3),
        a_lead in 0usize..4, b_lead in 0usize..4, trans_a: bool, trans_b: bool, constant: bool, bias: bool, which in 0usize..18,
        dtype in dtypes(),
        threads in 1usize..5, gap in 0usize..3, views in 0usize..4, seed in 1u64..u64::MAX,
    ) {
        let mut random = Random(seed);
        let k = if deep == 0 { k + 800 } else { k };
        // Leading axes of each operand: all, all but the first, none, or ones.
        let lead = |how: usize| match how {
            0 => batch.clone(),
            1 => batch.iter().skip(1).copied().collect(),
            2 => vec![],
            _ => batch.iter().map(|_| 1).collect(),
        };
        let matrix = |mut lead: Vec<usize>, rows: usize, cols: usize, transposed: bool| {
            lead.extend(if transposed { [cols, rows] } else { [rows, cols] });
            lead
        };
        let a_shape = matrix(lead(a_lead), m, k, trans_a);
        let b_shape = matrix(lead(b_lead), k, n, trans_b);
        let rank = a_shape.len().max(b_shape.len());
        let axis = |s: &[usize], i: usize| if i + s.len() >= rank { s[i + s.len() - rank] } else { 1 };
        let mut out: Vec<usize> = (0..rank - 2).map(|i| axis(&a_shape, i).max(axis(&b_shape, i))).collect();
        out.extend([m, n]);
        let (post, extras) = epilogue(which, dtype, &out);
        let op = Op::MatMul(MatMul { trans_a, trans_b, epilogue: Epilogue { bias, post } });
        let mut given = vec![Given::new(random.tensor(dtype, &a_shape)), Given::new(random.tensor(dtype, &b_shape))];
        given[1].constant = constant;
        if bias {
            given.push(Given::new(random.tensor(dtype, &[n])));
        }
        for shape in &extras {
            given.push(Given::new(random.tensor(dtype, shape)));
        }
        // Operands as views: the last two axes swapped in memory, or heads interleaved, rows apart.
        let (ra, rb) = (a_shape.len(), b_shape.len());
        if views & 1 != 0 {
            given[0].gap = gap;
            given[0].order.swap(ra - 1, ra - 2);
        }
        if views & 2 != 0 && !constant {
            given[1].gap = gap;
            if rb > 2 { given[1].order.swap(rb - 2, rb - 3) } else { given[1].order.swap(0, 1) }
        }
        let taken = check(&optimized(), &op, &given, threads, gap)?;
        prop_assert!(taken > 0, "nobody took it");
    }
}
