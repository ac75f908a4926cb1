//! The loop against a controller that lies.

use super::*;
use cptr_protocol::wire::{Frame, Status, Writer};
use zerocopy::{FromBytes, IntoBytes};

use crate::policy;
use cptr_trace::array::FloatArray;
use cptr_trace::{Convention, Meta};

/// Three tokens, two layers, top-2 of four experts.
fn trace() -> Trace {
    let logits = [[3.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0], [1.0, 0.5, 0.9, 0.0]];
    let ids = [[0, 2], [3, 2], [0, 2]];
    let (logits, ids) = (logits.map(|row| [row, row]), ids.map(|row| [row, row]));
    Trace {
        meta: Meta {
            router: Convention::SoftmaxSelected,
            domains: vec![String::new()],
            layer_ids: vec![5, 6],
            ..Meta::default()
        },
        logits: Some(FloatArray::owned([3, 2, 4], logits.into_iter().flatten().flatten().collect())),
        ..Trace::of_ids(Shape { tokens: 3, layers: 2, experts: 4, k: 2 }, ids.into_iter().flatten().flatten().collect())
    }
}

/// Alters the answer to one request.
struct Liar<'a> {
    link: &'a mut dyn Link,
    request: usize,
    lie: &'a dyn Fn(&mut Vec<u8>),
}

impl Link for Liar<'_> {
    fn exchange(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        let answer = self.link.exchange(request)?;
        let (at, now) = (self.request, self.request.wrapping_sub(1));
        self.request = now;
        if at != 0 {
            return Ok(answer);
        }
        let Frame { header, body } = Frame::open(&answer).unwrap();
        let mut bytes = body.rest().to_vec();
        (self.lie)(&mut bytes);
        let mut buffer = vec![0; bytes.len() + wire::OVERHEAD];
        let mut writer = Writer::new(&mut buffer);
        writer.put(&bytes[..]);
        Ok(writer.finish(header.kind, header.sequence.get(), Status::Done).to_vec())
    }
}

/// The loop with a lie in the answer to a request, counted from 0; two of four experts in fast memory.
fn with_placement(placement: &str, bits: f64, request: usize, lie: &dyn Fn(&mut Vec<u8>)) -> Result<Report> {
    let trace = trace();
    let row = RowPlan {
        policy: policy::Choice::parse("cptr:eps=0.1").unwrap(),
        placement: placement::Choice::parse(placement).unwrap(),
    };
    let mut system = cptr_hw_model::System::find("offload").unwrap().clone();
    system.ndp_bits = bits;
    let plan = Plan { rows: vec![row.clone()], cache: 2, system, model: None };
    host::with(2, |link| {
        let mut liar = Liar { link, request, lie };
        Loop::new(&trace, &plan, &row, Prompt::new(&row, trace.shape)?, Session::new(&mut liar)).run()
    })
    .unwrap()
}

fn with_lie(request: usize, lie: &dyn Fn(&mut Vec<u8>)) -> Result<Report> {
    with_placement("tracked", 16.0, request, lie)
}

#[test]
fn the_truth_passes() {
    let report = with_lie(0, &|_| ()).unwrap();
    assert_eq!((report.tokens, report.layers, report.requests), (3, 2, 9));
}

#[test]
fn every_lie_is_noticed() {
    // Requests 3 to 8 are the tokens, two layers each.
    let decides = with_lie(6, &|bytes| bytes[20] ^= 1).unwrap_err().to_string();
    assert!(decides.starts_with("token 1, layer 6: the controller decides 3 ("), "{decides}");
    for byte in 16..32 {
        // The first of two runs and the second: expert, bits, stand-in, weight.
        assert!(with_lie(5, &|bytes| bytes[byte] ^= 1).is_err(), "byte {byte}");
    }
    let keeps = with_lie(5, &|bytes| {
        let (load, _) = wire::Load::mut_from_prefix(&mut bytes[32..]).unwrap();
        load.expert = 1.into();
    });
    let keeps = keeps.unwrap_err().to_string();
    assert_eq!(keeps, "token 1, layer 5: the controller keeps experts 1 2, the policy 2 3");
    let counts = with_lie(9, &|bytes| {
        let mut counters = wire::Counters::read_from_bytes(bytes).unwrap();
        counters.switches = 99.into();
        *bytes = counters.as_bytes().to_vec();
    });
    assert!(counts.unwrap_err().to_string().starts_with("the controller counts 99 switches, the policy "));
}

