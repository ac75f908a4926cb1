//! Frames: checked on the way in, sealed on the way out.

use crc::{CRC_32_ISCSI, Crc, Table};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Header, MAGIC, Status, VERSION};

const CRC: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISCSI);

/// What a frame is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// [`Command`](super::Command), [`ANSWER`](super::ANSWER) more in its answer.
    pub kind: u8,
    /// Queue.
    pub queue: u8,
    /// Session.
    pub session: u32,
    /// Number in its queue.
    pub sequence: u32,
}

/// What keeps frames whole on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Integrity {
    /// Nothing but their checksum: a serial line, memory without error correction.
    #[default]
    Checksum,
    /// The link and the memory themselves, with checks of their own (CXL's, ECC): frames end with 0 in its place.
    Link,
}

impl Integrity {
    /// The last word of a frame with this content.
    fn sum(self, content: &[u8]) -> u32 {
        match self {
            Self::Checksum => CRC.checksum(content),
            Self::Link => 0,
        }
    }
}

/// A frame whose checksum, magic, version and length are right.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Its header.
    pub header: &'a Header,
    /// Its body.
    pub body: Body<'a>,
    /// Its checksum.
    pub checksum: u32,
}

impl<'a> Frame<'a> {
    /// Checks a frame that has a checksum.
    ///
    /// # Errors
    /// [`Status::Frame`], [`Status::Version`], [`Status::Length`]; with what the frame is of if the checksum is right,
    /// else zeros.
    pub fn open(bytes: &'a [u8]) -> Result<Self, (Status, Head)> {
        Self::open_from(bytes, Integrity::Checksum)
    }

    /// Checks a frame.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_from(bytes: &'a [u8], integrity: Integrity) -> Result<Self, (Status, Head)> {
        let damaged = (Status::Frame, Head::default());
        let (rest, crc) = U32::ref_from_suffix(bytes).map_err(|_| damaged)?;
        let (header, body) = Header::ref_from_prefix(rest).map_err(|_| damaged)?;
        if header.magic.get() != MAGIC || integrity.sum(rest) != crc.get() {
            return Err(damaged);
        }
        let status = match () {
            () if header.version != VERSION => Status::Version,
            () if usize::from(header.length.get()) != body.len() => Status::Length,
            () => return Ok(Self { header, body: Body(body), checksum: crc.get() }),
        };
        Err((status, header.head()))
    }

    /// What it is of.
    pub fn head(&self) -> Head {
        self.header.head()
    }
}

impl Header {
    fn head(&self) -> Head {
        Head { kind: self.kind, queue: self.queue, session: self.session.get(), sequence: self.sequence.get() }
    }
}

/// What is left to read of a body.
#[derive(Debug, Clone, Copy)]
pub struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    /// Takes a descriptor.
    ///
    /// # Errors
    /// [`Status::Length`] if the body is too short.
    pub fn take<T: FromBytes + KnownLayout + Immutable + Unaligned>(&mut self) -> Result<&'a T, Status> {
        let (value, rest) = T::ref_from_prefix(self.0).map_err(|_| Status::Length)?;
        self.0 = rest;
        Ok(value)
    }

    /// Takes an array.
    ///
    /// # Errors
    /// [`Status::Length`] if the body is too short.
    pub fn take_all<T: FromBytes + Immutable + Unaligned>(&mut self, count: usize) -> Result<&'a [T], Status> {
        let (values, rest) = <[T]>::ref_from_prefix_with_elems(self.0, count).map_err(|_| Status::Length)?;
        self.0 = rest;
        Ok(values)
    }

    /// Whether all was read.
    ///
    /// # Errors
    /// [`Status::Length`] if something is left.
    pub fn end(self) -> Result<(), Status> {
        if self.0.is_empty() { Ok(()) } else { Err(Status::Length) }
    }

    /// The bytes that are left.
    pub const fn rest(&self) -> &'a [u8] {
        self.0
    }
}

/// Writes a frame into the caller's memory.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    length: usize,
    fits: bool,
}

