//! `hosts_known`, which a window over all hosts takes for a distinct count: only its engine knows since when a host was heard of.

use arrow::datatypes::DataType;
use datafusion::common::{Result, not_impl_err, plan_err};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Signature, Volatility};

/// Its name.
pub const HOSTS_KNOWN: &str = "hosts_known";

/// The function as SQL names it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct HostsKnown {
    signature: Signature,
}

impl HostsKnown {
    pub fn new() -> Self {
        Self {
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }
}

impl AggregateUDFImpl for HostsKnown {
    fn name(&self) -> &str {
        HOSTS_KNOWN
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [DataType::Interval(_)] => Ok(types.to_vec()),
            _ => plan_err!("hosts_known takes a span, such as hosts_known(INTERVAL '10 minutes')"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("hosts_known counts in detections over windows of all hosts alone")
    }
}
