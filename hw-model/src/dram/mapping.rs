//! From a byte address to channel, rank, bank group, bank, row and column.
//!
//! The named mappings, bits from high to low (`r` row, `b` bank, `g` bank group, `k` rank, `s` stack, `c` column):
//!
//! | name | order | what it is for |
//! |---|---|---|
//! | `robaracoch` | r b g s k c | lines of a row lie together; the next row is in the next bank group |
//! | `mop4clxor` | r c b g s k c(2) | four lines, then the next bank group; group, bank **and row** XOR the column |
//! | `rochrababgco` | r k b s g c | as DRAMsim3 writes it; the same bits as `robaracoch` on one rank |
//! | `rochrabacobg` | r k b c s g | lines alternate over bank groups |
//! | `row-contiguous` | k b g s r c | a bank is filled row after row: few banks for one expert |
//! | `bank-interleaved` | r c b s g k | lines alternate over all banks, nothing is XORed |
//!
//! Several channels are a matter of their own: see [`ChannelStripe`].
use super::device::{Device, Organisation};
use super::error::{AddressError, ConfigError};

/// A named order of the address bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MappingKind {
    /// Row, bank, bank group, rank, column.
    RoBaRaCoCh,
    /// Four lines, then bank group, bank, column, row; group, bank and row XOR the column (Ramulator 2.1 `MOP4CLXOR`).
    Mop4ClXor,
    /// Row, rank, bank, bank group, column (DRAMsim3).
    RoChRaBaBgCo,
    /// Row, rank, bank, column, bank group (DRAMsim3).
    RoChRaBaCoBg,
    /// Rank, bank, bank group, row, column.
    RowContiguous,
    /// Row, column, bank, bank group, rank.
    BankInterleaved,
}

impl MappingKind {
    /// All named mappings.
    pub const ALL: [Self; 6] = [
        Self::RoBaRaCoCh,
        Self::Mop4ClXor,
        Self::RoChRaBaBgCo,
        Self::RoChRaBaCoBg,
        Self::RowContiguous,
        Self::BankInterleaved,
    ];

    /// Name in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoBaRaCoCh => "robaracoch",
            Self::Mop4ClXor => "mop4clxor",
            Self::RoChRaBaBgCo => "rochrababgco",
            Self::RoChRaBaCoBg => "rochrabacobg",
            Self::RowContiguous => "row-contiguous",
            Self::BankInterleaved => "bank-interleaved",
        }
    }

    /// One line for people: bits from high to low and what comes of it.
    pub const fn summary(self) -> &'static str {
        match self {
            Self::RoBaRaCoCh => {
                "row, bank, bank group, rank, column: a row lies together, the next one in the next bank group"
            }
            Self::Mop4ClXor => {
                "row, column, bank, bank group, rank, 4 lines; group, bank and row XOR the column: four lines, then the next group"
            }
            Self::RoChRaBaBgCo => "row, rank, bank, bank group, column, as DRAMsim3 writes it",
            Self::RoChRaBaCoBg => "row, rank, bank, column, bank group: lines alternate over the bank groups",
            Self::RowContiguous => "rank, bank, bank group, row, column: a bank is filled row after row",
            Self::BankInterleaved => "row, column, bank, bank group, rank: lines alternate over all banks",
        }
    }

    /// The mapping called `name` (upper or lower case).
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }

    /// Levels from the lowest bit up.
    const fn order(self) -> [Level; 7] {
        use Level::{Bank, Column, ColumnHigh, Group, Rank, Row, Stack};
        match self {
            Self::RoBaRaCoCh => [Column, ColumnHigh, Rank, Stack, Group, Bank, Row],
            Self::Mop4ClXor => [Column, Rank, Stack, Group, Bank, ColumnHigh, Row],
            Self::RoChRaBaBgCo => [Column, ColumnHigh, Group, Stack, Bank, Rank, Row],
            Self::RoChRaBaCoBg => [Group, Stack, Column, ColumnHigh, Bank, Rank, Row],
            Self::RowContiguous => [Column, ColumnHigh, Row, Stack, Group, Bank, Rank],
            Self::BankInterleaved => [Rank, Group, Stack, Bank, Column, ColumnHigh, Row],
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    /// The two lowest bits of the column.
    Column,
    ColumnHigh,
    Rank,
    Stack,
    Group,
    Bank,
    Row,
}

/// Lowest bits of the column that `mop4clxor` keeps together.
const COLUMN_LOW_BITS: u32 = 2;

/// Bits `shift .. shift + width` of an address, as a shift and a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Slice {
    shift: u32,
    mask: u64,
    width: u32,
    /// First bit of the column that is XORed into these; [`NO_COLUMN`] if none is.
    column_shift: u32,
}

