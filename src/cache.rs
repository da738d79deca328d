//! A cache of compiled packages. A package is found by its *key*, a digest of everything that
//! affects the compilation. An *entry* describes a cached package; its *contents* are the compiled
//! blob and the log, stored by their SHA-256.
//!
//! ```text
//! key         everything that affects a package, and its digest (pure)
//! difference  how two keys differ, in words (pure)
//! variables   which variables scripts inherit, and which are part of the key (pure)
//! root        the identity of the root file system
//! entry       the description of a cached package
//! sealed      JSON that contains its own digest (pure)
//! local       a cache in a directory: find, fetch, store
//! incoming    files that arrive from another cache
//! upkeep      lists, verifies and prunes a local cache
//! remote      a cache that several machines share
//! remotes     the shared caches of a run
//! ```
//!
//! The SHA-256 of everything that is read from a cache is verified before use. See
//! `docs/adr/0018-the-cache.md`.

mod damage;
mod difference;
mod entry;
mod incoming;
mod key;
mod known_sources;
mod local;
mod remote;
mod remotes;
mod root;
mod sealed;
mod storing;
mod upkeep;
mod variables;

pub use damage::{Damage, DamageKind};
pub use difference::{Difference, differences, in_words};
pub use entry::{Content, Entry, Form};
pub use key::{FORMAT, Key, KeyParts, SCRIPT_USER};
pub use local::{FetchError, LocalCache};
pub use remote::{
    CERTIFICATE, CERTIFICATE_KEY, Credentials, InvalidLocation, Location, Remote, TRANSFERS,
    time_limit,
};
pub use remotes::Remotes;
pub use root::root_identity;
pub use upkeep::{Listed, Pruned, Verified};
pub use variables::{inherited, variable_digests, without_credentials};
