use proptest::prelude::*;

use super::*;
use crate::plan::Misses;

fn qwen() -> &'static Model {
    Model::find("Qwen3-30B-A3B").unwrap()
}

fn at(model: &Model, sequences: u64, devices: u64) -> [Parallel; 2] {
    let question = Question { bits: vec![4.0], sequences, ..Question::new(model, Misses::typical()) };
    question.parallel(System::find("offload").unwrap(), &[devices]).unwrap().try_into().unwrap()
}

/// Bytes, hops and time of a token of Qwen3-30B-A3B over four devices, by hand.
#[test]
fn four_devices_by_hand() {
    let close = |found: f64, by_hand: f64| assert!((found / by_hand - 1.0).abs() < 0.01, "{found} {by_hand}");
    let [tensor, expert] = at(qwen(), 1, 4);
    // 48 layers, two sums of 2,048 values of two bytes each, to three others in one hop, and candidates of 8 bytes.
    assert_eq!((tensor.reduced_bytes, tensor.sent_bytes), (96 * 3 * 4096, 96 * 3 * 4096 + 24));
    assert_eq!((tensor.hops, tensor.imbalance), (97, 1.0));
    // A kernel of 1.3 us, 50 ns of a hop, 12,288 bytes at 450 GB/s.
    close(tensor.switch_us, 96.0 * (1.3 + 0.05 + 12_288.0 / 450e3) + 1.35);
    // A quarter of attention's 18.87 M weights at 8 bits and of eight experts of 4.72 M at 4, launches as before; a
    // quarter of the head.
    let us = |bytes: f64| bytes / (3352e9 * 0.85) * 1e6;
    let layer = us(18_874_368.0 / 4.0) + us(8.0 * 4_718_592.0 / 2.0 / 4.0) + 39.0;
    let head = us(311_164_928.0 / 4.0) + 3.9;
    close(tensor.token_us, 48.0 * layer + head + tensor.switch_us);
    // 28.99 billion weights of experts at 4 bits, the rest at 8, both in quarters, and 1 GB.
    close(tensor.gpu_gb, (28.99 / 2.0 + 48.0 * 0.018874 + 2.0 * 0.311165) / 4.0 + 1.0);

    // A device has none of eight experts with the probability of C(96, 8) / C(128, 8).
    let none = (0..8).map(|i| f64::from(96 - i) / f64::from(128 - i)).product::<f64>();
    close(expert.sent_bytes as f64, 96.0 * 3.0 * (1.0 - none) * 4096.0);
    assert_eq!((expert.hops, expert.reduced_bytes), (96, 0));
    let most = expert.imbalance * 8.0 / 4.0;
    let layer = us(18_874_368.0) + us(most * 4_718_592.0 / 2.0) + 39.0;
    close(expert.token_us, 48.0 * layer + us(311_164_928.0) + 3.9 + expert.switch_us);
    // One token has two experts a device on the mean and 3.4 or so on the most loaded.
    assert!((3.2..3.7).contains(&most), "{most}");
}

#[test]
fn one_device_is_the_plan() {
    let question = Question { bits: vec![4.0], context: 1000, ..Question::new(qwen(), Misses::typical()) };
    let system = System::find("offload").unwrap();
    let way = question.ways(system).unwrap().remove(0);
    for one in question.parallel(system, &[1]).unwrap() {
        assert!((one.token_us / way.token_us - 1.0).abs() < 1e-6 && (one.gpu_gb / way.gpu_gb - 1.0).abs() < 1e-6);
        assert_eq!((one.sent_bytes, one.hops, one.imbalance), (0, 0, 1.0));
    }
}

/// A batch makes the sums longer, and loads devices more evenly; a latent vector is on each device.
#[test]
fn a_batch_over_devices() {
    let [one, alone] = at(qwen(), 1, 8);
    let [many, apart] = at(qwen(), 256, 8);
    assert!(many.reduced_bytes > 60 * one.reduced_bytes && many.hops > one.hops);
    assert!(apart.imbalance < alone.imbalance && apart.imbalance >= 1.0);
    assert!(many.tokens_per_s > 20.0 * one.tokens_per_s);
    let with_context = |model: &Model| {
        let question = Question { bits: vec![4.0], context: 1 << 20, ..Question::new(model, Misses::typical()) };
        let without = Question { context: 0, ..question.clone() };
        let gb = |question: &Question<'_>| question.parallel(System::find("offload").unwrap(), &[4]).unwrap()[0].gpu_gb;
        gb(&question) - gb(&without)
    };
    let (gqa, latent) = (qwen(), Model::find("DeepSeek-V3").unwrap());
    let whole = |model: &Model| model.kv_bytes(1 << 20) * model.all_layers() as f64 / 1e9;
    assert!((with_context(gqa) / whole(gqa) - 0.25).abs() < 1e-6);
    assert!((with_context(latent) / whole(latent) - 1.0).abs() < 1e-6);
}

#[test]
fn what_cannot_be_split_is_refused() {
    let question = Question { bits: vec![4.0], ..Question::new(qwen(), Misses::typical()) };
    let refused = |system: &str, devices: u64| {
        question.parallel(System::find(system).unwrap(), &[devices]).unwrap_err().to_string()
    };
    assert!(refused("laptop", 2).contains("expected a system with a switch, found laptop"));
    assert!(refused("offload", 0).contains("expected 1 to 64, found 0"));
    assert!(refused("offload", 65).contains("found 65"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// The expectation is the mean of draws.
    #[test]
    fn the_most_loaded_device_is_the_mean_of_draws(
        experts in 8_usize..40, devices in 2_usize..6, share in 0.1f64..0.9, seed in 0_u64..1000,
    ) {
        let wanted = ((share * experts as f64) as usize).max(1);
        let mut random = fastrand::Rng::with_seed(seed);
        let draws = 4000;
        let mut sum = 0;
        for _ in 0..draws {
            let mut load = vec![0; devices];
            // Expert by expert in turn: as many on each device, or one more on some.
            random.choose_multiple(0..experts, wanted).into_iter().for_each(|expert| load[expert % devices] += 1);
            sum += load.into_iter().max().unwrap_or(0);
        }
        let (found, mean) = (expected_most(experts, devices, wanted), f64::from(sum) / f64::from(draws));
        prop_assert!((found - mean).abs() < 0.06, "{} {}", found, mean);
    }
}