/// No column has so many bits: shifted by this it is 0.
const NO_COLUMN: u32 = 63;

impl Slice {
    const fn of(self, address: u64, column: u64) -> u64 {
        (address >> self.shift ^ column >> self.column_shift) & self.mask
    }
}

impl Slice {
    /// The bits of an address that [`Self::of`] gives `value` for.
    const fn place(self, value: u64, column: u64) -> u64 {
        ((value ^ column >> self.column_shift) & self.mask) << self.shift
    }
}

/// Where a line lies in its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Location {
    /// Flat bank number: rank, stack, group, bank from high to low.
    pub bank: u16,
    /// Row of the bank.
    pub row: u32,
    /// Column, counted in accesses (bursts), not in beats.
    pub column: u32,
}

/// A named mapping for one device: decodes the addresses of one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressMap {
    kind: MappingKind,
    access_bytes: u64,
    capacity: u64,
    ranks: u64,
    rows: u64,
    column_low: Slice,
    column_high: Slice,
    rank: Slice,
    stack: Slice,
    group: Slice,
    bank: Slice,
    row: Slice,
    /// Levels whose number is no power of two, below others: shift, number, width; lowest first.
    uneven: Vec<(u32, u64, u32)>,
    /// What each byte of the number of an access adds to its place; see [`Self::tables`]. None where a channel has more
    /// than 2^32 accesses, or a row more than 2^16.
    tables: Option<Box<[[u64; 256]; 4]>>,
    access_shift: u32,
}

impl AddressMap {
    /// The mapping `kind` for `device`.
    ///
    /// # Errors
    /// A device that is impossible, or one with fewer than four accesses a row under `mop4clxor`.
    pub fn new(kind: MappingKind, device: &Device) -> Result<Self, ConfigError> {
        device.validate()?;
        let o: &Organisation = &device.organisation;
        let column_bits = o.accesses_per_row().ilog2();
        if kind == MappingKind::Mop4ClXor && column_bits < COLUMN_LOW_BITS {
            return Err(ConfigError::new("organisation.columns", o.columns, "must hold four accesses under mop4clxor"));
        }
        let low_bits = column_bits.min(COLUMN_LOW_BITS);
        let mut map = Self {
            kind,
            access_bytes: o.access_bytes(),
            capacity: o.capacity_bytes,
            ranks: u64::from(o.ranks),
            rows: u64::from(o.rows),
            column_low: Slice::default(),
            column_high: Slice::default(),
            rank: Slice::default(),
            stack: Slice::default(),
            group: Slice::default(),
            bank: Slice::default(),
            row: Slice::default(),
            uneven: Vec::new(),
            tables: None,
            access_shift: o.access_bytes().ilog2(),
        };
        let mut shift = o.access_bytes().ilog2();
        let width_of = |count: u32| count.next_power_of_two().ilog2();
        for level in kind.order() {
            let (slice, width) = match level {
                Level::Column => (&mut map.column_low, low_bits),
                Level::ColumnHigh => (&mut map.column_high, column_bits - low_bits),
                Level::Rank => (&mut map.rank, width_of(o.ranks)),
                Level::Stack => (&mut map.stack, o.stacks.ilog2()),
                Level::Group => (&mut map.group, o.groups.ilog2()),
                Level::Bank => (&mut map.bank, o.banks.ilog2()),
                Level::Row => (&mut map.row, width_of(o.rows)),
            };
            *slice = Slice { shift, mask: (1 << width) - 1, width, column_shift: NO_COLUMN };
            let count = match level {
                Level::Rank => o.ranks,
                Level::Row => o.rows,
                _ => 1,
            };
            if !count.is_power_of_two() {
                map.uneven.push((shift, u64::from(count), width));
            }
            shift += width;
        }
        // The highest level needs nothing: addresses end with it.
        map.uneven.retain(|&(at, _, width)| at + width < shift);
        if kind == MappingKind::Mop4ClXor {
            let mut column_shift = 0;
            // A number of ranks that is no power of two is not one after an XOR.
            let rank = if o.ranks.is_power_of_two() { &mut map.rank } else { &mut Slice::default() };
            for slice in [rank, &mut map.stack, &mut map.group, &mut map.bank, &mut map.row] {
                slice.column_shift = column_shift;
                column_shift += slice.width;
            }
            let block = 1 << map.xored_row_bits();
            if !o.rows.is_multiple_of(block) {
                let rule = format!("must be a multiple of {block} under mop4clxor, which changes as many rows");
                return Err(ConfigError::new("organisation.rows", o.rows, rule));
            }
        }
        if shift - map.access_shift <= 32 && column_bits <= 16 {
            map.tables = Some(map.tables());
        }
        Ok(map)
    }

