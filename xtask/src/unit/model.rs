//! The unit as `cptr-core` says it: a request goes to the script with the answer that the library gives.

use std::io::Write;

use cptr_core::num::Gate;
use cptr_core::router::{GroupRating, Groups};
use cptr_core::{Bounds, Eps, ExpertSet, KalmanConfig, Logit, PhaseConfig, Router, ScaledLevels, Step, Tracker};
use cptr_core::{TrackerConfig, select};

use super::Sizes;
use super::script::{Register, Script, Space, command, error};

/// Most choices of a token in a layer.
const MAX_K: usize = 64;
/// No victim.
const NOBODY: u32 = 0xffff;

/// What a router goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// A softmax; weights are shares of all.
    All,
    /// A softmax; weights are shares of the chosen, as they are below.
    Chosen,
    Sigmoid,
    /// A sigmoid and the layer's bias, in groups of 2^`size_log2` experts; all experts together where none is open.
    Scores {
        size_log2: u8,
        open: u8,
        two_best: bool,
    },
}

/// What is said before a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) experts: usize,
    pub(super) k: usize,
    pub(super) by: By,
    pub(super) keep_top: usize,
    pub(super) capacity: usize,
    pub(super) mass: u32,
    pub(super) error: Option<u32>,
}

impl Settings {
    fn router<'a>(&self, bias: &'a [Logit]) -> Router<'a> {
        let sigmoid = Router::sigmoid_grouped(self.k, 1, 1, &[]);
        match self.by {
            By::All => Router::softmax_all(self.k),
            By::Chosen => Router::softmax_selected(self.k),
            By::Sigmoid => sigmoid,
            By::Scores { open: 0, .. } => Router { bias: &bias[..self.experts], ..sigmoid },
            By::Scores { size_log2, open, two_best } => {
                let rating = if two_best { GroupRating::TwoBest } else { GroupRating::Best };
                let groups = Groups { count: self.experts >> size_log2, open: open.into(), rating };
                Router { bias: &bias[..self.experts], groups, ..sigmoid }
            }
        }
    }

    /// The router's register.
    pub(super) fn router_word(&self) -> u32 {
        let by = match self.by {
            By::All => 0,
            By::Chosen => 1,
            By::Sigmoid => 0x102,
            By::Scores { .. } => 0x502,
        };
        by | u32::from(self.error.is_some()) << 9
    }

    /// The register of its groups.
    pub(super) fn groups_word(&self) -> u32 {
        match self.by {
            By::Scores { size_log2, open, two_best } => {
                u32::from(size_log2) | u32::from(open) << 4 | u32::from(two_best) << 8
            }
            _ => 0,
        }
    }
}

/// A layer.
pub(super) struct Layer {
    pub(super) tracker: Tracker<Vec<ScaledLevels>>,
    pub(super) resident: ExpertSet<32>,
    /// Of its router; none are known after a reset.
    pub(super) bias: Vec<Logit>,
}

/// What came of a token.
pub(super) struct Token {
    pub(super) wanted: Vec<u16>,
    pub(super) chosen: Vec<u16>,
    /// Who made room, as far as somebody had to.
    pub(super) victims: Vec<u16>,
    /// What the tracker saw where the layer learns.
    pub(super) step: Option<Step>,
}

/// When a request is aborted, in cycles after its doorbell or after the last of its logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abort {
    AfterDoorbell(u32),
    AfterStream(u32),
}

/// The unit, and the script that it is driven by.
pub(super) struct Unit<W: Write> {
    pub(super) script: Script<W>,
    pub(super) sizes: Sizes,
    pub(super) layers: Vec<Layer>,
    pub(super) config: TrackerConfig,
    settings: Option<Settings>,
}

impl<W: Write> Unit<W> {
    /// After a reset; all layers begin.
    pub(super) fn new(script: Script<W>, sizes: Sizes) -> Self {
        let mut unit = Self { script, sizes, layers: Vec::new(), config: TrackerConfig::default(), settings: None };
        unit.restart();
        unit
    }