#[test]
fn the_truth_about_placed_experts_passes() {
    // Nobody lies in a request that is never made.
    for bits in [1.0, 2.0, 3.0, 4.0, 5.0, 16.0] {
        for placement in ["pinned:tokens=1", "pinned:tokens=2", "pinned:tokens=2:alpha=0", "pinned:tokens=1:alpha=0.3"]
        {
            let report = with_placement(placement, bits, usize::MAX, &|_| ()).unwrap();
            let prompt: usize = placement[14..15].parse().unwrap();
            // A request per token and layer, and one per layer to place its experts.
            assert_eq!((report.tokens, report.prompt_tokens, report.requests), (3 - prompt, prompt, 3 + 6 + 2));
        }
    }
    let error = with_placement("pinned:tokens=3", 2.0, 0, &|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--controller: expected a prompt (pinned:tokens=N) shorter than the 3 tokens of the trace, found 3"
    );
}

#[test]
fn every_lie_about_placed_experts_is_noticed() {
    // Requests 3 and 5 are the prompt's token in two layers, 4 and 6 the placements, 7 to 10 the tokens.
    let error = |request, lie: &dyn Fn(&mut Vec<u8>)| {
        with_placement("pinned:tokens=1", 2.0, request, lie).unwrap_err().to_string()
    };
    // The token chose experts 0 and 2.
    assert_eq!(error(4, &|bytes| bytes[2] = 3), "token 0, layer 5: the controller places experts 0 3, the policy 0 2");
    assert_eq!(
        error(6, &|bytes| bytes.swap(0, 2)),
        "token 0, layer 6: the controller places experts 2 0, the policy 0 2"
    );
    assert_eq!(error(6, &|bytes| bytes.truncate(2)), "token 0, layer 6: the controller's answer is too short");
    assert_eq!(error(6, &|bytes| bytes.push(0)), "token 0, layer 6: the controller's answer is too long");
    assert_eq!(error(3, &|bytes| bytes.push(0)), "token 0, layer 5: the controller's answer is too long");
    // Of the token after it expert 3 is cold: expert, bits, stand-in, weight of two runs.
    for byte in 16..32 {
        let decides = error(7, &|bytes| bytes[byte] ^= 1);
        assert!(decides.starts_with("token 1, layer 5: the controller decides "), "byte {byte}: {decides}");
    }
    // Nothing moves while decoding.
    let keeps = error(8, &|bytes| {
        bytes[4] = 1;
        bytes.extend([3, 0, 2, 0]);
    });
    assert_eq!(keeps, "token 1, layer 6: the controller keeps experts 0 3, the policy 0 2");
}

#[test]
fn answers_that_are_no_answers() {
    let error = |request, lie: &dyn Fn(&mut Vec<u8>)| with_lie(request, lie).unwrap_err().to_string();
    assert_eq!(
        error(0, &|bytes| bytes[0] = 1),
        "--controller: expected at most 1 layers of 512 experts and 16 experts per token, found 2, 4 and 2"
    );
    assert_eq!(error(0, &|bytes| bytes.push(0)), "the controller's answer has another length than its descriptor");
    let too_short = "token 0, layer 5: the controller's answer is too short";
    assert_eq!(error(3, &|bytes| bytes.truncate(10)), too_short);
    // More runs, more loads than there are.
    assert_eq!(error(3, &|bytes| bytes[2] = 9), too_short);
    assert_eq!(error(3, &|bytes| bytes[4] = 9), too_short);
    let wrong = "token 0, layer 5: the controller's answer is not of its request's layer, or too long";
    assert_eq!(error(3, &|bytes| bytes.push(0)), wrong);
    assert_eq!(error(3, &|bytes| bytes[0] = 1), wrong);
}
