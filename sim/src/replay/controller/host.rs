//! The controller's engine in this process, behind the rings that a device has in shared memory.

use std::convert::Infallible;
use std::sync::atomic::AtomicU32;

use cptr_protocol::{Controller, Layer, Mailbox, Ring, Rings, Uncounted, Untimed, ring, wire, words_for};
use embedded_hal::digital::{ErrorType, OutputPin};

use super::session::Link;
use cptr_trace::error::{Error, Result};

const EXPERTS: usize = wire::MAX_EXPERTS;
const REQUEST: usize = wire::max_request(EXPERTS);
const ANSWER: usize = wire::max_answer(EXPERTS);
/// Frames that a ring holds.
const SLOTS: usize = 4;

/// A pin that leads nowhere: the host asks, nobody has to call it.
struct Doorbell;

impl ErrorType for Doorbell {
    type Error = Infallible;
}

impl OutputPin for Doorbell {
    fn set_low(&mut self) -> std::result::Result<(), Infallible> {
        Ok(())
    }

    fn set_high(&mut self) -> std::result::Result<(), Infallible> {
        Ok(())
    }
}

struct Host<'a> {
    requests: Ring<'a>,
    answers: Ring<'a>,
    mailbox: Rings<'a, Doorbell>,
    controller: Controller<'a, Untimed, Uncounted, EXPERTS, { words_for(EXPERTS) }>,
}

impl Link for Host<'_> {
    fn exchange(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        let failed = |_| Error::new("the rings of the controller are damaged");
        self.requests.put(request).map_err(failed)?;
        let controller = &mut self.controller;
        let served = self.mailbox.poll(|request, answer| controller.handle(request, answer));
        controller.idle();
        let mut answer = vec![0; ANSWER];
        let length = self.answers.take(&mut answer).map_err(failed)?;
        match (served, length) {
            (Ok(true), Some(length)) => {
                answer.truncate(length);
                Ok(answer)
            }
            _ => Err(Error::new("the controller has not answered")),
        }
    }
}

/// Lets `use_link` talk to a controller with memory for so many layers.
pub(super) fn with<T>(layers: usize, use_link: impl FnOnce(&mut dyn Link) -> T) -> Result<T> {
    let memory = |bytes| (0..ring::words(SLOTS, bytes)).map(|_| AtomicU32::new(0)).collect::<Vec<_>>();
    let (up, down) = (memory(REQUEST), memory(ANSWER));
    let failed = |_| Error::new("the rings of the controller do not fit their memory");
    let (requests, answers) = (Ring::new(&up, REQUEST).map_err(failed)?, Ring::new(&down, ANSWER).map_err(failed)?);
    let mut layers = vec![Layer::new(); layers];
    let (mut request, mut answer) = (vec![0; REQUEST], vec![0; ANSWER]);
    let mailbox = Rings::new(requests, answers, Doorbell, &mut request, &mut answer);
    let controller = Controller::new(&mut layers, Untimed::default(), Uncounted);
    Ok(use_link(&mut Host { requests, answers, mailbox, controller }))
}
