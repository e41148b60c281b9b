//! Avro's binary form of the types our schemas use: writing to a reused buffer, reading from untrusted bytes.
//!
//! Nothing here trusts a length: a text must fit into what is left, a block cannot hold more items than bytes are left, so a hostile count neither allocates nor spins.

use crate::Text;
use std::collections::BTreeMap;

/// Why bytes are not the Avro value they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end inside a value.
    #[error("bytes end inside a value")]
    Truncated,
    /// A variable-length integer has more than 64 bits.
    #[error("integer has more than 64 bits")]
    Overlong,
    /// A length is negative or more than what is left.
    #[error("length {0} is negative or more than the bytes left")]
    Length(i64),
    /// A block of an array or a map claims more items than bytes are left.
    #[error("block of {0} items is larger than the bytes left")]
    Block(i64),
    /// A union's branch is not one of the schema's.
    #[error("union branch {0} is not in the schema")]
    Branch(i64),
    /// A boolean is neither 0 nor 1.
    #[error("boolean is {0}, not 0 or 1")]
    Boolean(u8),
    /// A text is not UTF-8.
    #[error("text is not UTF-8")]
    NotUtf8,
    /// Bytes follow the record's end.
    #[error("{0} bytes follow the record's end")]
    Trailing(usize),
}

/// Bytes still to be read.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    left: &'a [u8],
}

impl<'a> Input<'a> {
    /// Starts at the beginning of a record's binary form.
    pub fn new(datum: &'a [u8]) -> Self {
        Self { left: datum }
    }

    /// Returns how many bytes are left.
    pub fn left(&self) -> usize {
        self.left.len()
    }

    /// Reads an int or a long (zigzag, variable length).
    ///
    /// # Errors
    /// When the bytes end inside it or it has more than 64 bits.
    #[inline]
    pub fn long(&mut self) -> Result<i64, WireError> {
        // Half of all integers of an event are lengths and branches of one byte.
        if let Some((&byte, rest)) = self.left.split_first()
            && byte < 0x80
        {
            self.left = rest;
            return Ok(unzigzag(u64::from(byte)));
        }
        self.long_of_many_bytes()
    }

    /// Eight bytes at a time: seven bits of each are moved together by three shifts; the ninth and tenth are added.
    fn long_of_many_bytes(&mut self) -> Result<i64, WireError> {
        let Some((word, rest)) = self.left.split_first_chunk::<8>() else {
            return self.long_byte_by_byte();
        };
        let word = u64::from_le_bytes(*word);
        let continued = ends(word);
        if continued < 8 {
            self.left = &self.left[continued + 1..];
            // The bytes past the last one are shifted out.
            return Ok(unzigzag(
                gather(word << (56 - 8 * continued)) >> (49 - 7 * continued),
            ));
        }
        match *rest {
            [ninth, ..] if ninth < 0x80 => {
                self.left = &rest[1..];
                Ok(unzigzag(gather(word) | u64::from(ninth) << 56))
            }
            _ => self.long_byte_by_byte(),
        }
    }

    /// The plain way: near the end of the bytes, for ten bytes, and for what is wrong.
    fn long_byte_by_byte(&mut self) -> Result<i64, WireError> {
        let mut value = 0u64;
        for (index, &byte) in self.left.iter().take(10).enumerate() {
            let bits = u64::from(byte & 0x7f);
            if index == 9 && bits > 1 {
                return Err(WireError::Overlong);
            }
            value |= bits << (7 * index);
            if byte < 0x80 {
                self.left = &self.left[index + 1..];
                return Ok(unzigzag(value));
            }
        }
        Err(if self.left.len() < 10 {
            WireError::Truncated
        } else {
            WireError::Overlong
        })
    }

    /// Reads the branch of a union `["null", T]`: whether there is a T.
    ///
    /// # Errors
    /// When it is neither branch, or as [`Self::long`].
    #[inline]
    pub fn optional(&mut self) -> Result<bool, WireError> {
        match self.long()? {
            0 => Ok(false),
            1 => Ok(true),
            branch => Err(WireError::Branch(branch)),
        }
    }

    /// Passes over an int or a long.
    ///
    /// # Errors
    /// As [`Self::long`].
    #[inline]
    pub fn pass_long(&mut self) -> Result<(), WireError> {
        if let Some((&byte, rest)) = self.left.split_first()
            && byte < 0x80
        {
            self.left = rest;
            return Ok(());
        }
        if let Some(word) = self.left.first_chunk::<8>() {
            let continued = ends(u64::from_le_bytes(*word));
            if continued < 8 {
                self.left = &self.left[continued + 1..];
                return Ok(());
            }
        }
        self.long_byte_by_byte().map(|_| ())
    }