    /// Every bit of a place is an XOR of bits of the address. So a place is the XOR of what each byte of the number of
    /// the access adds: four looks into a table in place of seven fields.
    fn tables(&self) -> Box<[[u64; 256]; 4]> {
        let mut tables = Box::new([[0; 256]; 4]);
        for (byte, table) in tables.iter_mut().enumerate() {
            for (value, packed) in (0..).zip(table) {
                let at = self.fields(value << (8 * byte as u32) << self.access_shift);
                *packed = u64::from(at.row) | u64::from(at.bank) << 32 | u64::from(at.column) << 48;
            }
        }
        tables
    }

    /// Which mapping this is.
    pub const fn kind(&self) -> MappingKind {
        self.kind
    }

    /// Bytes of one access.
    pub const fn access_bytes(&self) -> u64 {
        self.access_bytes
    }

    /// Bytes of the channel.
    pub const fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Refuses an address that is not a whole access inside the channel.
    pub const fn check(&self, address: u64) -> Result<(), AddressError> {
        if address & (self.access_bytes - 1) != 0 {
            return Err(AddressError::Unaligned { address, access_bytes: self.access_bytes });
        }
        if address >= self.capacity {
            return Err(AddressError::OutOfRange { address, capacity: self.capacity });
        }
        Ok(())
    }

    /// Where `address` lies. Bits below one access and above the capacity are ignored; see [`Self::check`].
    #[inline(always)]
    pub fn decode(&self, address: u64) -> Location {
        let address = if self.uneven.is_empty() { address } else { self.spread(address) };
        let Some(tables) = &self.tables else { return self.fields(address) };
        let number = ((address >> self.access_shift) as u32).to_le_bytes();
        let packed = tables.iter().zip(number).fold(0, |packed, (table, byte)| packed ^ table[usize::from(byte)]);
        Location { bank: (packed >> 32) as u16, row: packed as u32, column: (packed >> 48) as u32 }
    }

    /// As [`Self::decode`], field by field, of an address as if all levels had a power of two.
    fn fields(&self, address: u64) -> Location {
        let column = self.column_low.of(address, 0) | self.column_high.of(address, 0) << self.column_low.width;
        let (rank, stack) = (self.rank.of(address, column), self.stack.of(address, column));
        let (group, bank) = (self.group.of(address, column), self.bank.of(address, column));
        let row = self.row.of(address, column);
        let flat = ((rank << self.stack.width | stack) << self.group.width | group) << self.bank.width | bank;
        Location { bank: flat as u16, row: row as u32, column: column as u32 }
    }

    /// The address as it were if all levels had a power of two.
    #[cold]
    fn spread(&self, address: u64) -> u64 {
        self.uneven.iter().fold(address, |address, &(shift, count, width)| {
            let (low, high) = (address & ((1 << shift) - 1), address >> shift);
            low | (high % count) << shift | (high / count) << (shift + width)
        })
    }

