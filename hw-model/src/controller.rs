//! What the controller's processor takes: cycles of a whole turn before dispatch (fetch the request, check it, choose,
//! publish the answer), cycles of `update` behind it.
//!
//! The cycles were counted on the RTL of open processors, over experts per layer (E) and experts per token (k);
//! `cargo xtask rtl` writes the table `data/controller_cycles.tsv`, docs/budgets.md says how. Between measured E this
//! is linear, beyond the largest it goes on as between the last two, below the smallest it stays; of k the nearest
//! measured one counts (of two equally near the larger). Turns were also counted for requests of 2, 4, 8 and 16 tokens
//! (`turn_16`); between them this is linear, and more tokens take several requests.
//!
//! A core `CORE+unit` is that core with the hardware unit on its bus (docs/unit.md): the unit answers a token itself,
//! one a request, and the firmware follows behind it. Whatever else there is to do the core does.
use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::dram::ConfigError;
use crate::validate::within;

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kernel {
    /// Which experts a softmax router wants.
    TopK,
    /// The same of a router with sigmoid scores in eight groups.
    TopKGrouped,
    /// Selection with softmax masses; the residents are those wanted last: the mean over tokens that mostly find their
    /// experts.
    Select,
    /// Selection with softmax masses where nothing that is wanted is resident: the most work.
    SelectCold,
    /// As `Select`, with sigmoid masses.
    SelectSigmoid,
    /// As `SelectCold`, with sigmoid masses.
    SelectSigmoidCold,
    /// Which resident to evict.
    Victim,
    /// The filter's step.
    Update,
    /// A whole turn by a ring in shared memory that has checks of its own, from the doorbell to the published answer;
    /// the request lists what a softmax router wants, and all of it is cold: the most work, and a job for each.
    Turn,
    /// The same where the controller takes the best logits itself.
    TurnTopK,
    /// As `Turn`, with sigmoid scores in eight groups; with a hardware unit, and a bias, where nobody stands in.
    TurnSigmoid,
    /// As `Turn`, over a link that has no checks of its own: request and answer have a checksum.
    TurnChecksum,
    /// As `Turn`, with a DMA engine that fetches the request: without the time that the engine takes.
    TurnDma,
    /// With a hardware unit, what the firmware does behind the answer of the unit, until the next request can come: the
    /// filter's step is in it.
    TurnBehind,
    /// The same behind `TurnSigmoid`.
    TurnBehindSigmoid,
}

/// What a core's name ends with if it has a hardware unit on its bus.
const UNIT: &str = "+unit";
/// Most tokens of a request.
pub const MOST_TOKENS: u32 = 16;

impl Kernel {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::TopK,
        Self::TopKGrouped,
        Self::Select,
        Self::SelectCold,
        Self::SelectSigmoid,
        Self::SelectSigmoidCold,
        Self::Victim,
        Self::Update,
        Self::Turn,
        Self::TurnTopK,
        Self::TurnSigmoid,
        Self::TurnChecksum,
        Self::TurnDma,
        Self::TurnBehind,
        Self::TurnBehindSigmoid,
    ];

    /// Its name in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TopK => "top_k",
            Self::TopKGrouped => "top_k_grouped",
            Self::Select => "select",
            Self::SelectCold => "select_cold",
            Self::SelectSigmoid => "select_sigmoid",
            Self::SelectSigmoidCold => "select_sigmoid_cold",
            Self::Victim => "victim",
            Self::Update => "update",
            Self::Turn => "turn",
            Self::TurnTopK => "turn_top_k",
            Self::TurnSigmoid => "turn_sigmoid",
            Self::TurnChecksum => "turn_checksum",
            Self::TurnDma => "turn_dma",
            Self::TurnBehind => "turn_behind",
            Self::TurnBehindSigmoid => "turn_behind_sigmoid",
        }
    }
}

/// Measured experts and cycles by rising experts, for each measured k.
type Curves = BTreeMap<u32, Vec<(u32, f64)>>;

/// Core, kernel, and tokens of a request.
type Of<'a> = (&'a str, Kernel, u32);

/// What was measured.
static TABLE: LazyLock<BTreeMap<Of<'_>, Curves>> = LazyLock::new(|| {
    let mut table = BTreeMap::<_, Curves>::new();
    for line in include_str!("../data/controller_cycles.tsv").lines().skip(1) {
        // A line that is not one is left out: a unit test reads them all.
        if let Some((of, experts, k, cycles)) = parse(line) {
            table.entry(of).or_default().entry(k).or_default().push((experts, cycles));
        }
    }
    table
});

