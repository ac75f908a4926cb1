//! Values of this crate's types: typical ones, those at the ends of their ranges, and any bits.
//!
//! | type | strategy |
//! |---|---|
//! | [`Logit`], [`Gate`], [`Level`], [`Gain`], [`Eps`] | [`logit`], [`gate`], [`level`], [`gain`], [`eps`] |
//! | [`Scale`], [`Angle`]; logits of a token | [`scale`], [`angle`]; [`logits`] |
//! | [`ExpertSet`], lists of experts | [`expert_set`], [`wanted`] |
//! | [`Router`], [`Bounds`] | [`any_router`], [`bounds`] |
//! | [`KalmanConfig`], [`PhaseConfig`], [`TrackerConfig`] | [`kalman`], [`phase`], [`tracker_config`] |
//! | [`Tracker`] | [`tracker`] |
//! | [`ChangeConfig`], [`ReplaceConfig`], [`LeadConfig`] | [`change`], [`replace`], [`lead`] |
//! | [`Demand`], [`Losses`] | [`demand`], [`losses`] |
//! | [`Layout`], bytes of a packed matrix | [`layout`], [`matrix`] |
//! | sizes and constants of [`recall`] | [`recall_shape`], [`recall_config`] |
//! | sizes and constants of [`cache`] | [`cache_shape`], [`cache_config`] |

use std::vec;
use std::vec::Vec;

use proptest::collection::vec as list;
use proptest::prelude::*;
use proptest::sample::select as one_of;

use crate::bits::Losses;
use crate::context::ChangeConfig;
use crate::expert::Layout;
use crate::lead::LeadConfig;
use crate::num::Scale;
use crate::placement::Demand;
use crate::replace::ReplaceConfig;
use crate::router::{BiasPlace, Count, GroupRating, Groups, Router, Score};
use crate::select::Bounds;
use crate::{
    Angle, Eps, ExpertSet, Gain, Gate, KalmanConfig, Level, Logit, PhaseConfig, ScaledLevels, Tracker, TrackerConfig,
};
use crate::{cache, recall};

/// Router scores: within 2.5, where most selections are decided, within 64, and any.
pub fn logit() -> impl Strategy<Value = Logit> + Clone {
    prop_oneof![
        3 => (-40i32..40).prop_map(|sixteenths| Logit::from_num(sixteenths) / 16),
        2 => (-64i32 << 16..64 << 16).prop_map(Logit::from_bits),
        1 => any::<i32>().prop_map(Logit::from_bits),
        1 => one_of(&[Logit::MIN, Logit::MAX, Logit::ZERO][..]),
    ]
}

/// Scores of one token for so many experts, all of one kind: with equal ones among them, of a wide range, or any.
pub fn logits(experts: usize) -> impl Strategy<Value = Vec<Logit>> + Clone {
    prop_oneof![
        list((-40i32..40).prop_map(|sixteenths| Logit::from_num(sixteenths) / 16), experts),
        list(any::<i32>().prop_map(Logit::from_bits), experts),
        list((-60i32..20).prop_map(|v| Logit::from_num(v) + Logit::from_bits(v * v)), experts),
    ]
}

/// Routing masses, 0 to 1.
pub fn gate() -> impl Strategy<Value = Gate> + Clone {
    prop_oneof![0u32..=1 << 31, 0u32..1 << 10, Just(1u32 << 31)].prop_map(Gate::from_bits)
}

/// Levels and shares, 0 to 1.
pub fn level() -> impl Strategy<Value = Level> + Clone {
    gate()
}

/// Gains, 0 and the largest among them.
pub fn gain() -> impl Strategy<Value = Gain> + Clone {
    prop_oneof![any::<u32>(), Just(0), Just(u32::MAX), Just(1 << 26), 0u32..1 << 20].prop_map(Gain::from_bits)
}

/// Bounds on a share of the routing mass, 0 and the largest among them.
pub fn eps() -> impl Strategy<Value = Eps> + Clone {
    prop_oneof![Just(0), Just(u32::MAX), any::<u32>(), 0u32..1 << 29].prop_map(Eps::from_bits)
}

/// Factors of mixing weights.
pub fn scale() -> impl Strategy<Value = Scale> + Clone {
    prop_oneof![0u32..1 << 26, any::<u32>()].prop_map(Scale::from_bits)
}

/// Angles of a token, 0 to a right angle.
pub fn angle() -> impl Strategy<Value = Angle> + Clone {
    (0i32..=Angle::FRAC_PI_2.to_bits()).prop_map(Angle::from_bits)
}

/// Any set of the first `experts` experts.
pub fn expert_set<const WORDS: usize>(experts: u16) -> impl Strategy<Value = ExpertSet<WORDS>> + Clone {
    list(any::<bool>(), usize::from(experts)).prop_map(|resident| {
        let mut set = ExpertSet::new();
        (0..).zip(resident).filter(|(_, resident)| *resident).for_each(|(expert, _)| _ = set.insert(expert));
        set
    })
}