    /// The inverse of [`Self::decode`]. Bits beyond the levels are ignored.
    pub fn encode(&self, at: Location) -> u64 {
        let (flat, column) = (u64::from(at.bank), u64::from(at.column));
        let group = flat >> self.bank.width;
        let stack = group >> self.group.width;
        let rank = stack >> self.stack.width;
        let address = self.column_low.place(column, 0)
            | self.column_high.place(column >> self.column_low.width, 0)
            | self.rank.place(rank, column)
            | self.stack.place(stack, column)
            | self.group.place(group, column)
            | self.bank.place(flat, column)
            | self.row.place(u64::from(at.row), column);
        self.uneven.iter().rev().fold(address, |address, &(shift, count, width)| {
            let (low, high) = (address & ((1 << shift) - 1), address >> shift);
            low | ((high & ((1 << width) - 1)) + (high >> width) * count) << shift
        })
    }

    /// The place that numbers of the levels name: channel (0), rank, stack where the device has several, bank group,
    /// bank, row, column in accesses. `None` if there is no such place.
    pub fn place(&self, levels: &[u64]) -> Option<Location> {
        let stack = self.stack.width > 0;
        let (rank, sid, rest) = match *levels {
            [0, rank, sid, ref rest @ ..] if stack => (rank, sid, rest),
            [0, rank, ref rest @ ..] if !stack => (rank, 0, rest),
            _ => return None,
        };
        let &[group, bank, row, column] = rest else { return None };
        let columns = 1 << (self.column_low.width + self.column_high.width);
        let inside = [(rank, self.rank), (sid, self.stack), (group, self.group), (bank, self.bank), (row, self.row)]
            .iter()
            .all(|(value, slice)| *value <= slice.mask)
            && rank < self.ranks
            && row < self.rows;
        let flat = ((rank << self.stack.width | sid) << self.group.width | group) << self.bank.width | bank;
        (inside && column < columns).then_some(Location { bank: flat as u16, row: row as u32, column: column as u32 })
    }

    /// A distance that moves every line by the same number of rows and leaves all else as it is: bytes and rows.
    ///
    /// Two windows of a stream that lie a multiple of this apart look the same to the controller. `None` if the row
    /// bits are not the highest ones, or if the distance is the whole channel.
    pub(super) fn period(&self) -> Option<(u64, u32)> {
        if self.kind == MappingKind::RowContiguous {
            return None;
        }
        // Bits of the row that the column is XORed into would not add up: the step lies above them.
        let xored = self.xored_row_bits();
        (xored < self.row.width).then(|| ((self.capacity / self.rows) << xored, 1 << xored))
    }

    /// Lowest bits of the row that the column is XORed into.
    fn xored_row_bits(&self) -> u32 {
        let column_bits = self.column_low.width + self.column_high.width;
        column_bits.saturating_sub(self.row.column_shift).min(self.row.width)
    }
}

/// Spreads addresses over channels: `stripe_bytes` to each in turn.
///
/// Any number of channels will do, not only powers of two (ten channels of DDR5-6400 make 512 GB/s).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelStripe {
    channels: u64,
    stripe_bytes: u64,
}

impl ChannelStripe {
    /// `channels` channels, `stripe_bytes` bytes from each in turn; a stripe must hold whole accesses of the device.
    pub fn new(channels: u32, stripe_bytes: u64, device: &Device) -> Result<Self, ConfigError> {
        if channels == 0 {
            return Err(ConfigError::new("channels", channels, "must be at least 1"));
        }
        let access = device.organisation.access_bytes();
        if stripe_bytes == 0 || !stripe_bytes.is_multiple_of(access) {
            let rule = format!("must be a multiple of the {access} bytes of one access, at least one");
            return Err(ConfigError::new("stripe_bytes", stripe_bytes, rule));
        }
        Ok(Self { channels: u64::from(channels), stripe_bytes })
    }

    /// Bytes over all channels that begin at a multiple of `local_bytes` in each of them: the least common multiple of
    /// a stripe and `local_bytes`, on every channel.
    pub const fn aligned(&self, local_bytes: u64) -> u64 {
        let (mut a, mut b) = (self.stripe_bytes, local_bytes);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        self.stripe_bytes / a * local_bytes * self.channels
    }

