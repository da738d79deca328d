//! An HTTP/1.1 client for what the agent fetches and stores: blobs, and settings from a metadata service.
//!
//! One connection for each request, as the Go agent makes them: a server that went away in between is never met, and a request
//! ends with everything that belongs to it when its future is dropped. hyper speaks HTTP, rustls TLS; here is what lies between
//! and around them.
//!
//! ```text
//! client     requests, redirects, responses
//!  ├─ body     a file on its way out, held back until the server wants it
//!  ├─ connect  dialling, proxies, TLS
//!  │   ├─ proxies  which of them, by the environment
//!  │   └─ stall    the time without a single byte after which a peer is taken for dead
//!  ├─ url      a URL that prints without its secrets
//!  └─ headers  headers whose values do not print
//! ```

mod body;
mod client;
mod connect;
mod error;
mod headers;
mod proxies;
mod stall;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod url;

pub use body::Body;
pub use client::{Client, Limits, Response};
pub use error::Error;
pub use headers::{Headers, InvalidHeaders};
pub use hyper::StatusCode;
pub use url::{InvalidUrl, Url};
