//! Builds archives header by header, with any content of the fields.

use tar::Header;

use crate::archive::entry::Kind;

/// An archive under construction.
#[derive(Default, Clone)]
pub(super) struct Raw(Vec<u8>);

impl Raw {
    /// Adds an entry. `change` may corrupt its header; the checksum is computed afterwards.
    pub(super) fn entry(
        mut self,
        kind: u8,
        name: &[u8],
        link: &[u8],
        content: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = Header::new_gnu();
        let fields = header.as_gnu_mut().unwrap();
        fields.name[..name.len()].copy_from_slice(name);
        fields.linkname[..link.len()].copy_from_slice(link);
        fields.typeflag = [kind];
        header.set_mode(0o644);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.data(content)
    }

    /// Adds bytes, padded to a block.
    pub(super) fn data(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(b'0', name.as_bytes(), b"", content, |_| {})
    }

    pub(super) fn directory(self, name: &str) -> Self {
        self.entry(b'5', name.as_bytes(), b"", b"", |header| {
            header.set_mode(0o755);
        })
    }

    pub(super) fn symlink(self, name: &str, target: &str) -> Self {
        let kind = Kind::Symlink.to_type();
        self.entry(kind, name.as_bytes(), target.as_bytes(), b"", |_| {})
    }

    pub(super) fn hard_link(self, name: &str, target: &str) -> Self {
        let kind = Kind::HardLink.to_type();
        self.entry(kind, name.as_bytes(), target.as_bytes(), b"", |_| {})
    }

    /// Adds a PAX extended header for the next entry.
    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..5)
                .map(|digits| rest + digits)
                .find(|length| length.to_string().len() + rest == *length)
                .unwrap();
            text.extend_from_slice(format!("{length} {key}=").as_bytes());
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        self.entry(b'x', b"PaxHeaders/x", b"", &text, |_| {})
    }

    /// The archive without its end.
    pub(super) fn unfinished(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}