    /// Channel of `address` and the address within that channel.
    pub const fn split(&self, address: u64) -> (u32, u64) {
        let stripe = address / self.stripe_bytes;
        let local = stripe / self.channels * self.stripe_bytes + address % self.stripe_bytes;
        ((stripe % self.channels) as u32, local)
    }

    /// The inverse of [`Self::split`].
    pub const fn join(&self, channel: u32, local: u64) -> u64 {
        let stripe = local / self.stripe_bytes * self.channels + channel as u64;
        stripe * self.stripe_bytes + local % self.stripe_bytes
    }

    /// Bytes of the range `start .. start + bytes` that lie on `channel`, and where they start there.
    pub const fn share(&self, channel: u32, start: u64, bytes: u64) -> (u64, u64) {
        let first = self.first_at_or_after(channel, start);
        (first, self.first_at_or_after(channel, start + bytes) - first)
    }

    /// Local address of the first byte of `channel` at or after `address`.
    const fn first_at_or_after(&self, channel: u32, address: u64) -> u64 {
        let round = self.stripe_bytes * self.channels;
        let within = address % round;
        let begin = channel as u64 * self.stripe_bytes;
        let taken = if within <= begin {
            0
        } else if within - begin >= self.stripe_bytes {
            self.stripe_bytes
        } else {
            within - begin
        };
        address / round * self.stripe_bytes + taken
    }
}

#[cfg(test)]
mod tests {
    use super::super::presets;
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// A device small enough to visit every line.
    fn small(ranks: u32, stacks: u32, groups: u32, banks: u32, rows: u32, accesses: u32) -> Device {
        let mut device = presets::ddr4_3200();
        let o = &mut device.organisation;
        (o.ranks, o.stacks, o.groups, o.banks, o.rows, o.columns) = (ranks, stacks, groups, banks, rows, accesses * 8);
        o.capacity_bytes = u64::from(o.total_banks()) * u64::from(rows) * o.row_bytes();
        device
    }

    proptest! {
        #[test]
        fn every_mapping_is_one_to_one(ranks in 1u32..6, stacks in 0u32..2, groups in 0u32..3, banks in 0u32..3,
                                       rows in 1u32..10, accesses in 2u32..6) {
            let device = small(ranks, 1 << stacks, 1 << groups, 1 << banks, rows, 1 << accesses);
            for kind in MappingKind::ALL {
                let Ok(map) = AddressMap::new(kind, &device) else {
                    prop_assert!(kind == MappingKind::Mop4ClXor && !rows.is_power_of_two());
                    continue;
                };
                let lines = map.capacity() / 64;
                let seen: HashSet<Location> = (0..lines).map(|line| map.decode(line * 64)).collect();
                prop_assert_eq!(seen.len() as u64, lines, "{}", kind.name());
                let o = &device.organisation;
                prop_assert!((0..lines).all(|line| map.encode(map.decode(line * 64)) == line * 64));
                for at in &seen {
                    prop_assert!(u32::from(at.bank) < o.total_banks() && at.row < o.rows && at.column < o.accesses_per_row());
                }
            }
        }

        #[test]
        fn stripes_are_one_to_one_and_shares_add_up(channels in 1u32..12, lines in 1u64..9, start in 0u64..5000, bytes in 0u64..20_000) {
            let stripe = ChannelStripe::new(channels, lines * 64, &presets::ddr5_6400()).unwrap();
            let (channel, local) = stripe.split(start);
            prop_assert!(channel < channels);
            prop_assert_eq!(stripe.join(channel, local), start);
            let aligned = stripe.aligned(4096);
            prop_assert!((0..channels).all(|channel| stripe.share(channel, aligned, 64 * lines).0 == aligned / u64::from(channels)));
            prop_assert_eq!(aligned / u64::from(channels) % 4096, 0);
            let mut total = 0;
            for channel in 0..channels {
                let (first, share) = stripe.share(channel, start, bytes);
                let inside = (start..start + bytes).filter(|&a| stripe.split(a).0 == channel);
                let locals: Vec<u64> = inside.map(|a| stripe.split(a).1).collect();
                prop_assert_eq!(share, locals.len() as u64);
                if let Some(&least) = locals.first() {
                    prop_assert_eq!(first, least);
                }
                total += share;
            }
            prop_assert_eq!(total, bytes);
        }

        #[test]
        fn a_period_moves_rows_only(line in 0u64..1 << 20, times in 1u64..8, device in 0usize..9, kind in 0usize..6) {
            let device = &presets::all()[device];
            let map = AddressMap::new(MappingKind::ALL[kind], device).unwrap();
            if let Some((bytes, rows)) = map.period() {
                let address = line * map.access_bytes();
                let (a, b) = (map.decode(address), map.decode(address + times * bytes));
                prop_assert_eq!((a.bank, a.column), (b.bank, b.column));
                prop_assert_eq!(u64::from(a.row) + times * u64::from(rows), u64::from(b.row));
            }
        }
    }

