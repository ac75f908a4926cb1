//! What the time of one expert near the data is made of, and why each part is there.
use serde::Serialize;

/// Parts in picoseconds; they add up to the time from the GPU's first flit to the arrival of the result's last.
///
/// Signed, since a mapping whose rows collide can be *helped* by a refresh, which changes their phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Breakdown {
    /// Weights over peak bandwidth.
    pub ideal_ps: i64,
    /// What the stream takes beyond that without refresh.
    pub rows_ps: i64,
    /// What refresh adds to the stream.
    pub refresh_ps: i64,
    /// What the arrays add to the stream.
    pub pipeline_ps: i64,
    /// Activations and result over the link.
    pub link_ps: i64,
    /// From the arrival of the descriptor to the first read.
    pub launch_ps: i64,
}

/// One part of a [`Breakdown`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Name.
    pub name: &'static str,
    /// Time in picoseconds.
    pub ps: i64,
    /// Where it comes from.
    pub why: &'static str,
}

impl Breakdown {
    /// All parts, in the order of the fields.
    pub fn parts(&self) -> [Part; 6] {
        let part = |name, ps, why| Part { name, ps, why };
        [
            part("ideal", self.ideal_ps, "weight bytes over the peak bandwidth of all channels"),
            part(
                "rows",
                self.rows_ps,
                "first access, changes of row that activates do not hide, padding to whole stripes",
            ),
            part("refresh", self.refresh_ps, "all banks closed, refreshed and opened again, every tREFI"),
            part(
                "pipeline",
                self.pipeline_ps,
                "arrays at work on the last chunk; all that they are slower than the stream",
            ),
            part("link", self.link_ps, "flits of activations, descriptor and result, and the round trip"),
            part("launch", self.launch_ps, "fetching and decoding the descriptor"),
        ]
    }

    /// Sum of the parts.
    pub const fn total_ps(&self) -> i64 {
        self.ideal_ps + self.rows_ps + self.refresh_ps + self.pipeline_ps + self.link_ps + self.launch_ps
    }
}
