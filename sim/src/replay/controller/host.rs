//! The controller's engine in this process, behind the rings that a device has in shared memory.

use std::cell::Cell;
use std::sync::atomic::AtomicU32;

use cptr_core::dispatch::MOST_BITS;
use cptr_core::expert::{ActivationGroup, Scratch, Workspace};
use cptr_protocol::region::Attachment;
use cptr_protocol::units::Clock;
use cptr_protocol::{
    Coherent, Controller, Geometry, HostRegion, Kernels, Layer, Mailbox, Rings, Timed, Uncounted, wire, words_for,
};

use super::session::Link;
use cptr_trace::error::{Error, Result};

const EXPERTS: usize = wire::MAX_EXPERTS;
const GEOMETRY: Geometry =
    Geometry { queues: 1, slots: 4, request: wire::max_request(EXPERTS), answer: wire::max_answer(EXPERTS) };

/// Most columns of a packed matrix.
pub(super) const MOST_COLUMNS: usize = 1 << 15;
/// What runs an expert of at most so many inputs and rows.
pub(super) struct Buffers {
    values: Vec<i64>,
    codes: Vec<i16>,
    groups: Vec<ActivationGroup>,
    hidden: Vec<i64>,
    hidden_codes: Vec<i16>,
    hidden_groups: Vec<ActivationGroup>,
}

impl Buffers {
    pub(super) fn new(most: usize) -> Self {
        let (most, groups) = (most.next_multiple_of(32), vec![ActivationGroup::NONE; most.div_ceil(32)]);
        Self {
            values: vec![0; most],
            codes: vec![0; most],
            groups: groups.clone(),
            hidden: vec![0; most],
            hidden_codes: vec![0; most],
            hidden_groups: groups,
        }
    }

    pub(super) fn workspace(&mut self) -> Workspace<'_> {
        let Self { values, codes, groups, hidden, hidden_codes, hidden_groups } = self;
        Workspace { values, codes, groups, scratch: Scratch { hidden, codes: hidden_codes, groups: hidden_groups } }
    }
}

/// Nanoseconds that an expert takes, by bits; 0: none.
pub(super) type Nanoseconds = [u32; MOST_BITS as usize + 1];

/// Time near the data: it goes on while there is something to run.
struct Time<'a>(&'a Cell<u32>);

impl Clock for Time<'_> {
    fn now(&self) -> u32 {
        self.0.get()
    }
}

/// One after the other, as in the model of the device, whose units share each expert.
type Units<'a> = Timed<Kernels<'a>, Time<'a>, 1>;

struct Host<'a> {
    region: HostRegion<'a, Coherent>,
    device: Rings<'a, Coherent>,
    controller: Controller<'a, Units<'a>, Uncounted, EXPERTS, { words_for(EXPERTS) }>,
    time: &'a Cell<u32>,
    busy_ns: u64,
}

impl Host<'_> {
    /// A turn of the device's main loop.
    fn turn(&mut self) {
        let controller = &mut self.controller;
        let Ok(_) = self.device.poll(|request, link| controller.handle_from(request, link));
        self.controller.idle();
        while self.controller.outstanding() > 0 {
            self.controller.idle();
            if self.controller.outstanding() > 0 {
                self.time.set(self.time.get().wrapping_add(1));
                self.busy_ns += 1;
            }
        }
    }

    fn attach(&mut self) -> Result<()> {
        for _ in 0..8 {
            match self.region.attach() {
                Ok(Attachment::Attached) => return Ok(()),
                Ok(Attachment::Waiting) => self.turn(),
                Ok(Attachment::Refused) | Err(_) => break,
            }
        }
        Err(Error::new("the controller lets nobody attach"))
    }
}

impl Link for Host<'_> {
    fn exchange(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        let failed = |_| Error::new("the rings of the controller are damaged");
        self.region.send(0, request).map_err(failed)?;
        self.turn();
        let mut answer = vec![0; GEOMETRY.answer];
        match self.region.receive(0, &mut answer).map_err(failed)? {
            Some(length) => {
                answer.truncate(length);
                Ok(answer)
            }
            None => Err(Error::new("the controller has not answered")),
        }
    }

    fn busy_ns(&self) -> Option<u64> {
        Some(self.busy_ns)
    }
}

/// What a controller in this process has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sizes {
    /// Layers that it has memory for.
    pub(super) layers: usize,
    /// Bytes for activations, replicas and results.
    pub(super) data: usize,
    /// What its experts take.
    pub(super) times: Nanoseconds,
}

/// Lets `use_link` talk to a controller of such sizes.
pub(super) fn with<T>(sizes: Sizes, use_link: impl FnOnce(&mut dyn Link) -> T) -> Result<T> {
    let memory: Vec<AtomicU32> = (0..GEOMETRY.words()).map(|_| AtomicU32::new(0)).collect();
    let (mut layers, mut answers, mut request) =
        (vec![Layer::new(); sizes.layers], vec![0; GEOMETRY.answer], vec![0; GEOMETRY.request.div_ceil(4)]);
    let device = Rings::new(&memory, GEOMETRY, Coherent, &mut request)
        .map_err(|_| Error::new("the rings of the controller do not fit their memory"))?;
    let (mut data, mut buffers) = (vec![0; sizes.data], Buffers::new(MOST_COLUMNS));
    let time = Cell::new(0);
    let units = Timed::new(Kernels::new(&mut data, buffers.workspace()), Time(&time), sizes.times);
    let controller = Controller::new(&mut layers, &mut answers, units, Uncounted).with_generation(device.generation());
    let region = HostRegion::new(&memory, Coherent);
    let mut host = Host { region, device, controller, time: &time, busy_ns: 0 };
    host.attach()?;
    Ok(use_link(&mut host))
}
