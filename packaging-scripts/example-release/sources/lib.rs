//! Empty: cargo wants a target, and this manifest only pins sources.