/// What a line is of, then experts, k and cycles; `None` also for what is no kernel of the token path.
fn parse(line: &str) -> Option<(Of<'_>, u32, u32, f64)> {
    let mut fields = line.split('\t');
    let (core, name) = (fields.next()?, fields.next()?);
    let (name, tokens) =
        name.rsplit_once('_').and_then(|(name, tokens)| Some((name, tokens.parse().ok()?))).unwrap_or((name, 1));
    let kernel = Kernel::ALL.into_iter().find(|kernel| kernel.name() == name)?;
    let (experts, k) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(((core, kernel, tokens), experts, k, fields.nth(1)?.parse().ok()?))
}

/// Names of the measured cores.
pub fn cores() -> Vec<&'static str> {
    let mut cores: Vec<&str> = TABLE.keys().map(|&(core, ..)| core).collect();
    cores.dedup();
    cores
}

/// A processor at a clock.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Controller {
    /// One of [`cores`].
    pub core: String,
    /// Clock in MHz.
    pub clock_mhz: f64,
}

impl Controller {
    /// Refuses impossible values; fields are named below `controller`.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !cores().contains(&self.core.as_str()) {
            let rule = format!("must be one of {}", cores().join(", "));
            return Err(ConfigError::new("controller.core", &self.core, rule));
        }
        within("controller.clock_mhz", self.clock_mhz, 0.001, 1e5)
    }

    /// Cycles of one call for a layer of `experts` experts of which a token takes `k`; 0 where the core or the kernel
    /// was not measured.
    pub fn cycles(&self, kernel: Kernel, experts: u32, k: u32) -> f64 {
        self.request_cycles(kernel, experts, k, 1)
    }

    /// Whether a hardware unit answers.
    pub fn has_unit(&self) -> bool {
        self.core.ends_with(UNIT)
    }

    /// Cycles of the turns for so many tokens of a layer, at most [`MOST_TOKENS`] in each. A unit answers one a
    /// request, each when the firmware is done with the one before.
    pub fn turn_cycles(&self, turn: Kernel, experts: u32, k: u32, tokens: u32) -> f64 {
        if let Some(behind) = self.behind(turn).filter(|_| tokens > 0) {
            let [answer, behind] = [turn, behind].map(|kernel| self.cycles(kernel, experts, k));
            return answer + f64::from(tokens - 1) * (answer + behind);
        }
        let of = |tokens| self.request_cycles(turn, experts, k, tokens);
        let core = self.measured(turn);
        let measured = TABLE.range((core, turn, 1)..=(core, turn, MOST_TOKENS));
        let curve: Vec<(u32, f64)> = measured.map(|(&(.., tokens), _)| (tokens, of(tokens))).collect();
        let (full, rest) = (tokens / MOST_TOKENS, tokens % MOST_TOKENS);
        f64::from(full) * along(&curve, f64::from(MOST_TOKENS))
            + if rest > 0 { along(&curve, f64::from(rest)) } else { 0.0 }
    }

    /// As [`cycles`](Self::cycles), of a request with so many tokens; 0 where that was not measured.
    fn request_cycles(&self, kernel: Kernel, experts: u32, k: u32, tokens: u32) -> f64 {
        let curves = TABLE.get(&(self.measured(kernel), kernel, tokens));
        let nearest = curves.and_then(|curves| curves.iter().min_by_key(|&(&at, _)| (at.abs_diff(k), u32::MAX - at)));
        nearest.map_or(0.0, |(_, curve)| along(curve, f64::from(experts)))
    }

    /// The core on which a kernel was measured: with a unit what the unit does, the rest without.
    fn measured(&self, kernel: Kernel) -> &str {
        let alone = self.core.strip_suffix(UNIT).unwrap_or(&self.core);
        if TABLE.contains_key(&(self.core.as_str(), kernel, 1)) { &self.core } else { alone }
    }

    /// The `turn`s for so many tokens of which each takes `k` of `experts` experts, in picoseconds: on the critical
    /// path, between router and dispatch.
    pub fn turn_ps(&self, turn: Kernel, experts: u32, k: u32, tokens: u32) -> u64 {
        self.ps(self.turn_cycles(turn, experts, k, tokens))
    }

    /// What comes behind the last answer to so many tokens, in picoseconds: after dispatch, beside the experts' runs.
    pub fn update_ps(&self, turn: Kernel, experts: u32, k: u32, tokens: u32) -> u64 {
        self.ps(self.behind_cycles(turn, experts, k, tokens))
    }

    /// As [`update_ps`](Self::update_ps), in cycles, of a `turn`: the `update` of each token; with a unit what the
    /// firmware does behind the answer to the last one.
    pub fn behind_cycles(&self, turn: Kernel, experts: u32, k: u32, tokens: u32) -> f64 {
        match self.behind(turn) {
            Some(behind) if tokens > 0 => self.cycles(behind, experts, k),
            _ => f64::from(tokens) * self.cycles(Kernel::Update, experts, k),
        }
    }

    /// What the firmware does behind a turn of a hardware unit; `None` without one.
    fn behind(&self, turn: Kernel) -> Option<Kernel> {
        let behind = match turn {
            Kernel::Turn => Kernel::TurnBehind,
            Kernel::TurnSigmoid => Kernel::TurnBehindSigmoid,
            _ => return None,
        };
        self.has_unit().then_some(behind)
    }

    fn ps(&self, cycles: f64) -> u64 {
        (cycles * 1e6 / self.clock_mhz).round() as u64
    }
}

