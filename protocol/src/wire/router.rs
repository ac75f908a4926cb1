//! The description of a router in [`Configure`], to and from the core's.

use cptr_core::num::Scale;
use cptr_core::router::{BiasPlace, Count, GroupRating, Groups, Score};
use cptr_core::{Eps, Gate, Router};
use zerocopy::little_endian::U32;

use super::{Configure, Status};
use crate::controller::flag;

impl Configure {
    /// Describes a router. Its bias comes by [`Bias`](super::Bias); factors on single experts are not part of the
    /// format: a controller answers with shares of the routing mass.
    pub fn set_router(&mut self, router: &Router<'_>) {
        let (score, jitter) = match router.score {
            Score::SoftmaxAll => (0, 0),
            Score::SoftmaxSelected => (1, 0),
            Score::Sigmoid => (2, 0),
            Score::SqrtSoftplus => (3, 0),
            Score::SparseMixer(jitter) => (4, jitter.to_bits()),
        };
        let (count, bound) = match router.count {
            Count::Fixed => (0, 0),
            Count::TopP(share) => (1, share.to_bits()),
            Count::Above(score) => (2, score.to_bits()),
        };
        let bias_place = match router.bias_place {
            _ if router.bias.is_empty() => 0,
            BiasPlace::Scores => 1,
            BiasPlace::ChoiceLogits => 2,
            BiasPlace::Logits => 3,
        };
        self.k = router.k as u8;
        (self.score, self.jitter) = (score, jitter.into());
        (self.count, self.bound) = (count, bound.into());
        self.bias_place = bias_place;
        (self.groups, self.top_groups) = (router.groups.count as u8, router.groups.open as u8);
        self.group_rating = u8::from(router.groups.rating == GroupRating::TwoBest);
        (self.renormalise, self.table) = (router.renormalise.into(), router.table.into());
        self.scale = router.scale.to_bits().into();
        self.null_experts = (router.null_experts as u16).into();
    }

    /// The router that it describes, without its bias.
    ///
    /// # Errors
    /// [`Status::Value`] where a field has no meaning.
    pub(crate) fn router(&self) -> Result<Router<'static>, Status> {
        let [jitter, bound, scale] = [self.jitter, self.bound, self.scale].map(U32::get);
        let [groups, open, null_experts] =
            [u16::from(self.groups), u16::from(self.top_groups), self.null_experts.get()].map(usize::from);
        let score = match self.score {
            0 => Score::SoftmaxAll,
            1 => Score::SoftmaxSelected,
            2 => Score::Sigmoid,
            3 => Score::SqrtSoftplus,
            4 => Score::SparseMixer(Eps::from_bits(jitter)),
            _ => return Err(Status::Value),
        };
        let bias_place = match self.bias_place {
            0 | 1 => BiasPlace::Scores,
            2 => BiasPlace::ChoiceLogits,
            3 => BiasPlace::Logits,
            _ => return Err(Status::Value),
        };
        let count = match self.count {
            0 => Count::Fixed,
            1 => Count::TopP(Eps::from_bits(bound)),
            2 => Count::Above(Gate::from_bits(bound)),
            _ => return Err(Status::Value),
        };
        let unused = jitter != 0 && self.score != 4 || bound != 0 && self.count == 0;
        if unused || scale == 0 || null_experts > usize::from(self.experts.get()) {
            return Err(Status::Value);
        }
        let rating = if flag(self.group_rating)? { GroupRating::TwoBest } else { GroupRating::Best };
        Ok(Router {
            k: self.k.into(),
            score,
            bias_place,
            groups: Groups { count: groups, open, rating },
            count,
            table: flag(self.table)?,
            renormalise: flag(self.renormalise)?,
            scale: Scale::from_bits(scale),
            null_experts,
            ..Router::softmax_all(0)
        })
    }
}

#[cfg(test)]
mod tests {
    use cptr_core::Logit;
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn what_is_described_is_the_router() {
        let bias = [Logit::ZERO; 16];
        let plain = Router::softmax_all(4);
        let routers = [
            plain,
            Router::softmax_selected(2),
            Router::sigmoid_grouped(8, 4, 2, &bias),
            Router { scale: Scale::from_num(2.5), null_experts: 3, ..plain },
            Router { score: Score::SqrtSoftplus, table: true, renormalise: true, ..plain },
            Router { score: Score::SparseMixer(Eps::from_num(0.01)), ..plain },
            Router { count: Count::TopP(Eps::from_num(0.75)), ..plain },
            Router { count: Count::Above(Gate::from_num(0.25)), bias: &bias, bias_place: BiasPlace::Logits, ..plain },
            Router { bias: &bias, bias_place: BiasPlace::ChoiceLogits, ..plain },
        ];
        for router in routers {
            let mut descriptor = Configure { experts: 16.into(), ..Configure::new_zeroed() };
            descriptor.set_router(&router);
            assert_eq!(descriptor.router(), Ok(Router { bias: &[], ..router }));
            assert_eq!(descriptor.bias_place == 0, router.bias.is_empty());
        }
    }
}