    /// Resets the unit and begins all layers.
    pub(super) fn restart(&mut self) {
        self.script.reset();
        self.settings = None;
        self.layers.clear();
        for layer in 0..self.sizes.layers {
            let levels = vec![ScaledLevels::ZERO; self.sizes.experts];
            self.layers.push(Layer { tracker: Tracker::over(levels), resident: ExpertSet::new(), bias: Vec::new() });
            self.script.write(Register::Doorbell, (layer as u32) << 16 | command::CLEAR_LAYER);
            self.script.idle();
        }
        self.tracker(TrackerConfig::default());
    }

    /// After a reset that nothing follows: no register is as it was.
    pub(super) fn forget(&mut self) {
        self.settings = None;
    }

    /// Begins a layer of the unit anew, and not that of the library.
    pub(super) fn clear_only(&mut self, layer: usize) {
        self.script.write(Register::Doorbell, (layer as u32) << 16 | command::CLEAR_LAYER);
        self.script.idle();
    }

    /// Begins a layer anew.
    pub(super) fn clear(&mut self, layer: usize) {
        self.script.write(Register::Doorbell, (layer as u32) << 16 | command::CLEAR_LAYER);
        self.script.idle();
        self.layers[layer].tracker.reset();
        self.layers[layer].resident.clear();
    }

    /// Constants of the tracker.
    pub(super) fn tracker(&mut self, config: TrackerConfig) {
        self.config = config;
        let PhaseConfig { proportional_shift, integral_shift, acquire_tokens, slack_16ths, threshold } = config.phase;
        self.script.write(Register::Process, config.kalman.process());
        self.script.write(Register::Reopened, config.kalman.reopened());
        self.script.write(Register::FastGain, config.fast_gain.to_bits());
        let phase = [proportional_shift, integral_shift, slack_16ths, threshold];
        self.script.write(Register::Phase, u32::from_le_bytes(phase));
        self.script.write(Register::Acquire, acquire_tokens.into());
    }

    /// Writes what differs from the last request.
    pub(super) fn settings(&mut self, settings: Settings) {
        if self.settings == Some(settings) {
            return;
        }
        self.settings = Some(settings);
        for (register, value) in [
            (Register::Experts, settings.experts as u32),
            (Register::Chosen, settings.k as u32),
            (Register::Router, settings.router_word()),
            (Register::Groups, settings.groups_word()),
            (Register::KeepTop, settings.keep_top as u32),
            (Register::Capacity, settings.capacity as u32),
            (Register::EpsMass, settings.mass),
            (Register::EpsError, settings.error.unwrap_or(0)),
        ] {
            self.script.write(register, value);
        }
    }

    /// Sets the bias of a layer's router, one entry for each expert that the unit may have.
    pub(super) fn bias(&mut self, layer: usize, bias: Vec<Logit>) {
        for (at, &bias) in bias.iter().enumerate() {
            self.script.set(Space::Biases, layer * self.sizes.experts + at, bias.to_bits().cast_unsigned());
        }
        self.layers[layer].bias = bias;
    }

    /// Sets which experts of a layer are resident.
    pub(super) fn residents(&mut self, layer: usize, resident: ExpertSet<32>) {
        self.layers[layer].resident = resident;
        let words = self.sizes.experts / 32;
        for (at, &word) in resident.words().iter().take(words).enumerate() {
            self.script.set(Space::Residents, layer * words + at, word);
        }
    }

    /// A token in a layer: rings, sends the logits, and expects what the library says.
    pub(super) fn request(
        &mut self,
        layer: usize,
        settings: Settings,
        logits: &[Logit],
        flags: u32,
    ) -> Result<Token, String> {
        self.settings(settings);
        self.script.step();
        self.script.write(Register::Doorbell, (layer as u32) << 16 | flags | command::SELECT);
        let words: Vec<u32> = logits.iter().map(|logit| logit.to_bits().cast_unsigned()).collect();
        self.script.stream(&words, true);
        let (answer, mut token) = self.answer(layer, settings, logits, flags & command::APPLY != 0)?;
        self.script.expect(&answer);
        self.script.idle();
        token.step = (flags & command::LEARN != 0).then(|| self.learn(layer, &token.wanted));
        Ok(token)
    }

