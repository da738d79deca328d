//! Paths and arguments in JSON: as text if they are UTF-8, otherwise as an array of bytes. `serde` itself refuses a path that is not UTF-8.
//!
//! Used as `#[serde(with = "wire")]` on a field that is a path, or a vector, option or pair of paths.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A path in JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum WirePath {
    Text(String),
    Bytes(Vec<u8>),
}

/// A path, or a type that consists of paths.
pub(super) trait Paths {
    type Wire: Serialize + for<'de> Deserialize<'de>;

    fn to_wire(&self) -> Self::Wire;
    fn from_wire(wire: Self::Wire) -> Self;
}

impl Paths for PathBuf {
    type Wire = WirePath;

    fn to_wire(&self) -> WirePath {
        match self.to_str() {
            Some(text) => WirePath::Text(text.to_owned()),
            None => WirePath::Bytes(self.as_os_str().as_bytes().to_vec()),
        }
    }

    fn from_wire(wire: WirePath) -> Self {
        match wire {
            WirePath::Text(text) => text.into(),
            WirePath::Bytes(bytes) => OsString::from_vec(bytes).into(),
        }
    }
}

impl Paths for OsString {
    type Wire = WirePath;

    fn to_wire(&self) -> WirePath {
        PathBuf::from(self).to_wire()
    }

    fn from_wire(wire: WirePath) -> Self {
        PathBuf::from_wire(wire).into()
    }
}

impl<T: Paths> Paths for Vec<T> {
    type Wire = Vec<T::Wire>;

    fn to_wire(&self) -> Self::Wire {
        self.iter().map(Paths::to_wire).collect()
    }

    fn from_wire(wire: Self::Wire) -> Self {
        wire.into_iter().map(Paths::from_wire).collect()
    }
}

impl<T: Paths> Paths for Option<T> {
    type Wire = Option<T::Wire>;

    fn to_wire(&self) -> Self::Wire {
        self.as_ref().map(Paths::to_wire)
    }

    fn from_wire(wire: Self::Wire) -> Self {
        wire.map(T::from_wire)
    }
}

impl<A: Paths, B: Paths> Paths for (A, B) {
    type Wire = (A::Wire, B::Wire);

    fn to_wire(&self) -> Self::Wire {
        (self.0.to_wire(), self.1.to_wire())
    }

    fn from_wire((a, b): Self::Wire) -> Self {
        (A::from_wire(a), B::from_wire(b))
    }
}

pub(super) fn serialize<T: Paths, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    value.to_wire().serialize(serializer)
}

pub(super) fn deserialize<'de, T: Paths, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    T::Wire::deserialize(deserializer).map(T::from_wire)
}
