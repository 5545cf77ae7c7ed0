//! Protobuf, as little as it takes: walking fields in place, cutting a message into fields as its bytes come, writing.

/// A field of a message.
pub struct Field<'a> {
    pub number: u32,
    pub value: Value<'a>,
}

/// What a field holds.
pub enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Fixed-width ones, which nothing here reads.
    Fixed,
}

/// A varint and its length; `None` while it is incomplete.
pub fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

/// Appends a varint.
pub fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a field of bytes.
pub fn put(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(u64::from(number << 3 | 2), out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Where a field's value begins and where the field ends, counted from its key.
fn extent(bytes: &[u8]) -> Option<(u64, usize, usize)> {
    let (key, mut at) = varint(bytes)?;
    let rest = bytes.get(at..)?;
    let end = match key & 7 {
        0 => at + varint(rest)?.1,
        1 => at + 8,
        5 => at + 4,
        _ => {
            let (len, taken) = varint(rest)?;
            at += taken;
            at.saturating_add(usize::try_from(len).unwrap_or(usize::MAX))
        }
    };
    Some((key, at, end))
}

fn field<'a>(key: u64, value: &'a [u8]) -> Field<'a> {
    let number = u32::try_from(key >> 3).unwrap_or(0);
    let value = match key & 7 {
        0 => Value::Varint(varint(value).map_or(0, |(value, _)| value)),
        1 | 5 => Value::Fixed,
        _ => Value::Bytes(value),
    };
    Field { number, value }
}

/// The fields of a complete message; a broken one ends early.
pub fn fields(mut rest: &[u8]) -> impl Iterator<Item = Field<'_>> {
    std::iter::from_fn(move || {
        let (key, at, end) = extent(rest)?;
        let value = rest.get(at..end)?;
        rest = rest.get(end..)?;
        Some(field(key, value))
    })
}

/// A field of at most so many bytes is given out, a longer one is passed over.
const LONGEST: usize = 256 << 10;

/// Cuts a message that comes in pieces into its fields. Holds at most one field, and that only while it is incomplete.
#[derive(Default)]
pub struct Cutter {
    partial: Vec<u8>,
    skip: usize,
}

impl Cutter {
    /// The next piece; each field that it completes goes to `on`.
    pub fn feed(&mut self, mut data: &[u8], on: &mut impl FnMut(Field<'_>)) {
        while !data.is_empty() {
            if self.skip > 0 {
                let (_, rest) = data.split_at(self.skip.min(data.len()));
                self.skip -= data.len() - rest.len();
                data = rest;
            } else if self.partial.is_empty() {
                data = self.whole(data, on);
            } else {
                data = self.complete(data, on);
            }
        }
    }

    /// Straight from the piece, as far as it goes; the rest is kept.
    fn whole<'a>(&mut self, mut data: &'a [u8], on: &mut impl FnMut(Field<'_>)) -> &'a [u8] {
        while let Some((key, at, end)) = extent(data) {
            if end > data.len() {
                if end > LONGEST {
                    self.skip = end - data.len();
                    return &[];
                }
                break;
            }
            on(field(key, &data[at..end]));
            data = &data[end..];
        }
        self.partial.extend_from_slice(data);
        &[]
    }

    /// Adds to what is kept just what it lacks.
    fn complete<'a>(&mut self, data: &'a [u8], on: &mut impl FnMut(Field<'_>)) -> &'a [u8] {
        let lacking = match extent(&self.partial) {
            None => 1,
            Some((_, _, end)) if end > LONGEST => {
                self.skip = end - self.partial.len();
                self.partial = Vec::new();
                return data;
            }
            Some((_, _, end)) => end - self.partial.len(),
        };
        let (now, rest) = data.split_at(lacking.min(data.len()));
        self.partial.extend_from_slice(now);
        if let Some((key, at, end)) = extent(&self.partial)
            && end == self.partial.len()
        {
            on(field(key, &self.partial[at..end]));
            // Given back: ten thousand clients hold one each.
            self.partial = Vec::new();
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_alike_however_its_bytes_come() {
        let mut message = Vec::new();
        put(1, b"version", &mut message);
        put(2, &[7; 300], &mut message);
        put(2, &vec![8; LONGEST + 1], &mut message);
        put(2, b"", &mut message);
        put(5, b"nonce", &mut message);
        for piece in [1, 2, 3, 100, 16_384, message.len()] {
            let (mut cutter, mut seen) = (Cutter::default(), Vec::new());
            for data in message.chunks(piece) {
                cutter.feed(data, &mut |field| {
                    let Value::Bytes(bytes) = field.value else { panic!("only bytes here") };
                    seen.push((field.number, bytes.len()));
                });
            }
            // The long one is given out where it lies in one piece.
            seen.retain(|(_, len)| *len <= LONGEST);
            assert_eq!(seen, [(1, 7), (2, 300), (2, 0), (5, 5)], "pieces of {piece}");
            assert!(cutter.partial.is_empty() && cutter.skip == 0);
        }
    }

    #[test]
    fn varints_come_back() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(value, &mut out);
            assert_eq!(varint(&out), Some((value, out.len())));
            assert_eq!(varint(&out[..out.len() - 1]), None);
        }
    }
}