    /// A request that everything is tried on after some of its logits: nothing of it is taken.
    pub(super) fn interrupted(
        &mut self,
        layer: usize,
        settings: Settings,
        logits: &[Logit],
        after: usize,
        flags: u32,
    ) -> Result<(), String> {
        self.settings(settings);
        self.script.step();
        let doorbell = (layer as u32) << 16 | flags | command::SELECT;
        self.script.write(Register::Doorbell, doorbell);
        let words: Vec<u32> = logits.iter().map(|logit| logit.to_bits().cast_unsigned()).collect();
        self.script.stream(&words[..after], false);
        self.script.read(Register::Status, 1);
        self.script.write(Register::Doorbell, doorbell);
        self.script.read(Register::Status, 3);
        self.script.errors(error::BUSY);
        for register in [Register::Experts, Register::Chosen, Register::EpsMass, Register::Capacity, Register::Data] {
            self.script.write(register, 3);
            self.script.errors(error::BUSY);
        }
        self.script.write(Register::Doorbell, command::CLEAR_LAYER);
        self.script.errors(error::BUSY);
        self.script.stream(&words[after..], true);
        let (answer, token) = self.answer(layer, settings, logits, flags & command::APPLY != 0)?;
        self.script.expect(&answer);
        self.script.idle();
        self.learn(layer, &token.wanted);
        Ok(())
    }

    /// A request that is aborted before it takes logits or once it has them: that is an error, and it goes on.
    pub(super) fn aborted(
        &mut self,
        layer: usize,
        settings: Settings,
        logits: &[Logit],
        when: Abort,
        flags: u32,
    ) -> Result<(), String> {
        self.settings(settings);
        self.script.step();
        self.script.write(Register::Doorbell, (layer as u32) << 16 | flags | command::SELECT);
        let words: Vec<u32> = logits.iter().map(|logit| logit.to_bits().cast_unsigned()).collect();
        if let Abort::AfterDoorbell(cycles) = when {
            self.script.cycles(cycles);
            self.script.write(Register::Doorbell, command::ABORT);
        }
        self.script.stream(&words, true);
        if let Abort::AfterStream(cycles) = when {
            self.script.cycles(cycles);
            self.script.write(Register::Doorbell, command::ABORT);
        }
        let (answer, token) = self.answer(layer, settings, logits, flags & command::APPLY != 0)?;
        self.script.expect(&answer);
        self.script.idle();
        self.script.errors(error::BUSY);
        self.learn(layer, &token.wanted);
        Ok(())
    }

    /// The library's answer.
    fn answer(
        &mut self,
        layer: usize,
        settings: Settings,
        logits: &[Logit],
        apply: bool,
    ) -> Result<(Vec<u32>, Token), String> {
        let Layer { tracker, resident, bias } = &mut self.layers[layer];
        let router = settings.router(bias);
        let wanted = router.top_k::<MAX_K>(logits).map_err(|error| error.to_string())?;
        let bounds = Bounds { mass: Eps::from_bits(settings.mass), error: settings.error.map(Eps::from_bits) };
        let selection = select::<MAX_K>(&router, bounds, settings.keep_top, logits, &wanted, resident)
            .map_err(|error| error.to_string())?;
        let mut weights = [Gate::ZERO; MAX_K];
        router.weights(logits, &selection.experts, &mut weights);
        let missing: Vec<bool> = selection.experts.iter().map(|&expert| !resident.contains(expert)).collect();
        let count = missing.iter().filter(|&&missing| missing).count();
        let mut words = vec![(layer as u32) << 16 | (count as u32) << 8 | selection.substituted as u32];
        for ((&expert, &wanted), &missing) in selection.experts.iter().zip(&wanted).zip(&missing) {
            let flags = u32::from(expert != wanted) << 16 | u32::from(missing) << 17;
            words.push(u32::from(expert) | flags | u32::from(wanted) << 18);
        }
        let mut victims = Vec::new();
        if apply {
            for (&expert, _) in selection.experts.iter().zip(&missing).filter(|(_, missing)| **missing) {
                let full = resident.insert(expert) && resident.len() > settings.capacity;
                let victim = if full { tracker.victim(resident, &selection.experts) } else { None };
                if full {
                    victims.push(victim.unwrap_or(u16::MAX));
                }
                words.push(victim.map_or(NOBODY, u32::from));
                victim.map(|victim| resident.remove(victim));
            }
        }
        words.extend(weights.iter().take(settings.k).map(|weight| weight.to_bits()));
        let (wanted, chosen) = (wanted.to_vec(), selection.experts.to_vec());
        Ok((words, Token { wanted, chosen, victims, step: None }))
    }

