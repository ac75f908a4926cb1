//! Rules that many fields share.
use crate::dram::ConfigError;

/// Refuses what does not lie between `least` and `most`.
///
/// Upper ends are far beyond any machine; they keep times within 64 bits.
pub(crate) fn within(field: &'static str, value: f64, least: f64, most: f64) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::new(field, value, format!("must lie between {least} and {most}")))
    }
}

/// Refuses shares that nothing has: below a millionth, which keeps times within 64 bits, and above 1.
pub(crate) fn share(field: &'static str, value: f64) -> Result<(), ConfigError> {
    within(field, value, 1e-6, 1.0)
}
