//! Several channels side by side that share a contiguous range: an expert striped over a whole device.
use super::config::Config;
use super::device::Device;
use super::error::{AddressError, ConfigError};
use super::fast::{FastChannel, Recall};
use super::mapping::ChannelStripe;

/// Channels with addresses striped over them. All run on one clock; a read ends when the last channel has its last
/// data.
///
/// Channels that have read the same so far are in the same state: they are simulated once. What one has learned serves
/// all of them, see [`FastChannel`].
#[derive(Debug, Clone)]
pub struct FastChannels {
    stripe: ChannelStripe,
    count: u32,
    twins: Vec<Twins>,
    recall: Recall,
    now: u64,
}

/// Channels in the same state.
#[derive(Debug, Clone)]
struct Twins {
    channel: FastChannel,
    members: Vec<u32>,
}

impl FastChannels {
    /// `channels` idle channels of `device`, `stripe_bytes` from each in turn.
    ///
    /// # Errors
    /// As [`FastChannel::new`] and [`ChannelStripe::new`].
    pub fn new(device: &Device, config: Config, channels: u32, stripe_bytes: u64) -> Result<Self, ConfigError> {
        let stripe = ChannelStripe::new(channels, stripe_bytes, device)?;
        let channel = FastChannel::new(device, config)?;
        let twins = vec![Twins { channel, members: (0..channels).collect() }];
        Ok(Self { stripe, count: channels, twins, recall: Recall::default(), now: 0 })
    }

    /// Current cycle.
    pub const fn cycle(&self) -> u64 {
        self.now
    }

    /// Current time in picoseconds.
    pub fn time_ps(&self) -> u64 {
        self.twins.first().map_or(0, |twins| twins.channel.time_ps())
    }

    /// Bytes of all channels.
    pub fn capacity(&self) -> u64 {
        self.twins.first().map_or(0, |twins| twins.channel.capacity() * u64::from(self.count))
    }

    /// Ranges that begin at multiples of this are recognised soonest: the pattern of banks begins anew in every
    /// channel. Experts laid out so cost one simulation or two for all channels.
    pub fn alignment(&self) -> Option<u64> {
        self.twins.first()?.channel.alignment().map(|local| self.stripe.aligned(local))
    }

    /// One of the channels, for its statistics; `None` if there is no such channel.
    pub fn channel(&self, index: u32) -> Option<&FastChannel> {
        self.twins.iter().find(|twins| twins.members.contains(&index)).map(|twins| &twins.channel)
    }

    /// Lets time pass without reads up to `cycle`.
    pub fn idle_until(&mut self, cycle: u64) {
        self.now = self.now.max(cycle);
        for twins in &mut self.twins {
            twins.channel.idle_until(self.now);
        }
    }

    /// Reads `bytes` bytes from `start` on over all channels and waits for the last data of the slowest.
    ///
    /// # Errors
    /// A range that is not whole accesses inside the device; nothing was read.
    pub fn read(&mut self, start: u64, bytes: u64) -> Result<(), AddressError> {
        let access_bytes = self.twins.first().map_or(1, |twins| twins.channel.access_bytes());
        let capacity = self.capacity();
        for address in [start, bytes] {
            if !address.is_multiple_of(access_bytes) {
                return Err(AddressError::Unaligned { address, access_bytes });
            }
        }
        if start.checked_add(bytes).is_none_or(|end| end > capacity) {
            return Err(AddressError::OutOfRange { address: start.saturating_add(bytes), capacity });
        }
        self.part_twins(start, bytes);
        for twins in &mut self.twins {
            let (first, share) = self.stripe.share(twins.members[0], start, bytes);
            if share > 0 {
                std::mem::swap(&mut self.recall, &mut twins.channel.recall);
                let outcome = twins.channel.read(first, share);
                std::mem::swap(&mut self.recall, &mut twins.channel.recall);
                outcome?;
            }
        }
        let end = self.twins.iter().map(|twins| twins.channel.cycle()).max().unwrap_or(0);
        self.idle_until(end);
        Ok(())
    }

    /// Parts the channels whose shares of the range differ.
    fn part_twins(&mut self, start: u64, bytes: u64) {
        let stripe = self.stripe;
        let mut parted = Vec::new();
        for twins in &mut self.twins {
            let share = |member: u32| stripe.share(member, start, bytes);
            while let Some(other) = twins.members.iter().find(|&&member| share(member) != share(twins.members[0])) {
                let wanted = share(*other);
                let members = twins.members.extract_if(.., |member| share(*member) == wanted).collect();
                parted.push(Twins { channel: twins.channel.clone(), members });
            }
        }
        self.twins.append(&mut parted);
    }
}
