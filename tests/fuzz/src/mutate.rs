//! Random numbers and mutations of byte strings.

/// xorshift64*; the same seed gives the same inputs.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `n`, which is not zero.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[5]
    }
}

/// Longest input.
const LONGEST: usize = 8192;

/// What grammars trip over.
const PIECES: [&[u8]; 32] = [
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b":",
    b";",
    b",",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b"(",
    b")",
    b"0",
    b"-1",
    b"1e999",
    b"NaN",
    b"18446744073709551616",
    b"9223372036854775807",
    b"0.0001",
    b"\xff\xff\xff\xff\x0f",
    b"\x80",
    b"\0",
    b"%00",
    b"%2f",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"true",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
];

/// A mutation of something in the corpus.
pub fn next(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(4) {
        change(random, corpus, &mut input);
    }
    input.truncate(LONGEST);
    input
}

fn range(random: &mut Random, len: usize) -> std::ops::Range<usize> {
    let from = random.below(len + 1);
    let to = (from + random.below(32)).min(len);
    from..to
}

fn change(random: &mut Random, corpus: &[Vec<u8>], input: &mut Vec<u8>) {
    let len = input.len();
    let at = random.below(len + 1);
    match random.below(9) {
        0 if at < len => input[at] ^= 1 << random.below(8),
        1 if at < len => input[at] = random.byte(),
        2 => input.insert(at, random.byte()),
        3 => {
            let range = range(random, len);
            input.drain(range);
        }
        4 => {
            let copy = input[range(random, len)].to_vec();
            input.splice(at..at, copy);
        }
        5 => {
            let piece = PIECES[random.below(PIECES.len())];
            input.splice(at..at, piece.iter().copied());
        }
        6 => {
            let other = &corpus[random.below(corpus.len())];
            let piece = other[range(random, other.len())].to_vec();
            let over = range(random, len);
            input.splice(over, piece);
        }
        7 => input.truncate(at),
        _ => {
            // Numbers are lengths, quantities and codes: change a digit.
            let digits: Vec<usize> = (0..len).filter(|i| input[*i].is_ascii_digit()).collect();
            if !digits.is_empty() {
                input[digits[random.below(digits.len())]] = b'0' + random.byte() % 10;
            }
        }
    }
}
