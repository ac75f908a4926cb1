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

/// Refuses what is not above 0 and at most 1.
pub(crate) fn share(field: &'static str, value: f64) -> Result<(), ConfigError> {
    if value > 0.0 && value <= 1.0 {
        Ok(())
    } else {
        Err(ConfigError::new(field, value, "must be above 0 and at most 1"))
    }
}
