//! The loop against a controller that lies.

use super::*;
use cptr_protocol::wire::{Frame, Status, Writer};
use zerocopy::{FromBytes, IntoBytes};

use cptr_trace::array::FloatArray;
use cptr_trace::{Meta, Router};

/// Three tokens, two layers, top-2 of four experts.
fn trace() -> Trace {
    let logits = [[3.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0], [1.0, 0.5, 0.9, 0.0]];
    let ids = [[0, 2], [3, 2], [0, 2]];
    let (logits, ids) = (logits.map(|row| [row, row]), ids.map(|row| [row, row]));
    Trace {
        meta: Meta {
            router: Router::SOFTMAX_SELECTED,
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
        let frame = Frame::open(&answer).unwrap();
        let (head, mut bytes) = (frame.head(), frame.body.rest().to_vec());
        (self.lie)(&mut bytes);
        let mut buffer = vec![0; bytes.len() + wire::OVERHEAD];
        let mut writer = Writer::new(&mut buffer);
        writer.put(&bytes[..]);
        Ok(writer.finish(head, Status::Done).to_vec())
    }
}

/// The loop with a lie in the answer to a request, counted from 0; two of four experts in fast memory.
fn with_strategy(text: &str, prefill: usize, request: usize, lie: &dyn Fn(&mut Vec<u8>)) -> Result<Report> {
    let trace = trace();
    let strategy = Strategy::parse(&format!("bounded:eps=0.1+{text}")).unwrap();
    let plan = Plan { prefill, ..Plan::new(Budget::Experts(2)) };
    host::with(Sizes { layers: 2, ..Sizes::default() }, |link| {
        let mut liar = Liar { link, request, lie };
        replay(&trace, &plan, &strategy, &mut liar)
    })
    .unwrap()
}

fn with_lie(request: usize, lie: &dyn Fn(&mut Vec<u8>)) -> Result<Report> {
    with_strategy("tracked", 0, request, lie)
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
    assert_eq!(keeps, "token 1, layer 5: the controller keeps experts 1 2, the strategy 2 3");
    let counts = with_lie(9, &|bytes| {
        let mut counters = wire::Counters::read_from_bytes(bytes).unwrap();
        counters.switches = 99.into();
        *bytes = counters.as_bytes().to_vec();
    });
    assert!(counts.unwrap_err().to_string().starts_with("the controller counts 99 switches, the strategy "));
}

#[test]
fn the_truth_about_placed_experts_passes() {
    // Nobody lies in a request that is never made.
    for precision in
        ["uniform:bits=1", "uniform:bits=5", "full", "mean:bits=1", "mean:bits=2", "mean:bits=3", "mean:bits=4"]
    {
        for (once, prefill, prompt) in [
            ("tokens=1", 0, 1),
            ("tokens=2", 0, 2),
            ("tokens=2:alpha=0", 0, 2),
            ("tokens=1:alpha=0.3", 0, 1),
            ("alpha=0.5", 2, 2),
        ] {
            for division in ["in-place", "gpu"] {
                let text = format!("once:{once}+{division}+{precision}");
                let report = with_strategy(&text, prefill, usize::MAX, &|_| ()).unwrap();
                // A request per token and layer, and one per layer to place its experts.
                let found = (report.tokens, report.prompt_tokens, report.requests);
                assert_eq!(found, (3 - prompt, prompt, 3 + 6 + 2), "{text}");
            }
        }
    }
    let error = with_strategy("once:tokens=3", 0, 0, &|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--controller: expected a prompt (once:tokens=N) shorter than the 3 tokens of the trace, found 3"
    );
}

#[test]
fn every_lie_about_placed_experts_is_noticed() {
    // Requests 3 and 4 are the prompt's token in two layers; then each layer is placed before its first token: 5 and 7
    // the placements, 6, 8, 9 and 10 the tokens.
    let error = |request, lie: &dyn Fn(&mut Vec<u8>)| {
        with_strategy("once:tokens=1+in-place+mean:bits=2", 0, request, lie).unwrap_err().to_string()
    };
    // The token chose experts 0 and 2.
    assert_eq!(
        error(5, &|bytes| bytes[2] = 3),
        "token 1, layer 5: the controller places experts 0 3, the strategy 0 2"
    );
    assert_eq!(
        error(7, &|bytes| bytes.swap(0, 2)),
        "token 1, layer 6: the controller places experts 2 0, the strategy 0 2"
    );
    assert_eq!(error(7, &|bytes| bytes.truncate(2)), "token 1, layer 6: the controller's answer is too short");
    assert_eq!(error(7, &|bytes| bytes.push(0)), "token 1, layer 6: the controller's answer is too long");
    assert_eq!(error(3, &|bytes| bytes.push(0)), "token 0, layer 5: the controller's answer is too long");
    // Of the token after it expert 3 is cold: expert, bits, stand-in, weight of two runs.
    for byte in 16..32 {
        let decides = error(6, &|bytes| bytes[byte] ^= 1);
        assert!(decides.starts_with("token 1, layer 5: the controller decides "), "byte {byte}: {decides}");
    }
    // Nothing moves while decoding.
    let keeps = error(8, &|bytes| {
        bytes[4] = 1;
        bytes.extend([3, 0, 2, 0]);
    });
    assert_eq!(keeps, "token 1, layer 6: the controller keeps experts 0 3, the strategy 0 2");
}

#[test]
fn refuses_what_the_firmware_does_not_run() {
    let refusal = |text: &str, plan: Plan<'_>| {
        run(&trace(), &plan, &Strategy::parse(text).unwrap(), Controller::Host, None).unwrap_err().to_string()
    };
    let plan = || Plan::new(Budget::Experts(2));
    for text in ["lru", "bounded+lru", "bounded+transition", "bounded+graded"] {
        assert!(refusal(text, plan()).contains("expected bounded with tracked or once"), "{text}");
    }
    assert!(refusal("bounded:pair=0.1", plan()).contains("expected bounds on tokens"));
    assert!(refusal("bounded", Plan { batch: 2, ..plan() }).contains("expected one sequence"));
    assert!(refusal("bounded", Plan { prefill: 1, ..plan() }).contains("expected no prompt"));
    assert!(refusal("bounded", Plan::new("8GB".parse().unwrap())).contains("expected experts per layer"));
}

#[test]
fn answers_that_are_no_answers() {
    let error = |request, lie: &dyn Fn(&mut Vec<u8>)| with_lie(request, lie).unwrap_err().to_string();
    assert_eq!(
        error(0, &|bytes| bytes[0] = 1),
        "--controller: expected at most 1 layers of 512 experts and 64 experts per token, found 2, 4 and 2"
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
