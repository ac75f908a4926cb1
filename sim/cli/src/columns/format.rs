//! Numbers as people read them, the same in the terminal and in the report.
//!
//! Not a number reads [`NONE`] everywhere.

/// Shown where there is no value.
pub(crate) const NONE: &str = "–";

/// A share as a percentage: two decimals below 10%, one from there on, `<0.01%` for what would read as zero and is not.
pub(crate) fn percent(share: f64) -> String {
    let value = share * 100.0;
    let size = value.abs();
    match () {
        () if !value.is_finite() => NONE.into(),
        () if value == 0.0 => "0.00%".into(),
        () if size < 0.01 => format!("{}<0.01%", if value < 0.0 { "-" } else { "" }),
        () if size < 9.995 => format!("{value:.2}%"),
        () => format!("{value:.1}%"),
    }
}

/// A time given in microseconds, with three significant digits in ns, µs, ms or s.
pub(crate) fn microseconds(time_us: f64) -> String {
    scaled(time_us, ["ns", "µs", "ms", "s"])
}

/// An energy given in microjoules, with three significant digits in nJ, µJ, mJ or J.
pub(crate) fn microjoules(energy_uj: f64) -> String {
    scaled(energy_uj, ["nJ", "µJ", "mJ", "J"])
}

/// A value in the unit that suits it; `units` go up by a thousand each, and `value` is in the second.
fn scaled(value: f64, units: [&str; 4]) -> String {
    if !value.is_finite() {
        return NONE.into();
    }
    if value == 0.0 {
        return format!("0 {}", units[1]);
    }
    let factors = [1e3, 1.0, 1e-3, 1e-6];
    // 999.5 would round to 1000, which is 1.00 of the next unit.
    let fits = factors.iter().position(|factor| (value * factor).abs() < 999.5).unwrap_or(factors.len() - 1);
    format!("{} {}", three_digits(value * factors[fits]), units[fits])
}

/// A ratio with two decimals, `0.83×`.
pub(crate) fn ratio(ratio: f64) -> String {
    if ratio.is_finite() { format!("{ratio:.2}×") } else { NONE.into() }
}

/// A relative change in per cent with its sign, `+0.41%`.
pub(crate) fn change(change: f64) -> String {
    if change.is_finite() { format!("{:+.2}%", change * 100.0) } else { NONE.into() }
}

/// A number with so many decimals.
pub(crate) fn decimals(value: f64, decimals: usize) -> String {
    if value.is_finite() { format!("{value:.decimals$}") } else { NONE.into() }
}

/// A number as short as three digits allow, with commas between thousands.
pub(crate) fn short(value: f64) -> String {
    if !value.is_finite() {
        return NONE.into();
    }
    if value.abs() >= 999.5 {
        let sign = if value < 0.0 { "-" } else { "" };
        return format!("{sign}{}", count(value.abs().round() as usize));
    }
    let text = three_digits(value);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    // What would read as zero and is not.
    if value != 0.0 && matches!(text, "0" | "-0") { format!("{value:.1e}") } else { text.into() }
}

/// A level with one decimal, `-4.1 dB`.
pub(crate) fn decibels(level_db: f64) -> String {
    if level_db.is_finite() { format!("{level_db:.1} dB") } else { NONE.into() }
}

/// A whole number with a comma between thousands.
pub(crate) fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn three_digits(value: f64) -> String {
    match value.abs() {
        size if size < 9.995 => format!("{value:.2}"),
        size if size < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percentages() {
        for (share, text) in [
            (0.0, "0.00%"),
            (-0.0, "0.00%"),
            (0.000_01, "<0.01%"),
            (-0.000_01, "-<0.01%"),
            (0.0001, "0.01%"),
            (0.034_56, "3.46%"),
            (0.099_949, "9.99%"),
            (0.099_96, "10.0%"),
            (0.5, "50.0%"),
            (1.0, "100.0%"),
            (-0.25, "-25.0%"),
            (f64::NAN, NONE),
            (f64::INFINITY, NONE),
        ] {
            assert_eq!(percent(share), text, "{share}");
        }
    }

    #[test]
    fn times_by_magnitude() {
        for (time_us, text) in [
            (0.0, "0 µs"),
            (0.000_5, "0.50 ns"),
            (0.25, "250 ns"),
            (0.9996, "1.00 µs"),
            (1.0, "1.00 µs"),
            (9.996, "10.0 µs"),
            (123.4, "123 µs"),
            (999.6, "1.00 ms"),
            (12_345.0, "12.3 ms"),
            (2.5e6, "2.50 s"),
            (7.2e9, "7200 s"),
            (-1500.0, "-1.50 ms"),
            (f64::NAN, NONE),
        ] {
            assert_eq!(microseconds(time_us), text, "{time_us}");
        }
    }

    #[test]
    fn energies_by_magnitude() {
        assert_eq!([0.0, 0.5, 1234.0, 2.5e6].map(microjoules), ["0 µJ", "500 nJ", "1.23 mJ", "2.50 J"]);
    }

    #[test]
    fn short_numbers() {
        let numbers = [0.0, 0.5, 2.0, 12.34, 250.0, 12_345.6, -1500.0, 0.0012, f64::NAN];
        assert_eq!(numbers.map(short), ["0", "0.5", "2", "12.3", "250", "12,346", "-1,500", "1.2e-3", NONE]);
    }

    #[test]
    fn ratios_counts_and_nothing() {
        assert_eq!(ratio(0.834), "0.83×");
        assert_eq!(ratio(f64::NAN), NONE);
        assert_eq!([-4.06, f64::NAN].map(decibels), ["-4.1 dB", NONE]);
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }

    proptest! {
        /// What is printed is within half a unit of the third digit of what was given.
        #[test]
        fn times_read_back(time_us in 1e-2f64..1e8) {
            let text = microseconds(time_us);
            let (number, unit) = text.split_once(' ').unwrap();
            let factor = match unit { "ns" => 1e-3, "µs" => 1.0, "ms" => 1e3, _ => 1e6 };
            let read = number.parse::<f64>().unwrap() * factor;
            prop_assert!((read / time_us - 1.0).abs() <= 0.0051, "{time_us} {text}");
        }
    }
}
