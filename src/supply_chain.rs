//! Documents about the supply chain of a compiled release, as JSON: software bills of materials (SBOMs) and provenance.
//!
//! [`ReleaseFacts`] describe a compiled release: its packages, their sources, digests and licenses, and its stemcell. [`cyclonedx()`] and
//! [`spdx()`] make SBOMs from them, [`provenance()`] makes a statement about how the release was compiled. Equal facts give equal documents.
//! No I/O.

mod cyclonedx;
mod facts;
mod license;
mod provenance;
mod spdx;
#[cfg(test)]
mod tests;

pub use cyclonedx::cyclonedx;
pub use facts::{
    BuildFacts, Creation, License, NamedBlob, Origin, PackageFacts, ReleaseFacts, StemcellFacts,
};
pub use license::{identify, is_license};
pub use provenance::{DEFAULT_BUILDER, provenance};
pub use spdx::spdx;

use serde_json::{Map, Value};

use crate::release::{Algorithm, Digests};

/// Removes nulls, empty lists and empty objects from lists and objects, because unknown facts are left out of documents.
fn known(value: Value) -> Value {
    let is_known = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    };
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| (key, known(value)));
            let fields = fields.filter(|(_, value)| is_known(value));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Value::Array(items) => {
            let items = items.into_iter().map(known).filter(is_known);
            Value::Array(items.collect())
        }
        other => other,
    }
}

/// A UUID of version 8 (RFC 9562) that is computed from the content of a document.
fn uuid_of(content: &Value) -> String {
    let digests = Digests::of(content.to_string().as_bytes(), &[Algorithm::Sha256]);
    let hex = digests.sha256().unwrap_or_default();
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default();
    format!(
        "{}-{}-8{}-8{}-{}",
        part(0..8),
        part(8..12),
        part(12..15),
        part(15..18),
        part(18..30)
    )
}