impl<'a> Writer<'a> {
    /// A frame with an empty body so far.
    pub const fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, length: size_of::<Header>(), fits: true }
    }

    /// Appends a descriptor or an array of them to the body.
    pub fn put<T: IntoBytes + Immutable + ?Sized>(&mut self, value: &T) {
        let bytes = value.as_bytes();
        match self.buffer.get_mut(self.length..).and_then(|rest| rest.get_mut(..bytes.len())) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.length = self.length.saturating_add(bytes.len());
            }
            None => self.fits = false,
        }
    }

    /// Bytes that the body may still get.
    pub const fn room(&self) -> usize {
        self.buffer.len().saturating_sub(self.length).saturating_sub(4)
    }

    /// Takes the body back.
    pub const fn clear(&mut self) {
        self.length = size_of::<Header>();
        self.fits = true;
    }

    /// Writes header and checksum and returns the frame; an empty one if the memory is too small or the body longer
    /// than 65,535 bytes.
    pub fn finish(self, head: Head, status: Status) -> &'a [u8] {
        self.finish_for(head, status, Integrity::Checksum)
    }

    /// [`finish`](Self::finish), for a link.
    pub fn finish_for(self, head: Head, status: Status, integrity: Integrity) -> &'a [u8] {
        let Self { buffer, length, fits } = self;
        let header = size_of::<Header>();
        let (Ok(body), true) = (u16::try_from(length.saturating_sub(header)), fits) else { return &[] };
        let head = Header {
            magic: MAGIC.into(),
            version: VERSION,
            kind: head.kind,
            session: head.session.into(),
            sequence: head.sequence.into(),
            length: body.into(),
            status: status as u8,
            queue: head.queue,
        };
        let Some((frame, _)) = buffer.split_at_mut_checked(length.saturating_add(4)) else { return &[] };
        let Some((content, crc)) = frame.split_at_mut_checked(length) else { return &[] };
        let Some(place) = content.get_mut(..header) else { return &[] };
        place.copy_from_slice(head.as_bytes());
        let Some(crc) = crc.first_chunk_mut() else { return &[] };
        *crc = integrity.sum(content).to_le_bytes();
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::OVERHEAD;
    use proptest::prelude::*;
    use std::vec::Vec;

    const CHECKSUM: u32 = 0xEF6D_AA8C;
    const HEAD: Head = Head { kind: 7, queue: 5, session: 0x0506_0708, sequence: 0x0102_0304 };

    /// A request with a body.
    fn frame(head: Head, body: &[u8]) -> Vec<u8> {
        let mut buffer = std::vec![0; OVERHEAD + body.len()];
        let mut writer = Writer::new(&mut buffer);
        writer.put(body);
        writer.finish(head, Status::Done).to_vec()
    }

    #[test]
    fn a_frame_byte_by_byte() {
        // The checksum was computed with an independent program: CRC-32C of the first 18 bytes.
        let expected = [0x63, 0x70, 4, 7, 8, 7, 6, 5, 4, 3, 2, 1, 2, 0, 0, 5, 0xFF, 0xFF];
        assert!(frame(HEAD, &[0xFF, 0xFF]).into_iter().eq(expected.into_iter().chain(CHECKSUM.to_le_bytes())));
    }

    #[test]
    fn too_little_memory_is_an_empty_frame() {
        let mut buffer = [0; 24];
        let mut writer = Writer::new(&mut buffer);
        writer.put(&[0u8; 5][..]);
        assert!(writer.finish(HEAD, Status::Done).is_empty());
        let mut writer = Writer::new(&mut buffer);
        writer.put(&[0u8; 9][..]);
        writer.clear();
        assert_eq!(writer.finish(HEAD, Status::Done).len(), OVERHEAD);
        for length in 0..OVERHEAD {
            assert!(Writer::new(&mut buffer[..length]).finish(HEAD, Status::Done).is_empty());
        }
        assert!(frame(HEAD, &[0; 65_536]).is_empty() && frame(HEAD, &[0; 65_535]).len() == 65_535 + OVERHEAD);
    }

    proptest! {
        #[test]
        fn frames_survive(
            kind: u8,
            queue: u8,
            session: u32,
            sequence: u32,
            body in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let head = Head { kind, queue, session, sequence };
            let bytes = frame(head, &body);
            let found = Frame::open(&bytes).unwrap();
            prop_assert_eq!(found.head(), head);
            prop_assert_eq!(found.body.rest(), &body[..]);
        }

        #[test]
        fn one_changed_bit_is_noticed(body in prop::collection::vec(any::<u8>(), 0..100), bit: prop::sample::Index) {
            let mut bytes = frame(HEAD, &body);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Frame::open(&bytes).unwrap_err(), (Status::Frame, Head::default()));
        }

        #[test]
        fn over_a_link_frames_end_with_zero(body in prop::collection::vec(any::<u8>(), 0..100), word in 1u32..) {
            let mut buffer = std::vec![0xFF; OVERHEAD + body.len()];
            let mut writer = Writer::new(&mut buffer);
            writer.put(&body[..]);
            let mut bytes = writer.finish_for(HEAD, Status::Done, Integrity::Link).to_vec();
            prop_assert_eq!(Frame::open_from(&bytes, Integrity::Link).unwrap().body.rest(), &body[..]);
            let end = bytes.len() - 4;
            prop_assert_eq!(&bytes[end..], [0; 4]);
            bytes[end..].copy_from_slice(&word.to_le_bytes());
            prop_assert_eq!(Frame::open_from(&bytes, Integrity::Link).unwrap_err(), (Status::Frame, Head::default()));
        }

        #[test]
        fn a_frame_cut_off_is_noticed(body in prop::collection::vec(any::<u8>(), 0..100), length: prop::sample::Index) {
            let bytes = frame(HEAD, &body);
            prop_assert!(Frame::open(&bytes[..length.index(bytes.len())]).is_err());
        }
    }
}
