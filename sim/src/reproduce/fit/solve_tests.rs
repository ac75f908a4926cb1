use proptest::prelude::*;

use super::*;

/// Two slopes to choose from, an offset and a share of something that no figure depends on.
struct Line;

const SLOPES: [f64; 3] = [1.0, 2.5, 4.0];
const AT: [f64; 4] = [1.0, 2.0, 3.0, 5.0];

impl Theory for Line {
    fn predict(&self, listed: &[usize], ranged: &[f64], figures: &mut [f64]) {
        for (figure, x) in figures.iter_mut().zip(AT) {
            *figure = SLOPES[listed[0]] * x + ranged[0];
        }
    }
}

fn space() -> Space {
    // The last of each says nothing.
    Space { listed: vec![SLOPES.len(), 2], ranged: vec![(0.0, 20.0), (0.0, 1.0)] }
}

fn exact(value: f64, error: f64) -> Target {
    Target { low: value, high: value, error, fitted: true }
}

fn targets(slope: f64, offset: f64) -> Vec<Target> {
    AT.iter().map(|x| exact(slope * x + offset, 0.01)).collect()
}

proptest! {
    /// What was planted is found, and lies in its interval.
    #[test]
    fn planted_parameters_are_found(slope in 0usize..3, offset in 0.0f64..20.0) {
        let (space, targets) = (space(), targets(SLOPES[slope], offset));
        let fit = Fit::new(&Line, &space, &targets);
        prop_assert!(fit.best().chi2 < 1e-6, "{:?}", fit.best());
        prop_assert_eq!(fit.best().listed[0], slope);
        prop_assert!((fit.best().ranged[0] - offset).abs() < 1e-3, "{:?}", fit.best());
        let Interval::Ranged(low, high) = fit.interval(Which::Ranged(0)) else { panic!() };
        prop_assert!(low - 1e-2 <= offset && offset <= high + 1e-2, "{low} to {high}");
    }
}

/// An offset by itself: chi squared is a parabola to a per cent, so the interval is known by hand.
#[test]
fn an_interval_by_hand() {
    let space = Space { listed: vec![], ranged: vec![(0.0, 100.0)] };
    struct Same;
    impl Theory for Same {
        fn predict(&self, _: &[usize], ranged: &[f64], figures: &mut [f64]) {
            figures.fill(50.0 + ranged[0]);
        }
    }
    let targets = [exact(70.0, 0.01); 4];
    let fit = Fit::new(&Same, &space, &targets);
    let Interval::Ranged(low, high) = fit.interval(Which::Ranged(0)) else { panic!() };
    // 70 x 1 % / sqrt(4) x 1.96.
    let half = 70.0 * 0.01 / 2.0 * 1.96;
    assert!((low - (20.0 - half)).abs() < 0.02 && (high - (20.0 + half)).abs() < 0.02, "{low} to {high}");
    // Three others say as much of the fourth as of the offset.
    let left_out = fit.left_out(0);
    let half: f64 = 0.01 / 3.0_f64.sqrt() * 1.96;
    assert!((left_out.predicted - 70.0).abs() < 1e-3);
    assert!((left_out.high / 70.0 - half.exp()).abs() < 1e-4 && (left_out.low / 70.0 - (-half).exp()).abs() < 1e-4);
    let (low, high) = fit.reachable(0);
    assert!((low - 50.0).abs() < 1e-9 && (high - 150.0).abs() < 1e-9);
}

#[test]
fn what_has_no_influence_is_not_identified() {
    let (space, targets) = (space(), targets(2.5, 7.0));
    let fit = Fit::new(&Line, &space, &targets);
    assert!(fit.matters(Which::Listed(0)) && fit.matters(Which::Ranged(0)));
    assert!(!fit.matters(Which::Listed(1)) && !fit.matters(Which::Ranged(1)));
    assert_eq!(fit.interval(Which::Ranged(1)), Interval::Ranged(0.0, 1.0));
    let Interval::Listed(values) = fit.interval(Which::Listed(1)) else { panic!() };
    assert!(values.iter().all(|point| point.chi2 < 1e-6));
}

/// One figure cannot tell a slope from an offset: either is open until the other is known.
#[test]
fn what_trades_off_is_said() {
    let (space, targets) = (space(), targets(2.5, 7.0));
    let one = &targets[..1];
    let fit = Fit::new(&Line, &space, one);
    let pair = (Which::Listed(0), Which::Ranged(0));
    let trades = fit.trades(&[Which::Listed(0), Which::Ranged(0), Which::Ranged(1)]);
    assert_eq!(trades, [pair, (pair.1, pair.0)]);
    // With all four there is nothing left to trade.
    let fit = Fit::new(&Line, &space, &targets);
    assert!(fit.trades(&[Which::Listed(0), Which::Ranged(0)]).is_empty());
    // Left out, one figure is predicted by the three others, and by nothing where it is alone.
    let left_out = fit.left_out(3);
    assert!((left_out.predicted - targets[3].low).abs() < 1e-2 && left_out.high / left_out.low < 1.06, "{left_out:?}");
    let fit = Fit::new(&Line, &space, one);
    let (left_out, reachable) = (fit.left_out(0), fit.reachable(0));
    assert!((left_out.low - reachable.0).abs() < 1e-9 && (left_out.high - reachable.1).abs() < 1e-9);
}

#[test]
fn ranges_hold_inside_and_pull_outside() {
    let range = Target { low: 8.0, high: 9.0, error: 0.1, fitted: true };
    assert_eq!((range.off(8.0), range.off(8.5), range.off(9.0)), (0.0, 0.0, 0.0));
    assert!((range.off(9.9) - 1.1_f64.ln() / 0.1).abs() < 1e-12 && range.off(7.0) < 0.0);
    // What is not fitted does not pull.
    let free = Target { fitted: false, ..exact(3.0, 0.01) };
    let space = space();
    let fit_targets = [exact(2.5 + 7.0, 0.01), exact(5.0 + 7.0, 0.01), exact(7.5 + 7.0, 0.01), free];
    assert!(Fit::new(&Line, &space, &fit_targets).best().chi2 < 1e-6);
}

#[test]
fn equations_are_solved() {
    assert_eq!(solve(vec![vec![0.0, 2.0, 4.0], vec![1.0, 1.0, 3.0]]), [1.0, 2.0]);
    assert_eq!(solve(vec![vec![2.0, 0.0, 4.0], vec![0.0, 0.0, 0.0]]), [2.0, 0.0]);
}
