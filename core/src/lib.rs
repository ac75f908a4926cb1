//! Contextual Phase-Tracking Filter for the routers of mixture-of-experts models.
#![no_std]
#![forbid(unsafe_code)]
