//! The last answer of each queue, kept until the next request of the queue has come: a request that comes again is not
//! done again.

use crate::region::MAX_QUEUES;

/// Of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Last {
    /// Sequence number of the next request.
    next: u32,
    /// Checksum of the last request: one of the same number is the same one.
    request: u32,
    /// Bytes of its answer, 0: there is none.
    answer: usize,
}

impl Last {
    /// In a new session.
    const FIRST: Self = Self { next: 1, request: 0, answer: 0 };
}

/// Answers in the caller's memory, one after the other.
#[derive(Debug)]
pub(super) struct Answers<'a> {
    /// Taken out while an answer is written.
    pub(super) memory: &'a mut [u8],
    /// Bytes for each.
    size: usize,
    queues: usize,
    last: [Last; MAX_QUEUES],
}

impl<'a> Answers<'a> {
    /// Answers of at most `size` bytes, of as many queues as the memory holds, at most [`MAX_QUEUES`].
    pub(super) const fn new(memory: &'a mut [u8], size: usize) -> Self {
        let mut answers = Self { memory, size, queues: 0, last: [Last::FIRST; MAX_QUEUES] };
        answers.resize(size);
        answers
    }

    /// Answers of another size, before the first one.
    pub(super) const fn resize(&mut self, size: usize) {
        let fit = match self.memory.len().checked_div(size) {
            Some(fit) => fit,
            None => 0,
        };
        self.size = size;
        self.queues = if fit < MAX_QUEUES { fit } else { MAX_QUEUES };
    }

    pub(super) const fn queues(&self) -> usize {
        self.queues
    }

    /// A new session.
    pub(super) const fn clear(&mut self) {
        self.last = [Last::FIRST; MAX_QUEUES];
    }

    fn last(&self, queue: usize) -> Last {
        self.last.get(queue).copied().unwrap_or(Last::FIRST)
    }

    /// Sequence number of the next request of a queue.
    pub(super) fn next(&self, queue: usize) -> u32 {
        self.last(queue).next
    }

    /// Whether a request is the last one of its queue come again.
    pub(super) fn repeats(&self, queue: usize, sequence: u32, request: u32) -> bool {
        let last = self.last(queue);
        last.answer > 0 && sequence == last.next.wrapping_sub(1) && request == last.request
    }

    /// The memory for the answers of a queue in that of all.
    pub(super) fn place<'m>(&self, memory: &'m mut [u8], queue: usize) -> &'m mut [u8] {
        let start = self.size.saturating_mul(queue);
        memory.get_mut(start..).and_then(|rest| rest.get_mut(..self.size)).unwrap_or_default()
    }

    /// Keeps an answer that lies in its place.
    pub(super) fn keep(&mut self, queue: usize, sequence: u32, request: u32, answer: usize) {
        if let Some(last) = self.last.get_mut(queue) {
            *last = Last { next: sequence.wrapping_add(1), request, answer };
        }
    }

    /// The answer that is kept.
    pub(super) fn kept(&self, queue: usize) -> &[u8] {
        let start = self.size.saturating_mul(queue);
        self.memory.get(start..).and_then(|rest| rest.get(..self.last(queue).answer)).unwrap_or_default()
    }

    /// All that is known, to be compared: of each queue the next number, the last request, and its answer.
    #[cfg(test)]
    pub(super) fn state(&self) -> std::vec::Vec<(u32, u32, std::vec::Vec<u8>)> {
        let state = |queue| (self.last(queue).next, self.last(queue).request, self.kept(queue).to_vec());
        (0..self.queues).map(state).collect()
    }
}