/// The value of a curve at `experts`, see the module.
fn along(curve: &[(u32, f64)], experts: f64) -> f64 {
    let [first, .., last] = curve else { return curve.first().map_or(0.0, |&(_, cycles)| cycles) };
    if experts <= f64::from(first.0) {
        return first.1;
    }
    let part = curve.windows(2).find(|part| experts <= f64::from(part[1].0)).unwrap_or(&curve[curve.len() - 2..]);
    let (from, to) = (part[0], part[1]);
    let slope = (to.1 - from.1) / f64::from(to.0 - from.0);
    // Beyond the last a falling cost would become negative.
    let slope = if experts > f64::from(last.0) { slope.max(0.0) } else { slope };
    from.1 + slope * (experts - f64::from(from.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fast() -> Controller {
        Controller { core: "ibex-fast".into(), clock_mhz: 1000.0 }
    }

    #[test]
    fn every_line_of_the_table_is_read_and_every_core_has_every_kernel() {
        let text = include_str!("../data/controller_cycles.tsv");
        let own = |line: &&str| !["two_a_turn", "exp_neg", "update_worst"].contains(&line.split('\t').nth(1).unwrap());
        assert!(text.lines().skip(1).filter(own).all(|line| parse(line).is_some()));
        for core in cores() {
            let unit = core.ends_with(UNIT);
            let behind = [Kernel::TurnBehind, Kernel::TurnBehindSigmoid];
            let by_unit = |kernel| behind.contains(&kernel) || [Kernel::Turn, Kernel::TurnSigmoid].contains(&kernel);
            let has = |kernel| if unit { by_unit(kernel) } else { !behind.contains(&kernel) };
            for kernel in Kernel::ALL {
                if unit || !has(kernel) {
                    assert_eq!(TABLE.contains_key(&(core, kernel, 1)), has(kernel), "{core} {kernel:?}");
                    continue;
                }
                let several = [Kernel::Turn, Kernel::TurnDma, Kernel::TurnSigmoid].contains(&kernel);
                for tokens in if several { &[1, 2, 4, 8, 16][..] } else { &[1] } {
                    let curves = &TABLE[&(core, kernel, *tokens)];
                    assert!(curves.values().all(|curve| curve.is_sorted_by(|a, b| a.0 < b.0)), "{core} {kernel:?}");
                    assert!(curves.values().flatten().all(|&(_, cycles)| cycles > 0.0), "{core} {kernel:?}");
                }
            }
        }
        assert!(cores().len() >= 3);
    }

    #[test]
    fn measured_points_are_exact_and_lines_go_between_them() {
        let at = |experts, k| fast().cycles(Kernel::Update, experts, k);
        let measured = |experts: u32, k: u32| {
            let start = format!("ibex-fast\tupdate\t{experts}\t{k}\t");
            let line = include_str!("../data/controller_cycles.tsv").lines().find(|line| line.starts_with(&start));
            line.unwrap().rsplit('\t').next().unwrap().parse::<f64>().unwrap()
        };
        for (experts, k) in [(8, 2), (32, 4), (64, 6), (64, 8), (128, 8), (256, 8), (512, 16)] {
            assert_eq!(at(experts, k), measured(experts, k));
        }
        assert_eq!(at(96, 8), (measured(64, 8) + measured(128, 8)) / 2.0);
        assert_eq!(at(768, 8), 2.0 * measured(512, 8) - measured(256, 8));
        // The smallest layer with k = 8 is 16; k = 7 is as near to 6 as to 8; k = 100 is nearest to 16.
        assert_eq!(at(4, 8), measured(16, 8));
        assert_eq!((at(64, 7), at(64, 100)), (measured(64, 8), measured(64, 16)));
    }

    #[test]
    fn tokens_of_a_request_share_what_is_done_once() {
        for core in cores().into_iter().filter(|core| !core.ends_with(UNIT)) {
            let controller = Controller { core: core.into(), clock_mhz: 1000.0 };
            for (turn, experts, k) in [(Kernel::Turn, 8, 2), (Kernel::TurnDma, 128, 8), (Kernel::TurnSigmoid, 256, 8)] {
                let of = |tokens| controller.turn_cycles(turn, experts, k, tokens);
                assert_eq!(of(1), controller.cycles(turn, experts, k));
                assert_eq!((of(0), of(3), of(12)), (0.0, (of(2) + of(4)) / 2.0, (of(8) + of(16)) / 2.0));
                assert_eq!(of(37), 2.0 * of(16) + of(5));
                assert!(of(1) < of(2) && of(8) < of(16), "{core} {turn:?}");
                // Sums over one request of other logits each: what is shared is more than how these differ.
                assert!(turn == Kernel::TurnSigmoid || of(16) < 16.0 * of(1), "{core} {turn:?}");
            }
            assert!(
                controller.turn_cycles(Kernel::TurnDma, 256, 8, 16) < controller.turn_cycles(Kernel::Turn, 256, 8, 16)
            );
        }
    }

    #[test]
    fn a_unit_answers_and_the_firmware_follows() {
        let with = Controller { core: "ibex-fast+unit".into(), clock_mhz: 1000.0 };
        for (experts, k) in [(8, 2), (128, 8), (256, 8)] {
            for (kernel, follows) in
                [(Kernel::Turn, Kernel::TurnBehind), (Kernel::TurnSigmoid, Kernel::TurnBehindSigmoid)]
            {
                let [turn, behind] = [kernel, follows].map(|kernel| with.cycles(kernel, experts, k));
                assert!(turn < fast().cycles(kernel, experts, k) / 10.0 && turn > f64::from(experts));
                assert_eq!(with.turn_cycles(kernel, experts, k, 1), turn);
                assert_eq!(with.turn_cycles(kernel, experts, k, 3), 3.0 * turn + 2.0 * behind);
                assert_eq!(with.behind_cycles(kernel, experts, k, 3), behind);
            }
        }
        assert!(with.has_unit() && !fast().has_unit() && with.validate().is_ok());
        assert_eq!((with.turn_cycles(Kernel::Turn, 8, 2, 0), with.update_ps(Kernel::Turn, 8, 2, 0)), (0.0, 0));
    }

    #[test]
    fn curves_of_few_points() {
        assert_eq!(along(&[], 3.0), 0.0);
        assert_eq!(along(&[(4, 7.0)], 3.0), 7.0);
        assert_eq!(along(&[(4, 7.0), (8, 5.0)], 6.0), 6.0);
        assert_eq!(along(&[(4, 7.0), (8, 5.0)], 80.0), 7.0);
    }

    #[test]
    fn refuses_unknown_cores_and_stopped_clocks() {
        assert_eq!(fast().validate(), Ok(()));
        let unknown = Controller { core: "8086".into(), ..fast() };
        let error = unknown.validate().unwrap_err();
        assert_eq!(error.field, "controller.core");
        assert!(error.to_string().contains("cv32e40p"), "{error}");
        assert_eq!(unknown.cycles(Kernel::Select, 8, 2), 0.0);
        assert_eq!(Controller { clock_mhz: 0.0, ..fast() }.validate().unwrap_err().field, "controller.clock_mhz");
        assert_eq!(fast().turn_ps(Kernel::Turn, 64, 8, 1), (fast().cycles(Kernel::Turn, 64, 8) * 1e3) as u64);
    }
}
