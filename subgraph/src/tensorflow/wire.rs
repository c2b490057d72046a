//! Messages as the bytes that they came in: fields are found, replaced and appended without decoding the others.

use bytes::{Buf, BufMut, Bytes};
use prost::DecodeError;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

/// One field of a message.
pub struct Field {
    pub number: u32,
    /// Key and value.
    pub whole: Bytes,
    /// The content of a length-delimited field, else empty.
    pub content: Bytes,
}

/// The fields of a message, in their order.
///
/// # Errors
/// Bytes that are no message.
pub fn fields(message: &Bytes) -> Result<Vec<Field>, DecodeError> {
    let mut rest = message.clone();
    let mut fields = Vec::new();
    while rest.has_remaining() {
        let start = rest.clone();
        let (number, wire) = decode_key(&mut rest)?;
        let mut content = Bytes::new();
        match wire {
            WireType::Varint => drop(decode_varint(&mut rest)?),
            WireType::SixtyFourBit => skip(&mut rest, 8)?,
            WireType::ThirtyTwoBit => skip(&mut rest, 4)?,
            WireType::LengthDelimited => {
                let length = decode_varint(&mut rest)?;
                if length > rest.remaining() as u64 {
                    return Err(truncated());
                }
                content = rest.split_to(length as usize);
            }
            WireType::StartGroup | WireType::EndGroup => return Err(truncated()),
        }
        let whole = start.slice(..start.len() - rest.len());
        fields.push(Field { number, whole, content });
    }
    Ok(fields)
}

fn skip(rest: &mut Bytes, count: usize) -> Result<(), DecodeError> {
    if rest.remaining() < count {
        return Err(truncated());
    }
    rest.advance(count);
    Ok(())
}

/// The decoder's own error for a message that ends early.
fn truncated() -> DecodeError {
    match decode_varint(&mut Bytes::new()) {
        Err(error) => error,
        Ok(_) => unreachable!("no varint is empty"),
    }
}

/// Appends a length-delimited field.
pub fn append(message: &mut Vec<u8>, number: u32, content: &[u8]) {
    encode_key(number, WireType::LengthDelimited, message);
    encode_varint(content.len() as u64, message);
    message.put_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_put_together_are_the_message() {
        let mut message = Vec::new();
        encode_key(1, WireType::Varint, &mut message);
        encode_varint(300, &mut message);
        append(&mut message, 70, b"abc");
        encode_key(3, WireType::ThirtyTwoBit, &mut message);
        message.extend([1, 2, 3, 4]);
        let message = Bytes::from(message);
        let fields = fields(&message).unwrap();
        let numbers: Vec<u32> = fields.iter().map(|field| field.number).collect();
        assert_eq!(numbers, [1, 70, 3]);
        assert_eq!(fields[1].content, "abc");
        let joined: Vec<u8> = fields.iter().flat_map(|field| field.whole.to_vec()).collect();
        assert_eq!(joined, message);
    }

    #[test]
    fn what_ends_early_is_an_error() {
        let mut message = Vec::new();
        append(&mut message, 1, b"abc");
        for length in 1..message.len() {
            assert!(fields(&Bytes::copy_from_slice(&message[..length])).is_err(), "{length}");
        }
    }
}
