//! An HTTP/1.1 client for the agent's downloads and uploads: blobs, and settings from a metadata service.
//!
//! Each request has its own connection, as in the Go agent: an idle connection that the server has closed is never used, and dropping
//! a request's future ends everything that belongs to it. hyper implements HTTP and rustls TLS; this module connects the two.
//!
//! ```text
//! client     requests, redirects, responses
//!  ├─ body     a file as a request's body, delayed until the server asks for it
//!  ├─ connect  TCP, proxies, TLS
//!  │   ├─ proxies   selects a proxy by the environment
//!  │   ├─ stall     closes connections to silent peers
//!  │   └─ timeouts  time limits of the steps
//!  ├─ url      a URL that prints without its secrets
//!  └─ headers  headers that print without their values
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
mod timeouts;
mod url;

pub use body::Body;
pub use client::{Client, Response};
pub use error::Error;
pub use headers::{Headers, InvalidHeaders};
pub use hyper::StatusCode;
pub use timeouts::Timeouts;
pub use url::{InvalidUrl, Url};
