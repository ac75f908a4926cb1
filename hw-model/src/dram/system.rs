//! Several channels side by side that share a contiguous range: an expert striped over a whole device.
use super::config::Config;
use super::device::Device;
use super::error::{AddressError, ConfigError};
use super::fast::{FastChannel, Recall};
use super::mapping::ChannelStripe;

/// Channels with addresses striped over them. All run on one clock; a read ends when the last channel has its last data.
///
/// What one channel has learned serves all of them, see [`FastChannel`].
#[derive(Debug, Clone)]
pub struct FastChannels {
    stripe: ChannelStripe,
    channels: Vec<FastChannel>,
    recall: Recall,
    now: u64,
}

impl FastChannels {
    /// `channels` idle channels of `device`, `stripe_bytes` from each in turn.
    ///
    /// # Errors
    /// As [`FastChannel::new`] and [`ChannelStripe::new`].
    pub fn new(device: &Device, config: Config, channels: u32, stripe_bytes: u64) -> Result<Self, ConfigError> {
        let stripe = ChannelStripe::new(channels, stripe_bytes, device)?;
        let channel = FastChannel::new(device, config)?;
        Ok(Self { stripe, channels: vec![channel; channels as usize], recall: Recall::default(), now: 0 })
    }

    /// Current cycle.
    pub const fn cycle(&self) -> u64 {
        self.now
    }

    /// Current time in picoseconds.
    pub fn time_ps(&self) -> u64 {
        self.channels.first().map_or(0, FastChannel::time_ps)
    }

    /// Bytes of all channels.
    pub fn capacity(&self) -> u64 {
        self.channels.iter().map(FastChannel::capacity).sum()
    }

    /// Ranges that begin at multiples of this are recognised soonest: the pattern of banks begins anew in every channel. Experts laid
    /// out so cost one simulation for all channels.
    pub fn alignment(&self) -> Option<u64> {
        self.channels.first()?.alignment().map(|local| self.stripe.aligned(local))
    }

    /// The channels, for their statistics.
    pub fn channels(&self) -> &[FastChannel] {
        &self.channels
    }

    /// Lets time pass without reads up to `cycle`.
    pub fn idle_until(&mut self, cycle: u64) {
        self.now = self.now.max(cycle);
        for channel in &mut self.channels {
            channel.idle_until(self.now);
        }
    }

    /// Reads `bytes` bytes from `start` on over all channels and waits for the last data of the slowest.
    ///
    /// # Errors
    /// A range that is not whole accesses inside the device; nothing was read.
    pub fn read(&mut self, start: u64, bytes: u64) -> Result<(), AddressError> {
        let (capacity, access_bytes) = (self.capacity(), self.channels.first().map_or(1, FastChannel::access_bytes));
        for address in [start, bytes] {
            if !address.is_multiple_of(access_bytes) {
                return Err(AddressError::Unaligned { address, access_bytes });
            }
        }
        if start.checked_add(bytes).is_none_or(|end| end > capacity) {
            return Err(AddressError::OutOfRange { address: start.saturating_add(bytes), capacity });
        }
        for (index, channel) in self.channels.iter_mut().enumerate() {
            let (first, share) = self.stripe.share(index as u32, start, bytes);
            if share == 0 {
                continue;
            }
            std::mem::swap(&mut self.recall, &mut channel.recall);
            let outcome = channel.read(first, share);
            std::mem::swap(&mut self.recall, &mut channel.recall);
            outcome?;
        }
        let end = self.channels.iter().map(FastChannel::cycle).max().unwrap_or(0);
        self.idle_until(end);
        Ok(())
    }
}
