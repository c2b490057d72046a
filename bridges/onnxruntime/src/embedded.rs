//! Plans inside of the file of a compiled model.
//!
//! Hosts hand out attributes by copying them byte by byte into memory that the caller has. The file is at hand already, lies in the
//! page cache because the host has just read it, and can be read and checked on several threads: a plan is found in it by its
//! [content](engraft::engine::container::Container::content), without decoding the model.
use std::{
    fs::File,
    io::{self, BufReader, Read},
    ops::Range,
    path::Path,
};

use engraft::engine::{
    container::{Container, HEADER, content_of},
    fingerprint::Fingerprint,
};

/// The fields that lead to the text of an attribute of a node: `ModelProto.graph`, `GraphProto.node`, `NodeProto.attribute`,
/// `AttributeProto.s`.
const TEXT: [u32; 4] = [7, 1, 5, 4];

/// The plan of this content in the model's file. `None`: it is not there any more, or damaged.
pub fn open(model: &Path, content: Fingerprint) -> Option<Container> {
    let found = File::open(model).and_then(|file| find(&file, content));
    let range = match found {
        Ok(Some(range)) => range,
        Ok(None) => {
            tracing::debug!("{} is not the model that was loaded any more", model.display());
            return None;
        }
        Err(error) => {
            tracing::debug!("{} cannot be searched for a plan: {error}", model.display());
            return None;
        }
    };
    match Container::open_within(model, range) {
        Ok(container) if container.content() == content => Some(container),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!("{}: {error}", model.display());
            None
        }
    }
}

/// Where a plan that states this content begins and ends, if it is the text of an attribute.
fn find(file: &File, content: Fingerprint) -> io::Result<Option<Range<u64>>> {
    let end = file.metadata()?.len();
    let mut walk = Walk { reader: BufReader::new(file), at: 0 };
    walk.search(end, &TEXT, &|start| content_of(start) == Some(content))
}

/// A message that is read from the front to the back.
struct Walk<R: Read + io::Seek> {
    reader: BufReader<R>,
    /// Bytes in front of the reader.
    at: u64,
}

impl<R: Read + io::Seek> Walk<R> {
    /// The first content of the last of the nested fields of the message up to `end` that `is_it`, which sees how it begins.
    /// Errors: no message.
    fn search(
        &mut self,
        end: u64,
        fields: &[u32],
        is_it: &dyn Fn(&[u8]) -> bool,
    ) -> io::Result<Option<Range<u64>>> {
        while self.at < end {
            let key = self.varint()?;
            let next = match key & 7 {
                0 => {
                    self.varint()?;
                    continue;
                }
                1 => self.at.checked_add(8),
                5 => self.at.checked_add(4),
                2 => {
                    let length = self.varint()?;
                    self.at.checked_add(length)
                }
                _ => None,
            };
            let next = next.filter(|next| *next <= end).ok_or(io::ErrorKind::InvalidData)?;
            if key & 7 == 2 && key >> 3 == u64::from(fields[0]) {
                let found = match &fields[1..] {
                    [] => {
                        let range = self.at..next;
                        let mut start = [0; HEADER];
                        let start = &mut start[..(next - self.at).min(HEADER as u64) as usize];
                        self.read(start)?;
                        is_it(start).then_some(range)
                    }
                    inner => self.search(next, inner, is_it)?,
                };
                if found.is_some() {
                    return Ok(found);
                }
            }
            let skipped = i64::try_from(next - self.at).map_err(|_| io::ErrorKind::InvalidData)?;
            self.reader.seek_relative(skipped)?;
            self.at = next;
        }
        Ok(None)
    }

    fn read(&mut self, out: &mut [u8]) -> io::Result<()> {
        self.reader.read_exact(out)?;
        self.at += out.len() as u64;
        Ok(())
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.read(&mut byte)?;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                return Ok(value);
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn varint(mut value: u64, out: &mut Vec<u8>) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    /// A field with content.
    fn field(number: u64, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        varint(number << 3 | 2, &mut out);
        varint(content.len() as u64, &mut out);
        out.extend(content);
        out
    }

    /// A model of two nodes with a text each, among fields of every kind.
    fn model(texts: [&[u8]; 2]) -> Vec<u8> {
        let node = |text: &[u8]| {
            let attribute = [field(1, b"name"), vec![2 << 3 | 5, 0, 0, 128, 63], field(4, text)].concat();
            field(1, &[field(3, b"a node"), field(5, &field(1, b"other")), field(5, &attribute)].concat())
        };
        let graph = [field(5, &[9; 3000]), node(texts[0]), field(1, b""), node(texts[1])].concat();
        [vec![8, 0x91, 2], vec![9 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8], field(7, &graph), field(8, b"tail")]
            .concat()
    }

    fn search(bytes: &[u8], text: &[u8]) -> io::Result<Option<Range<u64>>> {
        let mut walk = Walk { reader: BufReader::new(Cursor::new(bytes)), at: 0 };
        walk.search(bytes.len() as u64, &TEXT, &|start| start == &text[..text.len().min(HEADER)])
    }

    #[test]
    fn texts_are_found_where_they_lie() {
        let (one, other) = ([1; 5000], [2; 70]);
        let model = model([&one, &other]);
        for text in [&one[..], &other] {
            let range = search(&model, text).unwrap().unwrap();
            assert_eq!(&model[range.start as usize..range.end as usize], text);
        }
        assert_eq!(search(&model, &[2; 71]).unwrap(), None);
        assert_eq!(search(&model, b"other").unwrap(), None, "a name is no text");
        assert_eq!(search(&[], &one).unwrap(), None);
    }

    #[test]
    fn what_is_no_model_is_an_error() {
        let whole = model([&[1; 500], &[2; 70]]);
        for end in 1..whole.len() {
            // Whatever comes of it: neither a panic nor a place outside.
            if let Ok(Some(range)) = search(&whole[..end], &[2; 70]) {
                assert!(range.end <= end as u64);
            }
        }
        assert!(search(&[0xff; 32], b"").is_err());
        assert!(search(&field(7, b"\x0a\xff\xff\xff\x7f"), b"").is_err());
        assert!(search(&[3], b"").is_err(), "groups are not of this format");
    }
}
