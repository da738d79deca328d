//! Reads HTTP requests for servers that fail on purpose. Also a module of `http::testing`.

use std::io::{self, Read};

/// The head of a request: everything up to the empty line, and nothing after it.
pub(crate) fn read_head(mut stream: impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
