//! What the time of one cold expert is made of, and why each part is there.
use serde::Serialize;

use crate::model::Model;
use crate::schedule::Trip;
use crate::system::{Cold, System};
use crate::work::ExpertRun;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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
            part("link", self.link_ps, "activations, descriptor and result, the round trip, the GPU's notice"),
            part("launch", self.launch_ps, "fetching and decoding the descriptor"),
        ]
    }

    /// Sum of the parts.
    pub const fn total_ps(&self) -> i64 {
        self.ideal_ps + self.rows_ps + self.refresh_ps + self.pipeline_ps + self.link_ps + self.launch_ps
    }
}

impl System {
    /// What the time of one expert near the data at [`Self::ndp_bits`] is made of; `None` without a near-data device.
    #[must_use]
    pub fn expert_breakdown(&self, model: &Model) -> Option<Breakdown> {
        let (ndp, expert) = (self.ndp()?, self.expert(model, ExpertRun::at(self.ndp_bits))?);
        let validated = "the device was validated when its file was read";
        let without_refresh = ndp.stream_without_refresh_ps(model, self.ndp_bits).expect(validated) as i64;
        let peak = ndp.memory.peak_gb_s().expect(validated);
        let ideal_ps = (model.expert_bytes(self.ndp_bits) / peak * 1e3).round() as i64;
        Some(Breakdown {
            ideal_ps,
            rows_ps: without_refresh - ideal_ps,
            refresh_ps: expert.stream_ps as i64 - without_refresh,
            pipeline_ps: expert.run_ps() as i64 - expert.stream_ps as i64,
            link_ps: self.link_part(model).ps,
            launch_ps: self.link().launch_ps() as i64,
        })
    }

    /// What one cold expert adds to a layer that has nothing else beside its dense part: in the device a [`Breakdown`],
    /// on the host its run with the way there and back, else a copy and a run on the GPU.
    #[must_use]
    pub fn cold_expert_parts(&self, model: &Model) -> Vec<Part> {
        match (self.cold, self.expert_breakdown(model)) {
            (Cold::Ndp, Some(breakdown)) => breakdown.parts().to_vec(),
            (Cold::Host, _) => self.host_parts(model),
            _ => self.copy_parts(model),
        }
    }

    fn host_parts(&self, model: &Model) -> Vec<Part> {
        let Some((host, expert)) = self.host().zip(self.expert(model, ExpertRun::at(self.ndp_bits))) else {
            return Vec::new();
        };
        let ideal_ps = (model.expert_bytes(self.ndp_bits) / host.memory_gb_s * 1e3).round() as i64;
        let part = |name, ps, why| Part { name, ps, why };
        vec![
            part("ideal", ideal_ps, "weight bytes over the peak bandwidth of the host's memory"),
            part("kernel", expert.run_ps() as i64 - ideal_ps, "kernels reach only a part of that bandwidth"),
            self.link_part(model),
            part("launch", self.link().launch_ps() as i64, "the host's processor learns of its work"),
        ]
    }

    fn link_part(&self, model: &Model) -> Part {
        let (trip, link) = (Trip::new(self.link(), model, 1, 1), self.link());
        let ps = (trip.there_ps + trip.result_ps + link.one_way_ps() + link.back_ps()) as i64;
        Part { name: "link", ps, why: "activations, descriptor and result, the round trip, the GPU's notice" }
    }

    fn copy_parts(&self, model: &Model) -> Vec<Part> {
        let (link, bytes) = (self.link(), model.expert_bytes(self.gpu_bits));
        let ideal_ps = (bytes / link.coded_gb_s() * 1e3).round() as i64;
        let launch_ps = (link.copy_launch_ns * 1e3).round() as i64;
        let run_ps = self.kernel_ps(model.expert_parameters(), ExpertRun::at(self.gpu_bits)).round() as i64;
        let part = |name, ps, why| Part { name, ps, why };
        vec![
            part("ideal", ideal_ps, "weight bytes over the bandwidth of the link after line coding"),
            part(
                "copy rate",
                self.copy_ps(bytes) as i64 - launch_ps - ideal_ps,
                match self.drive() {
                    Some(_) => "the drive's latency, and what its reads in flight reach of that bandwidth",
                    None => "copies reach only a part of that bandwidth",
                },
            ),
            part("copy start", launch_ps, "start of a batch of copies"),
            part("run", run_ps, "the expert on the GPU, bound by its memory"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::{CopiedRun, LayerWork};

    #[test]
    fn parts_add_up_to_what_one_cold_expert_costs() {
        for system in System::all() {
            let (near_data, copied) = ([ExpertRun::at(system.ndp_bits)], [CopiedRun::at(system.gpu_bits)]);
            let one = match system.cold {
                Cold::Ndp | Cold::Host => LayerWork { near_data: &near_data, ..LayerWork::default() },
                Cold::Gpu => LayerWork { copied: &copied, ..LayerWork::default() },
            };
            for model in Model::all() {
                let time = |work: &LayerWork<'_>| system.layer_time(model, work).total_ps;
                let sum: i64 = system.cold_expert_parts(model).iter().map(|part| part.ps).sum();
                assert_eq!(sum, (time(&one) - time(&LayerWork::default())) as i64, "{} {}", system.name, model.name);
            }
        }
    }
}
