//! Frames over a serial line: each one in COBS (Cheshire and Baker, Consistent Overhead Byte Stuffing, IEEE/ACM
//! Transactions on Networking 7, 1999) with a zero byte after it. Whatever was lost or added on the line, the next zero
//! byte begins a new frame.

use cobs::{CobsEncoder, DecodeResult, DecoderState};
use embedded_io::{Read, ReadReady, Write};

use crate::platform::Platform;
use crate::serve::Mailbox;
use crate::wire::Integrity;

/// Bytes that a frame takes on the line at most.
pub const fn encoded(frame: usize) -> usize {
    cobs::max_encoding_length(frame) + 1
}

/// The controller's end of a serial line.
#[derive(Debug)]
pub struct Serial<'a, P, M> {
    port: P,
    platform: M,
    decoder: DecoderState,
    /// The frame that is coming in, decoded, and how long it is so far, even beyond the memory for it.
    incoming: &'a mut [u8],
    length: usize,
    /// The answer as it goes over the line.
    outgoing: &'a mut [u8],
}

impl<'a, P, M: Platform> Serial<'a, P, M> {
    /// A line over `port` of a machine that says how it waits for a byte. `incoming` holds a
    /// [`max_request`](crate::wire::max_request), `outgoing` a [`max_answer`](crate::wire::max_answer) [`encoded`]. A
    /// longer request is answered as damaged.
    pub const fn new(port: P, platform: M, incoming: &'a mut [u8], outgoing: &'a mut [u8]) -> Self {
        Self { port, platform, decoder: DecoderState::Idle, incoming, length: 0, outgoing }
    }

    /// Takes a byte; at the end of a frame its length, 0 if it is damaged.
    fn feed(&mut self, byte: u8) -> Option<usize> {
        let end = match self.decoder.feed(byte) {
            Ok(DecodeResult::NoData) => return None,
            Ok(DecodeResult::DataStart) => {
                self.length = 0;
                return None;
            }
            Ok(DecodeResult::DataContinue(byte)) => {
                if let Some(place) = self.incoming.get_mut(self.length) {
                    *place = byte;
                }
                self.length = self.length.saturating_add(1);
                return None;
            }
            Ok(DecodeResult::DataComplete) => self.length,
            Err(_) => 0,
        };
        Some(if end <= self.incoming.len() { end } else { 0 })
    }
}

impl<P: Read + ReadReady + Write, M: Platform> Mailbox for Serial<'_, P, M> {
    type Error = P::Error;

    fn poll<'k>(&mut self, answer: impl FnOnce(&[u8], Integrity) -> &'k [u8]) -> Result<bool, P::Error> {
        while self.port.read_ready()? {
            let mut byte = [0];
            if self.port.read(&mut byte)? == 0 {
                return Ok(false);
            }
            let Some(length) = self.feed(byte[0]) else { continue };
            let frame = answer(self.incoming.get(..length).unwrap_or_default(), Integrity::Checksum);
            let mut encoder = CobsEncoder::new(self.outgoing);
            if encoder.push(frame).is_ok() {
                let length = encoder.finalize();
                self.port.write_all(self.outgoing.get(..length).unwrap_or_default())?;
                self.port.write_all(&[0])?;
                self.port.flush()?;
            }
            return Ok(true);
        }
        Ok(false)
    }

    fn wait(&mut self) {
        // A byte that comes after this look ends the wait.
        if !self.port.read_ready().unwrap_or(true) {
            self.platform.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::Coherent;
    use core::convert::Infallible;
    use embedded_io::ErrorType;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// A line with bytes on it.
    #[derive(Default)]
    struct Line {
        incoming: Vec<u8>,
        read: usize,
        sent: Vec<u8>,
    }

    impl ErrorType for Line {
        type Error = Infallible;
    }

    impl Read for Line {
        fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Infallible> {
            bytes[0] = self.incoming[self.read];
            self.read += 1;
            Ok(1)
        }
    }

    impl ReadReady for Line {
        fn read_ready(&mut self) -> Result<bool, Infallible> {
            Ok(self.read < self.incoming.len())
        }
    }

    impl Write for Line {
        fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
            self.sent.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> Result<(), Infallible> {
            Ok(())
        }
    }

    /// The frames that come out of a line, which are sent back, and what is then on it.
    fn echo(incoming: &[u8], most: usize) -> (Vec<Vec<u8>>, Vec<u8>) {
        let (mut request, mut outgoing) = (std::vec![0; most], std::vec![0; encoded(most)]);
        let line = Line { incoming: incoming.to_vec(), ..Line::default() };
        let mut serial = Serial::new(line, Coherent, &mut request, &mut outgoing);
        let mut frames: Vec<&[u8]> = Vec::new();
        // Each request is its own answer, and lives as long as the test.
        while serial
            .poll(|request, _| {
                frames.push(request.to_vec().leak());
                frames.last().copied().unwrap_or_default()
            })
            .unwrap()
        {}
        let frames = frames.into_iter().map(<[u8]>::to_vec).collect();
        (frames, serial.port.sent)
    }

    fn on_the_line(frames: &[Vec<u8>]) -> Vec<u8> {
        frames.iter().flat_map(|frame| [cobs::encode_vec(frame), std::vec![0]].concat()).collect()
    }

    proptest! {
        #[test]
        fn frames_arrive_whole_and_the_answers_too(
            frames in prop::collection::vec(prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 1..600), 0..5),
        ) {
            let line = on_the_line(&frames);
            let (found, sent) = echo(&line, 600);
            prop_assert_eq!(&found, &frames);
            prop_assert_eq!(sent, line);
        }

        #[test]
        fn the_next_zero_byte_begins_a_new_frame(
            noise in prop::collection::vec(any::<u8>(), 0..100),
            frame in prop::collection::vec(any::<u8>(), 1..20),
        ) {
            let line = [noise, std::vec![0], on_the_line(std::slice::from_ref(&frame))].concat();
            let (found, _) = echo(&line, 32);
            prop_assert_eq!(found.last(), Some(&frame));
            prop_assert!(found.iter().all(|frame| frame.len() <= 32));
        }
    }

    #[test]
    fn too_long_a_frame_is_damaged() {
        let frames = [std::vec![7; 33], std::vec![7; 32]];
        assert_eq!(echo(&on_the_line(&frames), 32).0, [std::vec![], std::vec![7; 32]]);
    }
}