    /// Bits high:low of the address.
    fn bits(address: u64, high: u32, low: u32) -> u64 {
        (address >> low) & ((1 << (high - low + 1)) - 1)
    }

    #[test]
    fn bit_positions_of_the_reference() {
        let address = 0x1_5A3C_97C0u64;
        let ddr4 = presets::ddr4_3200();
        let at = AddressMap::new(MappingKind::RoBaRaCoCh, &ddr4).unwrap().decode(address);
        assert_eq!(u64::from(at.row), bits(address, 32, 17));
        assert_eq!(u64::from(at.bank), bits(address, 14, 13) << 2 | bits(address, 16, 15));
        assert_eq!(u64::from(at.column), bits(address, 12, 6));

        let at = AddressMap::new(MappingKind::RoChRaBaCoBg, &ddr4).unwrap().decode(address);
        assert_eq!(u64::from(at.bank), bits(address, 7, 6) << 2 | bits(address, 16, 15));
        assert_eq!(u64::from(at.column), bits(address, 14, 8));

        let ddr5 = presets::ddr5_4800();
        let at = AddressMap::new(MappingKind::Mop4ClXor, &ddr5).unwrap().decode(address);
        let column = bits(address, 16, 13) << 2 | bits(address, 7, 6);
        assert_eq!(u64::from(at.column), column);
        assert_eq!(
            u64::from(at.bank),
            (bits(address, 10, 8) ^ (column & 7)) << 2 | (bits(address, 12, 11) ^ (column >> 3 & 3))
        );
        assert_eq!(u64::from(at.row), bits(address, 32, 17) ^ (column >> 5));

        let lpddr5 = presets::lpddr5_6400();
        let at = AddressMap::new(MappingKind::RoBaRaCoCh, &lpddr5).unwrap().decode(address & 0x3FFF_FFFF);
        assert_eq!(u64::from(at.bank), bits(address, 12, 11) << 2 | bits(address, 14, 13));
    }

    #[test]
    fn bad_addresses_and_stripes_are_refused() {
        let device = presets::lpddr5_6400();
        let map = AddressMap::new(MappingKind::RoBaRaCoCh, &device).unwrap();
        assert_eq!(map.check(16), Err(AddressError::Unaligned { address: 16, access_bytes: 32 }));
        assert_eq!(map.check(1 << 30), Err(AddressError::OutOfRange { address: 1 << 30, capacity: 1 << 30 }));
        assert_eq!(map.check((1 << 30) - 32), Ok(()));
        assert_eq!(ChannelStripe::new(0, 64, &device).unwrap_err().field, "channels");
        assert_eq!(ChannelStripe::new(2, 48, &device).unwrap_err().field, "stripe_bytes");
        assert_eq!(
            AddressMap::new(MappingKind::Mop4ClXor, &small(1, 1, 4, 4, 4, 2)).unwrap_err().field,
            "organisation.columns"
        );
        assert_eq!(MappingKind::by_name("MOP4CLXOR"), Some(MappingKind::Mop4ClXor));
        assert_eq!(MappingKind::by_name("nothing"), None);
    }
}
