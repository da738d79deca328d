//! An HTTP client for the agent's downloads and uploads: blobs, and settings from a metadata service.
//!
//! Each HTTP/1.1 request has its own connection, as in the Go agent. So an idle connection that the server
//! has already closed is never used, and dropping a request's future ends the connection, too.
//! hyper implements HTTP, and rustls implements TLS.
//!
//! ```text
//! client     requests, redirects, responses
//!  ├─ body     a file as a request's body, delayed until the server asks for it
//!  ├─ connect  TCP, proxies, TLS
//!  │   ├─ proxies   selects a proxy by the environment
//!  │   ├─ stall     closes connections to silent peers
//!  │   └─ timeouts  time limits of the steps
//!  ├─ http2    a connection with several requests, for gRPC
//!  ├─ url      a URL that prints without its secrets
//!  └─ headers  headers that print without their values
//! ```

mod body;
mod client;
mod connect;
mod error;
mod headers;
mod http2;
mod proxies;
mod stall;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod timeouts;
mod url;

pub(crate) use body::Body;
pub(crate) use client::{Client, Response, USER_AGENT};
pub(crate) use error::{Error, is_busy, is_timeout};
pub use headers::Headers;
pub(crate) use headers::InvalidHeaders;
pub(crate) use http2::Http2;
pub(crate) use hyper::StatusCode;
pub(crate) use timeouts::Timeouts;
pub(crate) use url::InvalidUrl;
pub use url::Url;
