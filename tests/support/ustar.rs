//! A small writer of ustar archives with any name, order, owner and type, which tar would not write.

/// The time of all entries, unless a test sets another one: equal contents make equal archives.
pub(crate) const TIME: u64 = 1_600_000_000;

/// The type of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    /// The global header at the start of archives from `git archive`.
    PaxGlobal,
}

/// An entry.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) names: (&'static str, &'static str),
    pub(crate) link: String,
    pub(crate) content: Vec<u8>,
    /// In seconds since 1970.
    pub(crate) time: u64,
}

impl Member {
    pub(crate) fn file(name: &str, content: &[u8]) -> Self {
        Self {
            name: name.to_owned(),
            kind: Kind::File,
            mode: 0o600,
            owner: (1001, 1002),
            names: ("builder", "builders"),
            link: String::new(),
            content: content.to_vec(),
            time: TIME,
        }
    }

    pub(crate) fn directory(name: &str) -> Self {
        Self {
            kind: Kind::Directory,
            mode: 0o755,
            ..Self::file(name, b"")
        }
    }

    pub(crate) fn link(kind: Kind, name: &str, link: &str) -> Self {
        Self {
            kind,
            link: link.to_owned(),
            ..Self::file(name, b"")
        }
    }
}

/// The archive of these entries, with the two zero blocks at its end.
pub(crate) fn archive(members: &[Member]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for member in members {
        bytes.extend(header(member));
        bytes.extend(&member.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn header(member: &Member) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    assert!(
        member.name.len() <= 100 && member.link.len() <= 100,
        "`{}` is too long for this writer",
        member.name
    );
    put(0, member.name.as_bytes());
    put(100, format!("{:07o}\0", member.mode).as_bytes());
    put(108, format!("{:07o}\0", member.owner.0).as_bytes());
    put(116, format!("{:07o}\0", member.owner.1).as_bytes());
    put(124, format!("{:011o}\0", member.content.len()).as_bytes());
    put(136, format!("{:011o}\0", member.time).as_bytes());
    put(148, b"        ");
    put(
        156,
        match member.kind {
            Kind::File => b"0",
            Kind::HardLink => b"1",
            Kind::Symlink => b"2",
            Kind::Directory => b"5",
            Kind::PaxGlobal => b"g",
        },
    );
    put(157, member.link.as_bytes());
    put(257, b"ustar\x0000");
    put(265, member.names.0.as_bytes());
    put(297, member.names.1.as_bytes());
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
