//! Rules that many fields share.
use crate::dram::ConfigError;

/// Refuses what is not a finite number above 0.
pub(crate) fn positive(field: &'static str, value: f64) -> Result<(), ConfigError> {
    if value.is_finite() && value > 0.0 { Ok(()) } else { Err(ConfigError::new(field, value, "must be above 0")) }
}

/// Refuses what is not a finite number of at least `least`.
pub(crate) fn at_least(field: &'static str, value: f64, least: f64) -> Result<(), ConfigError> {
    if value.is_finite() && value >= least {
        Ok(())
    } else {
        Err(ConfigError::new(field, value, format!("must be at least {least}")))
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
