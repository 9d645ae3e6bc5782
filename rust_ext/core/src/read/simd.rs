//! Structural bytes 64 at a time, with the newest instructions that the processor has.
#![allow(unsafe_code)]

use wide::u8x16;

/// Bytes looked at together.
pub const BLOCK: usize = 64;

/// Growing positions, written eight at a time so that no branch depends on how many there are.
#[derive(Debug, Default)]
pub struct Positions {
    buffer: Vec<u32>,
    length: usize,
}

impl Positions {
    pub fn clear(&mut self) {
        self.length = 0;
    }

    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    #[inline]
    pub fn as_slice(&self) -> &[u32] {
        &self.buffer[..self.length]
    }

    #[inline]
    pub fn push(&mut self, position: u32) {
        self.make_room();
        self.buffer[self.length] = position;
        self.length += 1;
    }

    #[inline(always)]
    fn push_bits(&mut self, mut bits: u64, base: u32) {
        self.make_room();
        let count = bits.count_ones() as usize;
        let (eights, _) = self.buffer[self.length..][..BLOCK].as_chunks_mut::<8>();
        for eight in eights.iter_mut().take(count.div_ceil(8)) {
            for place in eight {
                *place = base.wrapping_add(bits.trailing_zeros());
                bits &= bits.wrapping_sub(1);
            }
        }
        self.length += count;
    }

    #[inline(always)]
    fn make_room(&mut self) {
        if self.buffer.len() < self.length + BLOCK {
            self.buffer.resize(2 * (self.length + BLOCK), 0);
        }
    }
}

/// Pushes the positions of all commas and newlines outside quotes to `fields`, and those of the
/// newlines to `rows`. `text` begins at the start of a row.
pub fn mark(text: &[u8], fields: &mut Positions, rows: &mut Positions) {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("bmi1")
        && std::is_x86_feature_detected!("popcnt")
    {
        // SAFETY: the processor has just been seen to have what the function was compiled for.
        return unsafe { mark_avx2(text, fields, rows) };
    }
    mark_anywhere(text, fields, rows);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn mark_avx2(text: &[u8], fields: &mut Positions, rows: &mut Positions) {
    mark_anywhere(text, fields, rows);
}

#[inline(always)]
fn mark_anywhere(text: &[u8], fields: &mut Positions, rows: &mut Positions) {
    let (blocks, tail) = text.as_chunks::<BLOCK>();
    let mut padded = [0; BLOCK];
    padded[..tail.len()].copy_from_slice(tail);
    let (mut place, mut base) = (Place::Outside { field: 0 }, 0_u32);
    for block in blocks.iter().chain([&padded]) {
        let found = Found::of(block);
        let separators = found.newlines | found.commas;
        match &mut place {
            Place::Outside { field } if found.quotes == 0 => {
                fields.push_bits(separators, base);
                rows.push_bits(found.newlines, base);
                if separators != 0 {
                    *field = base.wrapping_add(BLOCK as u32 - separators.leading_zeros());
                }
            }
            Place::Quoted if found.quotes == 0 => {}
            _ => place = found.walk(base, place, fields, rows),
        }
        base = base.wrapping_add(BLOCK as u32);
    }
}

/// Where a position stands.
#[derive(Clone, Copy)]
enum Place {
    /// In a plain field that begins at `field`; only there a quote opens.
    Outside { field: u32 },
    /// Between quotes.
    Quoted,
    /// Behind the quote at `quote`: it closes, or is the first of a doubled pair.
    Closing { quote: u32 },
}

/// A bit for each byte of a block.
struct Found {
    quotes: u64,
    newlines: u64,
    commas: u64,
}

impl Found {
    #[inline(always)]
    fn of(block: &[u8; BLOCK]) -> Self {
        let (mut quotes, mut newlines, mut commas) = (0_u64, 0_u64, 0_u64);
        for (place, part) in block.as_chunks::<16>().0.iter().enumerate() {
            let part = u8x16::new(*part);
            let bits = |byte: u8| u64::from(part.simd_eq(u8x16::splat(byte)).to_bitmask() as u16);
            quotes |= bits(b'"') << (16 * place);
            newlines |= bits(b'\n') << (16 * place);
            commas |= bits(b',') << (16 * place);
        }
        Self { quotes, newlines, commas }
    }

    /// From structural byte to structural byte, where quotes are about.
    #[inline(always)]
    fn walk(
        &self,
        base: u32,
        mut place: Place,
        fields: &mut Positions,
        rows: &mut Positions,
    ) -> Place {
        let mut bits = self.quotes | self.newlines | self.commas;
        while bits != 0 {
            let bit = bits & bits.wrapping_neg();
            let position = base.wrapping_add(bits.trailing_zeros());
            let is_quote = self.quotes & bit != 0;
            bits ^= bit;
            place = match place {
                Place::Quoted if is_quote => Place::Closing { quote: position },
                Place::Quoted => Place::Quoted,
                Place::Closing { quote } if is_quote && position == quote + 1 => Place::Quoted,
                Place::Outside { field } if is_quote && position == field => Place::Quoted,
                Place::Closing { .. } | Place::Outside { .. } if !is_quote => {
                    fields.push(position);
                    if self.newlines & bit != 0 {
                        rows.push(position);
                    }
                    Place::Outside { field: position + 1 }
                }
                // A quote in the middle of a field is a character like any other.
                Place::Closing { .. } => Place::Outside { field: u32::MAX },
                outside @ Place::Outside { .. } => outside,
            };
        }
        place
    }
}