    /// Passes over a record's next fields as far as they need no closer look, and returns how many it passed. The next one
    /// has a value that is wanted, or one that is written in an unusual way or wrong; nothing of it is read.
    ///
    /// Most of a record is passed over here, and each field begins where the one before it ends. So a field is one load of
    /// eight bytes, which hold its branch and its length or a run of nulls, and only the place is carried on.
    #[inline]
    pub(crate) fn pass_fields(&mut self, leaps: &[Leap]) -> usize {
        let bytes = self.left;
        let (mut at, mut passed) = (0, 0);
        while let Some(leap) = leaps.get(passed) {
            let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) else {
                break;
            };
            let mut word = u64::from_le_bytes(*word);
            let mut after = at;
            if leap.optional_run > 0 {
                // Of a word of zeros this is 8.
                let zeros = word.trailing_zeros() as usize / 8;
                if zeros > 0 {
                    let nulls = zeros.min(usize::from(leap.optional_run));
                    at += nulls;
                    passed += nulls;
                    continue;
                }
                if word as u8 != 2 {
                    break;
                }
                word >>= 8;
                after += 1;
            }
            after += match leap.over {
                // Lengths are even: the odd ones are negative.
                Over::Bytes if word & 0x81 == 0 => 1 + (word as usize & 0x7f) / 2,
                Over::Bytes if word & 0x8081 == 0x80 => {
                    2 + ((word as usize & 0x7f) | (word as usize & 0x7f00) >> 1) / 2
                }
                // The word may have lost its last byte to the branch.
                Over::Varint if ends(word) < 7 => 1 + ends(word),
                Over::Boolean if word & 0xfe == 0 => 1,
                _ => break,
            };
            if after > bytes.len() {
                break;
            }
            at = after;
            passed += 1;
        }
        self.left = &bytes[at..];
        passed
    }

    /// Reads a boolean.
    ///
    /// # Errors
    /// When nothing is left or the byte is neither 0 nor 1.
    #[inline]
    pub fn boolean(&mut self) -> Result<bool, WireError> {
        match *self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [byte, ..] => Err(WireError::Boolean(byte)),
            [] => Err(WireError::Truncated),
        }
    }

    /// Reads the bytes of a text or of Avro's `bytes`, unchecked.
    ///
    /// # Errors
    /// When the length is negative or more than what is left.
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        // Half of all texts are shorter than 64 bytes, nearly all others shorter than 8,192.
        let (length, rest) = match *self.left {
            [byte, ref rest @ ..] if byte < 0x80 => (unzigzag(u64::from(byte)), rest),
            [low, high, ref rest @ ..] if high < 0x80 => {
                let value = u64::from(low & 0x7f) | u64::from(high) << 7;
                (unzigzag(value), rest)
            }
            _ => {
                let mut after = self.clone();
                (after.long()?, after.left)
            }
        };
        let count = usize::try_from(length).map_err(|_| WireError::Length(length))?;
        let (bytes, rest) = rest
            .split_at_checked(count)
            .ok_or(WireError::Length(length))?;
        self.left = rest;
        Ok(bytes)
    }

    /// Reads a text.
    ///
    /// # Errors
    /// As [`Self::bytes`], and when the bytes are not UTF-8.
    #[inline]
    pub fn text(&mut self) -> Result<&'a str, WireError> {
        simdutf8::basic::from_utf8(self.bytes()?).map_err(|_| WireError::NotUtf8)
    }

    /// Reads a number of bytes.
    ///
    /// # Errors
    /// When fewer are left.
    #[inline]
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self
            .left
            .split_at_checked(count)
            .ok_or(WireError::Truncated)?;
        self.left = rest;
        Ok(taken)
    }

    /// Reads the count of an array's or a map's next block; 0 is the end.
    /// Items of no bytes would make the bound idle; schemas with such items are refused when they are compiled.
    ///
    /// # Errors
    /// When more items are claimed than bytes are left.
    #[inline]
    pub fn block(&mut self) -> Result<usize, WireError> {
        let count = self.long()?;
        let items = if count < 0 {
            // A negative count is followed by the block's size in bytes, which only matters to readers that skip.
            self.long()?;
            count.checked_neg().ok_or(WireError::Block(count))?
        } else {
            count
        };
        match usize::try_from(items) {
            Ok(items) if items <= self.left.len() => Ok(items),
            _ => Err(WireError::Block(count)),
        }
    }

    /// Holds that nothing is left.
    ///
    /// # Errors
    /// When bytes are left.
    pub fn end(&self) -> Result<(), WireError> {
        if self.left.is_empty() {
            Ok(())
        } else {
            Err(WireError::Trailing(self.left.len()))
        }
    }
}