    /// The layer learns what a token wanted, which the unit has been told; its registers say what was seen.
    pub(super) fn learn(&mut self, layer: usize, wanted: &[u16]) -> Step {
        let step = self.layers[layer].tracker.update(&self.config, wanted);
        self.script.read(Register::Snr, step.snr.to_bits().cast_unsigned());
        self.script.read(Register::Angle, step.angle.to_bits().cast_unsigned());
        self.script.read(Register::Lock, step.lock as u32 | u32::from(step.lost_lock) << 8);
        step
    }

    /// A list of ids that a token wanted, as the layer learns it.
    pub(super) fn list(&mut self, layer: usize, wanted: &[u16], flags: u32) -> Option<Step> {
        self.script.step();
        self.script.write(Register::Doorbell, (layer as u32) << 16 | flags | command::LIST);
        let words: Vec<u32> = wanted.iter().map(|&id| id.into()).collect();
        // Nothing is a word of its own.
        self.script.stream(if words.is_empty() { &[1 << 16] } else { &words }, true);
        self.script.idle();
        (flags & command::LEARN != 0).then(|| self.learn(layer, wanted))
    }

    /// Compares everything that is kept of a layer.
    pub(super) fn compare(&mut self, layer: usize) {
        self.script.step();
        let (experts, words) = (self.sizes.experts, self.sizes.experts / 32);
        let Layer { tracker, resident, bias } = &self.layers[layer];
        for (at, bias) in bias.iter().enumerate() {
            self.script.window(Space::Biases, experts * layer + at, bias.to_bits().cast_unsigned());
        }
        for (at, word) in tracker.saved().into_iter().enumerate() {
            self.script.window(Space::State, 16 * layer + at, word);
        }
        for word in 0..2 * experts {
            let level = tracker.saved_level(word).unwrap_or(0);
            self.script.window(Space::Levels, 2 * experts * layer + word, level);
        }
        for (at, &word) in resident.words().iter().take(words).enumerate() {
            self.script.window(Space::Residents, layer * words + at, word);
        }
    }

    /// Puts a saved state back through the window.
    pub(super) fn restore(&mut self, layer: usize) {
        let experts = self.sizes.experts;
        let Layer { tracker, resident, .. } = &self.layers[layer];
        let (state, resident) = (tracker.saved(), *resident);
        for (at, word) in state.into_iter().enumerate() {
            self.script.set(Space::State, 16 * layer + at, word);
        }
        for word in 0..2 * experts {
            let level = self.layers[layer].tracker.saved_level(word).unwrap_or(0);
            self.script.set(Space::Levels, 2 * experts * layer + word, level);
        }
        self.residents(layer, resident);
    }
}

/// Constants of a tracker out of gains.
pub(super) fn gains(steady: u32, reopened: u32, fast: u32) -> TrackerConfig {
    use cptr_core::Gain;
    TrackerConfig {
        kalman: KalmanConfig::from_gains(Gain::from_bits(steady), Gain::from_bits(reopened)),
        fast_gain: Gain::from_bits(fast),
        ..TrackerConfig::default()
    }
}