/// `k` distinct experts of `experts`, in any order.
pub fn wanted(experts: u16, k: usize) -> impl Strategy<Value = Vec<u16>> + Clone {
    Just((0..experts).collect::<Vec<u16>>()).prop_shuffle().prop_map(move |mut ids| {
        ids.truncate(k);
        ids
    })
}

/// Bounds on mass alone, or on mass and error.
pub fn bounds() -> impl Strategy<Value = Bounds> + Clone {
    (eps(), proptest::option::of(eps())).prop_map(|(mass, error)| Bounds { mass, error })
}

/// Constants of the Kalman gain.
pub fn kalman() -> impl Strategy<Value = KalmanConfig> + Clone {
    (gain(), gain()).prop_map(|(steady, reopened)| KalmanConfig::from_gains(steady, reopened))
}

/// Constants of the phase loop: the usual ones, or any, valid or not.
pub fn phase() -> impl Strategy<Value = PhaseConfig> + Clone {
    let any = any::<(u8, u8, u16, u8, u8)>().prop_map(
        |(proportional_shift, integral_shift, acquire_tokens, slack_16ths, threshold)| PhaseConfig {
            proportional_shift,
            integral_shift,
            acquire_tokens,
            slack_16ths,
            threshold,
        },
    );
    prop_oneof![Just(PhaseConfig::default()), any]
}

/// Constants of a tracker.
pub fn tracker_config() -> impl Strategy<Value = TrackerConfig> + Clone {
    let any =
        (kalman(), gain(), phase()).prop_map(|(kalman, fast_gain, phase)| TrackerConfig { kalman, fast_gain, phase });
    prop_oneof![Just(TrackerConfig::default()), any]
}

/// A tracker after up to 100 tokens of `k` experts each, with the default's constants.
pub fn tracker<const E: usize>(k: usize) -> impl Strategy<Value = Tracker<[ScaledLevels; E]>> {
    list(wanted(E as u16, k), 0..100).prop_map(|tokens| {
        let mut tracker = Tracker::new();
        tokens.iter().for_each(|wanted| _ = tracker.update(&TrackerConfig::default(), wanted));
        tracker
    })
}

/// Constants of a detector of changes of context.
pub fn change() -> impl Strategy<Value = ChangeConfig> + Clone {
    let any = any::<(u8, u16, u16, u8, u8)>().prop_map(
        |(gain_shift, acquire_tokens, hold_tokens, slack_16ths, threshold)| ChangeConfig {
            gain_shift,
            acquire_tokens,
            hold_tokens,
            slack_16ths,
            threshold,
        },
    );
    prop_oneof![Just(ChangeConfig::default()), any]
}

/// Times by which experts change places.
pub fn replace() -> impl Strategy<Value = ReplaceConfig> + Clone {
    any::<(u32, u32, u32)>().prop_map(|(saving, copy, horizon_tokens)| ReplaceConfig { saving, copy, horizon_tokens })
}

/// Constants by which one of several ways leads, for losses of at most `step`.
pub fn lead(step: u32) -> impl Strategy<Value = LeadConfig> + Clone {
    (gain(), 0u32..1 << 20).prop_map(move |(excess, change)| LeadConfig::new(excess, change, step))
}

/// What prefill asked of the experts of a layer, of 1 to 8 experts.
pub fn demand() -> impl Strategy<Value = Vec<Demand>> + Clone {
    let weights = prop_oneof![Just(0u32), 0u32..1 << 20, any::<u32>()];
    list((weights.clone(), weights), 1..9).prop_map(|layer| {
        layer.into_iter().map(|(count, score)| Demand::new(count >> 10, u64::from(score) << 10)).collect()
    })
}

/// Losses at 1 to 4 bits of so many experts, falling.
pub fn losses(experts: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<Losses>> {
    let loss = prop_oneof![0..20i32, 0..=i32::MAX];
    list(proptest::array::uniform4(loss), experts).prop_map(|mut layer| {
        layer.iter_mut().for_each(|losses| losses.sort_unstable_by(|a, b| b.cmp(a)));
        layer
    })
}

/// Layouts of packed matrices of up to 4 rows.
pub fn layout() -> impl Strategy<Value = Layout> + Clone {
    let sizes = (1u8..=4, one_of(&[32u8, 64, 128][..]), any::<i8>(), 1u32..5, 1u32..700);
    sizes.prop_filter_map("sizes that the format has", |(bits, group, exponent, rows, columns)| {
        Layout::new(bits, group, exponent, rows, columns).ok()
    })
}

/// A packed matrix of any codes, scales and zero points.
pub fn matrix() -> impl Strategy<Value = Vec<u8>> {
    (layout(), any::<u64>()).prop_map(|(layout, seed)| {
        let mut state = seed | 1;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as u16
        };
        let mut bytes = vec![0; usize::try_from(layout.byte_len()).expect("of a few rows")];
        let codes: Vec<u8> =
            (0..layout.rows() * layout.columns()).map(|_| next() as u8 >> (8 - layout.bits())).collect();
        let written = layout.write(&mut bytes);
        let header = bytes.len() - layout.rows() * layout.row_bytes();
        let rows = bytes[header..].chunks_exact_mut(layout.row_bytes());
        let packed = rows.zip(codes.chunks(layout.columns())).map(|(row, codes)| {
            let scales: Vec<u16> = (0..layout.groups()).map(|_| next()).collect();
            let zeros: Vec<u8> = scales.iter().map(|&s| if layout.bits() == 1 { 64 } else { s as u8 ^ 0x55 }).collect();
            layout.pack_row(codes, &scales, &zeros, row)
        });
        written.and(packed.collect::<Result<(), _>>()).expect("all lengths are the layout's");
        bytes
    })
}