/// A field to who passes over it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leap {
    /// How many fields from this one on are unions `["null", T]`, as far as is counted; 0 = this one is none.
    pub optional_run: u8,
    /// What its value is.
    pub over: Over,
}

/// What a value is to who passes over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// A length and that many bytes.
    Bytes,
    Varint,
    Boolean,
    /// Something wanted, or something else.
    Nothing,
}

/// A value with an Avro binary form.
pub trait Datum: Sized {
    /// Appends the binary form.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads the binary form.
    ///
    /// # Errors
    /// When the bytes are not one.
    fn read(input: &mut Input<'_>) -> Result<Self, WireError>;
}

impl Datum for i64 {
    #[inline]
    fn write(&self, out: &mut Vec<u8>) {
        write_long(*self, out);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, WireError> {
        input.long()
    }
}

impl Datum for bool {
    #[inline]
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn read(input: &mut Input<'_>) -> Result<Self, WireError> {
        input.boolean()
    }
}

impl Datum for Text {
    #[inline]
    fn write(&self, out: &mut Vec<u8>) {
        write_length(self.len(), out);
        out.extend_from_slice(self.as_bytes());
    }

    fn read(input: &mut Input<'_>) -> Result<Self, WireError> {
        input.text().map(Text::from)
    }
}

/// The union `["null", T]`.
impl<T: Datum> Datum for Option<T> {
    #[inline]
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            None => out.push(0),
            Some(value) => {
                out.push(2);
                value.write(out);
            }
        }
    }

    fn read(input: &mut Input<'_>) -> Result<Self, WireError> {
        if input.optional()? {
            T::read(input).map(Some)
        } else {
            Ok(None)
        }
    }
}

impl<T: Datum> Datum for Vec<T> {
    fn write(&self, out: &mut Vec<u8>) {
        if !self.is_empty() {
            write_length(self.len(), out);
            for item in self {
                item.write(out);
            }
        }
        out.push(0);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, WireError> {
        let mut items = Vec::new();
        loop {
            let count = input.block()?;
            if count == 0 {
                return Ok(items);
            }
            for _ in 0..count {
                items.push(T::read(input)?);
            }
        }
    }
}

impl<T: Datum> Datum for BTreeMap<Text, T> {
    fn write(&self, out: &mut Vec<u8>) {
        if !self.is_empty() {
            write_length(self.len(), out);
            for (key, value) in self {
                key.write(out);
                value.write(out);
            }
        }
        out.push(0);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, WireError> {
        let mut entries = BTreeMap::new();
        loop {
            let count = input.block()?;
            if count == 0 {
                return Ok(entries);
            }
            for _ in 0..count {
                let key = Text::read(input)?;
                entries.insert(key, T::read(input)?);
            }
        }
    }
}

#[inline]
fn write_length(length: usize, out: &mut Vec<u8>) {
    write_long(
        i64::try_from(length).expect("what fits in memory is shorter than 2^63"),
        out,
    );
}

/// Appends a long in Avro's form: zigzag, seven bits a byte, the lowest first.
#[inline]
fn write_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    if rest < 0x80 {
        out.push(rest as u8);
        return;
    }
    let mut bytes = [0u8; 10];
    let mut length = 0;
    while rest >= 0x80 {
        bytes[length] = rest as u8 | 0x80;
        rest >>= 7;
        length += 1;
    }
    bytes[length] = rest as u8;
    out.extend_from_slice(&bytes[..=length]);
}

/// How many of a word's bytes, from the lowest, say that another one follows.
#[inline]
fn ends(word: u64) -> usize {
    (!word & 0x8080_8080_8080_8080).trailing_zeros() as usize / 8
}

/// Moves the seven low bits of each of eight bytes together.
#[inline]
fn gather(word: u64) -> u64 {
    let pairs = (word & 0x007f_007f_007f_007f) | ((word & 0x7f00_7f00_7f00_7f00) >> 1);
    let fours = (pairs & 0x0000_3fff_0000_3fff) | ((pairs & 0x3fff_0000_3fff_0000) >> 2);
    (fours & 0x0fff_ffff) | ((fours & 0x0fff_ffff_0000_0000) >> 4)
}

#[inline]
fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}
