//! Huffman codes, as far as they must be known to step over what they stand for.

/// No code of deflate is longer, in bits.
const LONGEST: usize = 15;

/// What a code stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: no such code is used.
    None,
    /// A byte, or the length of a code.
    Literal,
    /// The length of something that is repeated; a distance follows.
    Length,
    /// How far back the repeated is.
    Distance,
    /// The end of the block.
    End,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::None,
        Self::Literal,
        Self::Length,
        Self::Distance,
        Self::End,
    ];

    /// What a literal or length symbol stands for, and how many bits follow its code (RFC 1951, 3.2.5).
    pub(super) fn of_literal(symbol: usize) -> (Self, usize) {
        match symbol {
            0..=255 => (Self::Literal, 0),
            256 => (Self::End, 0),
            257..=264 | 285 => (Self::Length, 0),
            265..=284 => (Self::Length, (symbol - 261) / 4),
            _ => (Self::None, 0),
        }
    }

    pub(super) fn of_distance(symbol: usize) -> (Self, usize) {
        match symbol {
            0..=3 => (Self::Distance, 0),
            4..=29 => (Self::Distance, symbol / 2 - 1),
            _ => (Self::None, 0),
        }
    }

    pub(super) fn of_length(_: usize) -> (Self, usize) {
        (Self::Literal, 0)
    }
}

/// What the next bits of a stream mean, by the bits.
pub(super) struct Table {
    /// How many bits are looked at: as many as the longest code has.
    bits: usize,
    /// For all that these can be, from the lowest bits up: how many bits the code has together with those that follow it, what
    /// it stands for, and its symbol where that is below 256.
    steps: Vec<u16>,
}

/// Where the parts of a step begin.
const KIND: usize = 5;
const SYMBOL: usize = 8;

impl Default for Table {
    fn default() -> Self {
        Self {
            bits: 0,
            steps: vec![0],
        }
    }
}

impl Table {
    /// Makes the table of the canonical code whose lengths these are, by symbols.
    pub(super) fn fill(&mut self, lengths: &[u8], kind: impl Fn(usize) -> (Kind, usize)) {
        let mut counts = [0_usize; LONGEST + 1];
        for length in lengths.iter().filter(|length| **length > 0) {
            counts[usize::from(*length)] += 1;
        }
        self.bits = counts.iter().rposition(|count| *count > 0).unwrap_or(0);
        self.steps.clear();
        self.steps.resize(1 << self.bits, 0);
        let mut next = [0_usize; LONGEST + 2];
        for length in 1..=LONGEST {
            next[length + 1] = (next[length] + counts[length]) << 1;
        }
        for (symbol, length) in lengths.iter().enumerate() {
            let length = usize::from(*length);
            if length == 0 {
                continue;
            }
            // A code stands in the stream from its highest bit on, and whatever comes behind it.
            let first = next[length].reverse_bits() >> (usize::BITS as usize - length);
            next[length] += 1;
            let (kind, extra) = kind(symbol);
            let step = (symbol & 0xff) << SYMBOL | (kind as usize) << KIND | (length + extra);
            for at in (first..1 << self.bits).step_by(1 << length) {
                self.steps[at] = u16::try_from(step).unwrap_or(0);
            }
        }
    }

    /// What comes next, and how many bits it has.
    pub(super) fn step(&self, next: u64) -> (Kind, usize) {
        let (kind, length, _) = self.look(next);
        (kind, length)
    }

    /// Which symbol comes next, of a code with less than 256, and how many bits it has.
    pub(super) fn symbol(&self, next: u64) -> Option<(u8, usize)> {
        let (kind, length, symbol) = self.look(next);
        (kind != Kind::None).then_some((symbol, length))
    }

    fn look(&self, next: u64) -> (Kind, usize, u8) {
        let at = usize::try_from(next & ((1 << self.bits) - 1)).unwrap_or(0);
        let [low, symbol] = self.steps[at].to_le_bytes();
        let low = usize::from(low);
        (Kind::ALL[low >> KIND], low & ((1 << KIND) - 1), symbol)
    }
}
