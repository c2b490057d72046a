//! Prints where the nodes of an ONNX model would go if every kernel existed: `lower model.onnx [--maximal] [--text]`.

use engraft_subgraph::{AcceptAll, PartitionOptions, PartitionPolicy, onnx, partition};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    let policy = if flag("--maximal") { PartitionPolicy::Maximal } else { PartitionPolicy::Profit };
    for path in arguments.iter().filter(|argument| !argument.starts_with("--")) {
        let read = std::time::Instant::now();
        let model = onnx::read_model(path)?;
        let read = read.elapsed();
        let start = std::time::Instant::now();
        let options = PartitionOptions { policy, ..PartitionOptions::default() };
        let partition = partition(&model.graph, &AcceptAll, &options);
        println!("{path}: read in {read:.1?}, partitioned in {:.1?}", start.elapsed());
        print!("{}", partition.report);
        if flag("--text") {
            for segment in &partition.segments {
                for (_, node) in segment.network.nodes() {
                    let types: Vec<String> = node
                        .outputs
                        .iter()
                        .map(|&value| format!("{value}: {}", segment.network.ty(value)))
                        .collect();
                    println!(
                        "    {} = {} {:?}  # {}",
                        types.join(", "),
                        node.op.name(),
                        node.inputs,
                        node.name
                    );
                }
            }
        }
    }
    Ok(())
}
