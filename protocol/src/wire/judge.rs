//! What a host makes of a frame that comes back.

use super::{ANSWER, Body, Frame, Head, Integrity, Status};

/// What a frame is to a host that has a request on its way.
#[derive(Debug, Clone, Copy)]
pub enum Verdict<'a> {
    /// The answer: it is done.
    Done(Body<'a>),
    /// The answer: the device does not do it, and has changed nothing.
    Refused(Status),
    /// The device has no such session, or is elsewhere in it: it has started anew, or another host has begun one. Begin
    /// a new session, and put back what was snapshot.
    Lost,
    /// Damaged on its way, here or there: send the same request again.
    Again,
    /// To another request, which came late or twice: go on waiting.
    Other,
}

/// Says what a frame is to the request `asked`.
pub fn judge(asked: Head, frame: &[u8]) -> Verdict<'_> {
    judge_from(asked, frame, Integrity::Checksum)
}

/// [`judge`], over a link.
pub fn judge_from(asked: Head, frame: &[u8], integrity: Integrity) -> Verdict<'_> {
    let Ok(frame) = Frame::open_from(frame, integrity) else { return Verdict::Again };
    let status = Status::from_number(frame.header.status);
    if status == Some(Status::Frame) {
        return Verdict::Again;
    }
    if frame.head() != (Head { kind: asked.kind | ANSWER, ..asked }) {
        return Verdict::Other;
    }
    match status {
        Some(Status::Done) => Verdict::Done(frame.body),
        Some(Status::Session | Status::Sequence) => Verdict::Lost,
        Some(status) => Verdict::Refused(status),
        None => Verdict::Again,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{OVERHEAD, Writer};
    use std::vec::Vec;

    const ASKED: Head = Head { kind: 6, queue: 1, session: 9, sequence: 77 };

    fn answer(head: Head, status: Status) -> Vec<u8> {
        let mut buffer = [0; OVERHEAD + 2];
        let mut writer = Writer::new(&mut buffer);
        writer.put(&[1u8, 2]);
        writer.finish(head, status).to_vec()
    }

    #[test]
    fn only_the_answer_to_the_request_is_one() {
        let right = Head { kind: 6 | ANSWER, ..ASKED };
        assert!(matches!(judge(ASKED, &answer(right, Status::Done)), Verdict::Done(body) if body.rest() == [1, 2]));
        assert!(matches!(judge(ASKED, &answer(right, Status::Busy)), Verdict::Refused(Status::Busy)));
        assert!(matches!(judge(ASKED, &answer(right, Status::Session)), Verdict::Lost));
        assert!(matches!(judge(ASKED, &answer(right, Status::Sequence)), Verdict::Lost));
        for other in [
            ASKED,
            Head { kind: 7 | ANSWER, ..right },
            Head { queue: 0, ..right },
            Head { session: 8, ..right },
            Head { sequence: 76, ..right },
        ] {
            for status in [Status::Done, Status::Session, Status::Busy] {
                assert!(matches!(judge(ASKED, &answer(other, status)), Verdict::Other));
            }
        }
        // A refusal of what was damaged on its way names no request.
        assert!(matches!(judge(ASKED, &answer(Head::default(), Status::Frame)), Verdict::Again));
        let damaged = answer(right, Status::Done);
        assert!((0..damaged.len()).all(|length| matches!(judge(ASKED, &damaged[..length]), Verdict::Again)));
    }
}
