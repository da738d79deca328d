//! Huffman codes, as far as they must be known to step over what they stand for.

/// No code of deflate is longer, in bits.
const LONGEST: usize = 15;

/// So many bits are looked at together. Longer codes are rare, and tables of this size stay in a core's nearest cache.
const LOOKED_AT: usize = 11;

/// What a code stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing that is known from the bits that were looked at.
    None,
    /// How far back the repeated is.
    Distance,
    /// The end of the block.
    End,
    /// A byte, or several.
    Literal,
    /// The length of something that is repeated, and literals before it; a distance follows.
    Length,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::None,
        Self::Distance,
        Self::End,
        Self::Literal,
        Self::Length,
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

    /// The same of a distance symbol.
    pub(super) fn of_distance(symbol: usize) -> (Self, usize) {
        match symbol {
            0..=3 => (Self::Distance, 0),
            4..=29 => (Self::Distance, symbol / 2 - 1),
            _ => (Self::None, 0),
        }
    }
}

/// A canonical code (RFC 1951, 3.2.2).
#[derive(Debug, Default)]
pub(super) struct Code {
    /// How many symbols have a code of each length.
    counts: [usize; LONGEST + 1],
    /// The symbols by the order of their codes.
    symbols: Vec<usize>,
}

impl Code {
    /// The code whose lengths these are, by symbols; 0 for those that are not used.
    pub(super) fn fill(&mut self, lengths: &[u8]) {
        self.counts = [0; LONGEST + 1];
        for length in lengths {
            self.counts[usize::from(*length)] += 1;
        }
        self.counts[0] = 0;
        self.symbols.clear();
        let used = lengths
            .iter()
            .enumerate()
            .filter(|(_, length)| **length > 0);
        self.symbols.extend(used.map(|(symbol, _)| symbol));
        // A stable order: within one length by symbols.
        self.symbols.sort_by_key(|symbol| lengths[*symbol]);
    }

    /// The next symbol, and the length of its code in bits.
    pub(super) fn next(&self, bits: u64) -> Option<(usize, usize)> {
        let (mut code, mut first, mut index) = (0, 0, 0);
        for length in 1..=LONGEST {
            code = code << 1 | usize::from(bits >> (length - 1) & 1 == 1);
            first <<= 1;
            let count = self.counts[length];
            if code >= first && code - first < count {
                return Some((self.symbols[index + code - first], length));
            }
            index += count;
            first += count;
        }
        None
    }
}

/// What comes next in a stream, by the next bits.
pub(super) struct Table {
    code: Code,
    kind: fn(usize) -> (Kind, usize),
    /// For all that [`LOOKED_AT`] bits can be, lowest first: what comes next, and how many bits it has. Literals are taken
    /// together with what comes behind them, as far as that is certain.
    steps: Box<[Step; 1 << LOOKED_AT]>,
}

/// What comes next in a stream, in a byte: how many bits it has, and what it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Step(u8);

/// How many bits of a step are its length.
const LENGTH_BITS: usize = 5;

impl Step {
    fn new(kind: Kind, length: usize) -> Self {
        Self(((kind as usize) << LENGTH_BITS | length) as u8)
    }

    pub(super) fn kind(self) -> Kind {
        Kind::ALL[usize::from(self.0) >> LENGTH_BITS]
    }

    /// In bits.
    #[inline]
    pub(super) fn length(self) -> usize {
        usize::from(self.0) & ((1 << LENGTH_BITS) - 1)
    }

    /// Whether it is a literal or the length of something repeated: what nearly every step is.
    #[inline]
    pub(super) fn is_usual(self) -> bool {
        self.0 >= Self::LITERAL
    }

    #[inline]
    pub(super) fn is_length(self) -> bool {
        self.0 >= Self::LENGTH
    }

    #[inline]
    pub(super) fn is_distance(self) -> bool {
        self.0 >> LENGTH_BITS == Kind::Distance as u8
    }

    const LITERAL: u8 = (Kind::Literal as u8) << LENGTH_BITS;
    const LENGTH: u8 = (Kind::Length as u8) << LENGTH_BITS;
}

impl Table {
    /// A table for symbols of which `kind` tells what they stand for.
    pub(super) fn new(kind: fn(usize) -> (Kind, usize)) -> Self {
        Self {
            code: Code::default(),
            kind,
            steps: Box::new([Step::default(); 1 << LOOKED_AT]),
        }
    }

    /// Makes the table for the code whose lengths these are.
    pub(super) fn fill(&mut self, lengths: &[u8]) {
        self.code.fill(lengths);
        self.steps.fill(Step::default());
        // How many bits of each step are certain to be among those that are looked at: all but what follows a code.
        let mut certain = [0_u8; 1 << LOOKED_AT];
        let (mut code, mut index) = (0_usize, 0);
        for length in 1..=LOOKED_AT {
            code <<= 1;
            for symbol in &self.code.symbols[index..index + self.code.counts[length]] {
                let (kind, extra) = (self.kind)(*symbol);
                // A code stands in the stream from its highest bit on, and whatever comes behind it.
                let first = code.reverse_bits() >> (usize::BITS as usize - length);
                for at in (first..1 << LOOKED_AT).step_by(1 << length) {
                    self.steps[at] = Step::new(kind, length + extra);
                    certain[at] = length as u8;
                }
                code += 1;
            }
            index += self.code.counts[length];
        }
        self.take_together(certain);
    }

    /// Takes literals together with what comes behind them.
    fn take_together(&mut self, mut certain: [u8; 1 << LOOKED_AT]) {
        let (alone, certain_alone) = (self.steps.clone(), certain);
        for at in 1..self.steps.len() {
            if alone[at].kind() != Kind::Literal {
                continue;
            }
            let length = alone[at].length();
            // It is smaller, so that it has been taken together with what comes behind it itself.
            let behind = at >> length;
            let choices = [
                (self.steps[behind], certain[behind]),
                (alone[behind], certain_alone[behind]),
            ];
            for (behind, bits) in choices {
                let both = length + usize::from(bits);
                if behind != Step::default() && both <= LOOKED_AT {
                    self.steps[at] = Step::new(behind.kind(), length + behind.length());
                    certain[at] = both as u8;
                    break;
                }
            }
        }
    }

    /// What comes next, if that can be told from the bits that are looked at. At the end of a stream it may have more bits than
    /// are left.
    #[inline]
    pub(super) fn usual(&self, bits: u64) -> Step {
        self.steps[bits as usize & ((1 << LOOKED_AT) - 1)]
    }

    /// What comes next.
    pub(super) fn next(&self, bits: u64) -> Step {
        let step = self.usual(bits);
        if step != Step::default() {
            return step;
        }
        self.code
            .next(bits)
            .map_or_else(Step::default, |(symbol, length)| {
                let (kind, extra) = (self.kind)(symbol);
                Step::new(kind, length + extra)
            })
    }
}
