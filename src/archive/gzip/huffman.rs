//! Decodes the Huffman codes of a deflate stream, only to skip them: the kind and the length of each symbol are needed, not its value.

/// The length of the longest code of deflate, in bits.
const LONGEST: usize = 15;

/// The number of bits that index a [`Table`]. Longer codes are rare, and tables of this size fit into the L1 cache of a core.
const INDEX_BITS: usize = 11;

/// The kind of a symbol. Literals and lengths are last, because [`TableEntry`] compares kinds by their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Symbol {
    /// The code is invalid, or longer than the index of the table.
    Unknown,
    /// The distance of a repetition.
    Distance,
    /// The end of the block.
    End,
    /// One or several literal bytes.
    Literal,
    /// The length of a repetition, possibly after literals in the same [`TableEntry`]. A distance follows.
    Length,
}

impl Symbol {
    /// All kinds, in the order of their numbers.
    const ALL: [Self; 5] = [
        Self::Unknown,
        Self::Distance,
        Self::End,
        Self::Literal,
        Self::Length,
    ];

    /// The kind of a literal or length symbol, and the number of extra bits after its code (RFC 1951, 3.2.5).
    pub(super) fn of_literal(symbol: usize) -> (Self, usize) {
        match symbol {
            0..=255 => (Self::Literal, 0),
            256 => (Self::End, 0),
            257..=264 | 285 => (Self::Length, 0),
            265..=284 => (Self::Length, (symbol - 261) / 4),
            _ => (Self::Unknown, 0),
        }
    }

    /// The kind of a distance symbol, and the number of extra bits after its code.
    pub(super) fn of_distance(symbol: usize) -> (Self, usize) {
        match symbol {
            0..=3 => (Self::Distance, 0),
            4..=29 => (Self::Distance, symbol / 2 - 1),
            _ => (Self::Unknown, 0),
        }
    }
}

/// A canonical code (RFC 1951, 3.2.2).
#[derive(Debug, Default)]
pub(super) struct Code {
    /// The number of symbols with a code of each length.
    counts: [usize; LONGEST + 1],
    /// The symbols in the order of their codes.
    symbols: Vec<usize>,
}

impl Code {
    /// Sets the code from the length of each symbol's code, in bits. The length 0 means that the symbol is not used.
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
        // The sort is stable: symbols with the same length stay in order.
        self.symbols.sort_by_key(|symbol| lengths[*symbol]);
    }

    /// The symbol at the beginning of `bits`, and the length of its code in bits. `None` if the code is invalid.
    pub(super) fn next(&self, bits: u64) -> Option<(usize, usize)> {
        let (mut code, mut first_code, mut index) = (0, 0, 0);
        for length in 1..=LONGEST {
            code = code << 1 | usize::from(bits >> (length - 1) & 1 == 1);
            first_code <<= 1;
            let count = self.counts[length];
            if code >= first_code && code - first_code < count {
                return Some((self.symbols[index + code - first_code], length));
            }
            index += count;
            first_code += count;
        }
        None
    }
}

/// A lookup table for the next symbols of a stream.
pub(super) struct Table {
    code: Code,
    kind: fn(usize) -> (Symbol, usize),
    /// The next symbol for each value of [`INDEX_BITS`] bits, lowest bit first. A literal is combined with the symbol that follows
    /// it if the bits determine that symbol, too.
    entries: Box<[TableEntry; 1 << INDEX_BITS]>,
}

/// The kind of the next symbol, and its length in bits, including extra bits; both in one byte. If an entry combines several symbols, the
/// kind is that of the last symbol, and the length is the total.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TableEntry(u8);

/// The number of bits of an entry that store the length. The other bits store the kind.
const LENGTH_BITS: usize = 5;

impl TableEntry {
    fn new(kind: Symbol, length: usize) -> Self {
        Self(((kind as usize) << LENGTH_BITS | length) as u8)
    }