/// Sizes of a small recall.
pub fn recall_shape() -> impl Strategy<Value = recall::Shape> + Clone {
    let experts = one_of(&[4u16, 6, 31, 255, 256, 1000][..]);
    (1u16..5, experts, 1u16..5).prop_map(|(layers, experts, k)| recall::Shape { layers, experts, k: k.min(experts) })
}

/// Constants of recall: the usual ones, those for controllers, or any.
pub fn recall_config() -> impl Strategy<Value = recall::Config> + Clone {
    let any =
        any::<(u16, u32, u16, u16, u16, u16)>().prop_map(|(candidates, before, now, leading, thinning, farthest)| {
            recall::Config { candidates, before, now, leading, thinning, farthest }
        });
    prop_oneof![Just(recall::Config::default()), Just(recall::Config::small()), any]
}

/// Sizes of a small cache.
pub fn cache_shape() -> impl Strategy<Value = cache::Shape> + Clone {
    (recall_shape(), 1u16..1000, 1u16..5).prop_map(|(shape, slots, tokens)| cache::Shape {
        layers: shape.layers,
        experts: shape.experts,
        k: shape.k,
        slots: 1 + slots % shape.experts,
        tokens,
        remembered: 64,
    })
}

/// Constants of a cache.
pub fn cache_config() -> impl Strategy<Value = cache::Config> + Clone {
    let numbers = (0u16..4, any::<bool>(), 0u16..=12, any::<u32>(), 0u16..9, level());
    (bounds(), tracker_config(), recall_config(), numbers).prop_map(
        |(bounds, tracker, recall, (keep_top, joint, window, weight, fetches, sure))| cache::Config {
            bounds,
            keep_top,
            joint,
            tracker,
            recall,
            window,
            weight,
            fetches,
            sure,
        },
    )
}

/// A router with its arrays.
#[derive(Debug, Clone)]
pub struct Drawn {
    router: Router<'static>,
    bias: Vec<Logit>,
    expert_scale: Vec<Scale>,
}

impl Drawn {
    /// It, over its arrays.
    #[must_use]
    pub fn router(&self) -> Router<'_> {
        Router { bias: &self.bias, expert_scale: &self.expert_scale, ..self.router }
    }
}

/// Routers of every convention, for `experts` experts, a multiple of 4, of which `k` are chosen.
pub fn any_router(experts: usize, k: usize) -> impl Strategy<Value = Drawn> {
    let score = prop_oneof![
        Just(Score::SoftmaxAll),
        Just(Score::SoftmaxSelected),
        Just(Score::Sigmoid),
        Just(Score::SqrtSoftplus),
        (0u32..1 << 28).prop_map(|jitter| Score::SparseMixer(Eps::from_bits(jitter))),
    ];
    let place = prop_oneof![Just(BiasPlace::Scores), Just(BiasPlace::ChoiceLogits), Just(BiasPlace::Logits)];
    let rating = prop_oneof![Just(GroupRating::Best), Just(GroupRating::TwoBest)];
    let count = prop_oneof![
        3 => Just(Count::Fixed),
        1 => any::<u32>().prop_map(|share| Count::TopP(Eps::from_bits(share))),
        1 => (0u32..1 << 31).prop_map(|bound| Count::Above(Gate::from_bits(bound))),
    ];
    let bias = prop_oneof![
        Just(Vec::new()),
        list((-20_000i32..20_000).prop_map(Logit::from_bits), experts),
        list((-400_000i32..400_000).prop_map(Logit::from_bits), experts),
    ];
    let expert_scale = prop_oneof![Just(Vec::new()), list((0u32..1 << 26).prop_map(Scale::from_bits), experts)];
    let groups = (prop_oneof![Just(1), Just(2), Just(4)], 1usize..=4, rating);
    let flags = (any::<bool>(), prop::bool::weighted(0.1), 0usize..4, 0u32..1 << 28);
    (score, place, groups, count, bias, expert_scale, flags).prop_map(
        move |(score, bias_place, (groups, open, rating), count, bias, expert_scale, flags)| {
            let (renormalise, table, null_experts, scale) = flags;
            // As many as are needed for k.
            let open = open.min(groups).max((k * groups).div_ceil(experts));
            let groups = Groups { count: groups, open, rating };
            let scale = Scale::from_bits(scale);
            let base = Router::new(k, score, renormalise);
            let router = Router { bias_place, groups, count, table, null_experts, scale, ..base };
            Drawn { router, bias, expert_scale }
        },
    )
}
