//! What a person wants to read of a run. With the feature `defmt` it is logged in idle time, after the answer; without,
//! nothing is left of it.

use crate::wire::Status;

/// What came of a request, where that is worth a line. Tokens are not.
#[cfg_attr(not(feature = "defmt"), expect(dead_code, reason = "only the log reads the fields"))]
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    Configured { layers: u16, experts: u16, k: u8, capacity: u16, on_demand: bool },
    Placed { layer: u16, hot: u16 },
    Refused { kind: u8, sequence: u32, status: Status },
}

/// The line that is still to be written.
#[derive(Debug)]
pub(super) struct Log {
    #[cfg(feature = "defmt")]
    event: Option<Event>,
}

#[cfg(not(feature = "defmt"))]
impl Log {
    pub(super) const fn new() -> Self {
        Self {}
    }

    pub(super) const fn note(&mut self, _: Event) {}

    pub(super) const fn write(&mut self) {}

    pub(super) const fn lost_lock(_: usize) {}
}

#[cfg(feature = "defmt")]
impl Log {
    pub(super) const fn new() -> Self {
        Self { event: None }
    }

    /// Remembers what came of a request.
    pub(super) const fn note(&mut self, event: Event) {
        self.event = Some(event);
    }

    /// Logs what was remembered.
    pub(super) fn write(&mut self) {
        match self.event.take() {
            None => {}
            Some(Event::Configured { layers, experts, k, capacity, on_demand }) => {
                defmt::info!(
                    "configured: {} layers of {} experts, top-{}, {} resident, on demand: {}",
                    layers,
                    experts,
                    k,
                    capacity,
                    on_demand
                );
            }
            Some(Event::Placed { layer, hot }) => defmt::info!("layer {}: {} experts placed", layer, hot),
            Some(Event::Refused { kind, sequence, status }) => match crate::wire::Command::try_from(kind) {
                Ok(command) => defmt::warn!("refused request {} ({}): {}", sequence, command, status),
                Err(_) => defmt::warn!("refused request {} (kind {}): {}", sequence, kind, status),
            },
        }
    }

    /// Logs that a layer's context has changed.
    pub(super) fn lost_lock(layer: usize) {
        defmt::info!("layer {}: lost lock", layer);
    }
}