    pub(super) fn kind(self) -> Symbol {
        Symbol::ALL[usize::from(self.0) >> LENGTH_BITS]
    }

    /// The length in bits.
    #[inline]
    pub(super) fn length(self) -> usize {
        usize::from(self.0) & ((1 << LENGTH_BITS) - 1)
    }

    /// Whether the symbol is a literal or the length of a repetition, as nearly all symbols are.
    #[inline]
    pub(super) fn is_literal_or_length(self) -> bool {
        self.0 >= Self::LITERAL
    }

    #[inline]
    pub(super) fn is_length(self) -> bool {
        self.0 >= Self::LENGTH
    }

    #[inline]
    pub(super) fn is_distance(self) -> bool {
        self.0 >> LENGTH_BITS == Symbol::Distance as u8
    }

    const LITERAL: u8 = (Symbol::Literal as u8) << LENGTH_BITS;
    const LENGTH: u8 = (Symbol::Length as u8) << LENGTH_BITS;
}

impl Table {
    /// An empty table. `kind` returns the kind of a symbol and the number of its extra bits.
    pub(super) fn new(kind: fn(usize) -> (Symbol, usize)) -> Self {
        Self {
            code: Code::default(),
            kind,
            entries: Box::new([TableEntry::default(); 1 << INDEX_BITS]),
        }
    }

    /// Sets the table from the length of each symbol's code.
    pub(super) fn fill(&mut self, lengths: &[u8]) {
        self.code.fill(lengths);
        self.entries.fill(TableEntry::default());
        // How many bits of the index each entry uses: all of its length except extra bits.
        let mut used = [0_u8; 1 << INDEX_BITS];
        let (mut code, mut index) = (0_usize, 0);
        for length in 1..=INDEX_BITS {
            code <<= 1;
            for symbol in &self.code.symbols[index..index + self.code.counts[length]] {
                let (kind, extra) = (self.kind)(*symbol);
                // The stream has the highest bit of a code first. Any bits may follow the code.
                let reversed = code.reverse_bits() >> (usize::BITS as usize - length);
                for at in (reversed..1 << INDEX_BITS).step_by(1 << length) {
                    self.entries[at] = TableEntry::new(kind, length + extra);
                    used[at] = length as u8;
                }
                code += 1;
            }
            index += self.code.counts[length];
        }
        self.combine_literals(used);
    }

    /// Combines literals with the symbols that follow them.
    fn combine_literals(&mut self, mut used: [u8; 1 << INDEX_BITS]) {
        let (single, used_by_single) = (self.entries.clone(), used);
        for at in 1..self.entries.len() {
            if single[at].kind() != Symbol::Literal {
                continue;
            }
            let length = single[at].length();
            // The index of the next symbol is smaller, so its entry is combined already.
            let next = at >> length;
            let choices = [
                (self.entries[next], used[next]),
                (single[next], used_by_single[next]),
            ];
            for (next, bits) in choices {
                let both = length + usize::from(bits);
                if next != TableEntry::default() && both <= INDEX_BITS {
                    self.entries[at] = TableEntry::new(next.kind(), length + next.length());
                    used[at] = both as u8;
                    break;
                }
            }
        }
    }

    /// The entry for the next bits, or the default entry if the next code is too long for the table. At the end of a stream, the entry may
    /// be longer than the rest of the stream.
    #[inline]
    pub(super) fn lookup(&self, bits: u64) -> TableEntry {
        self.entries[bits as usize & ((1 << INDEX_BITS) - 1)]
    }

    /// The next symbols, for codes of any length; the default entry if the code is invalid.
    pub(super) fn decode(&self, bits: u64) -> TableEntry {
        let entry = self.lookup(bits);
        if entry != TableEntry::default() {
            return entry;
        }
        self.code
            .next(bits)
            .map_or_else(TableEntry::default, |(symbol, length)| {
                let (kind, extra) = (self.kind)(symbol);
                TableEntry::new(kind, length + extra)
            })
    }
}
