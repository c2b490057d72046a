//! The kernel catalog as the partitioner sees it.

use engraft_engine::assess;
use engraft_kernels::Isa;
use engraft_network::{Network, NodeId};
use engraft_subgraph::{Capability, Cost, Reject};

/// Accepts what the catalog of CPU tactics takes under one instruction set.
#[derive(Clone, Copy, Debug)]
pub struct CpuCapability {
    pub isa: Isa,
}

impl Capability for CpuCapability {
    fn accept(&self, network: &Network, node: NodeId) -> Result<Cost, Reject> {
        let a = assess(network, node, self.isa).map_err(Reject::new)?;
        Ok(Cost { reference: a.reference_only, nanoseconds: Some(a.cost_ns) })
    }
}
