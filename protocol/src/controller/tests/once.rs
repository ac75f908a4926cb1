//! Exactly once, loads and jobs that end, and states that are put back.

use super::*;
use crate::wire::{Event as JobEvent, PART};

/// A request of a queue.
fn request(head: Head, body: &[u8]) -> Vec<u8> {
    frame(head, body)
}

#[test]
fn a_request_that_comes_again_is_not_done_again() {
    let mut engine = engine(Untimed::default());
    ask(&mut engine, Command::Configure, configuration().as_bytes());
    let wanted = token(0, &[Logit::ZERO; 12], &[4, 5, 6, 7], true);
    let first = request(next(&engine, Command::Token as u8), &wanted);
    let answered = engine.handle(&first).to_vec();
    let before = known(&mut engine);
    for times in 1..5 {
        assert_eq!(engine.handle(&first), answered, "bit for bit");
        assert!(known(&mut engine) == before);
        assert_eq!(engine.repeated, times);
    }
    // Refusals in between do not touch what is kept, nor does asking who is there.
    answer(&mut engine, &[1, 2, 3]);
    ask(&mut engine, Command::Identify, &[]);
    ask(&mut engine, Command::Counters, &[9, 0]);
    assert_eq!(engine.handle(&first), answered);
    // Another request of the same number is none that came again.
    let other = token(0, &[Logit::ZERO; 12], &[4, 5, 6, 8], true);
    let head = Frame::open(&first).unwrap().head();
    assert_eq!(answer(&mut engine, &request(head, &other)).0, Status::Sequence);
    // The next one: what was before it is over.
    assert_eq!(ask(&mut engine, Command::Token, &wanted).0, Status::Done);
    assert_eq!(answer(&mut engine, &first).0, Status::Sequence);
}

#[test]
fn queues_count_for_themselves() {
    let mut engine = engine(Untimed::default());
    ask(&mut engine, Command::Configure, configuration().as_bytes());
    let wanted = token(0, &[Logit::ZERO; 12], &[4, 5, 6, 7], true);
    let of = |queue, sequence| request(Head { kind: Command::Token as u8, queue, session: 1, sequence }, &wanted);
    let [a, b] = [of(0, 2), of(1, 1)].map(|request| engine.handle(&request).to_vec());
    assert_eq!(engine.handle(&of(0, 2)), a);
    assert_eq!(engine.handle(&of(1, 1)), b);
    assert_eq!(engine.repeated, 2);
    assert_eq!(answer(&mut engine, &of(1, 3)).0, Status::Sequence);
    assert_eq!(answer(&mut engine, &of(2, 1)).0, Status::Value, "two queues");
    assert_eq!((answer(&mut engine, &of(1, 2)).0, answer(&mut engine, &of(0, 3)).0), (Status::Done, Status::Done));
}

#[test]
fn only_a_later_session_begins() {
    let layers = std::vec![Layer::new(); LAYERS].leak();
    let engine = Engine::new(layers, std::vec![0; wire::max_answer(E)].leak(), Untimed::default(), Uncounted);
    let mut engine = engine.with_generation(8);
    let reset_of = |session, sequence, generation: u32| {
        frame(Head { kind: Command::Reset as u8, queue: 0, session, sequence }, &generation.to_le_bytes())
    };
    let reset = |session, sequence| reset_of(session, sequence, 8);
    let configure = |session| {
        frame(Head { kind: Command::Configure as u8, queue: 0, session, sequence: 1 }, configuration().as_bytes())
    };
    assert_eq!(answer(&mut engine, &configure(0)).0, Status::Session, "none has begun");
    assert_eq!(answer(&mut engine, &reset(0, 0)).0, Status::Session, "0 is none");
    assert_eq!(answer(&mut engine, &reset(7, 1)).0, Status::Session, "a session begins with 0");
    assert_eq!(answer(&mut engine, &reset_of(7, 0, 7)).0, Status::Session, "sent before the device started anew");
    // After a start any number may follow.
    let last = u32::MAX - 1;
    assert_eq!(answer(&mut engine, &reset(last, 0)).0, Status::Done);
    assert_eq!(answer(&mut engine, &reset(last, 0)).0, Status::Done, "the same one come again");
    assert_eq!(answer(&mut engine, &configure(last)).0, Status::Done);
    assert_eq!(answer(&mut engine, &reset(last, 0)).0, Status::Session, "stale: it would forget the configuration");
    assert!(engine.configuration.is_some());
    assert_eq!(answer(&mut engine, &reset(last - 1, 0)).0, Status::Session);
    // Modulo 2^32, 0 left out.
    assert_eq!(answer(&mut engine, &reset(3, 0)).0, Status::Done);
    assert!(engine.configuration.is_none());
    for stale in [last, u32::MAX, 2, 1, 3u32.wrapping_add(1 << 31)] {
        assert_eq!(answer(&mut engine, &reset(stale, 0)).0, Status::Session, "{stale}");
        assert_eq!(answer(&mut engine, &configure(stale)).0, Status::Session, "{stale}");
    }
    assert_eq!(answer(&mut engine, &configure(3)).0, Status::Done);
}

/// The best four of twelve.
const WANTED: [u16; 4] = [4, 5, 6, 7];

#[test]
fn an_expert_is_resident_when_its_load_is_done() {
    let mut engine = engine(Untimed::default());
    ask(&mut engine, Command::Configure, Configure { eps: 0.into(), ..configuration() }.as_bytes());
    let mut asked = |loaded: &[u16], failed: &[u16]| {
        let body = after_loads(0, &[Logit::ZERO; 12], &WANTED, false, loaded, failed);
        let (status, bytes) = ask(&mut engine, Command::Token, &body);
        let found = (status == Status::Done).then(|| decision(&bytes));
        let near = |(_, runs, loads): (Decision, Vec<Run>, Vec<Load>)| {
            let near: Vec<u16> = runs.iter().filter(|run| run.bits > 0).map(|run| run.expert.get()).collect();
            (near, loads.iter().map(|load| load.expert.get()).collect::<Vec<_>>())
        };
        found.map(near).ok_or(status)
    };
    let all = WANTED.to_vec();
    assert_eq!(asked(&[], &[]), Ok((all.clone(), all.clone())));
    // Nobody has said that they are there: they run near the data, and are not asked for again.
    assert_eq!(asked(&[], &[]), Ok((all.clone(), Vec::new())));
    assert_eq!(asked(&[3], &[]), Err(Status::Id), "nobody asked for it");
    assert_eq!(asked(&[4, 5], &[4]), Err(Status::Id), "both at once");
    assert_eq!(asked(&[4, 5], &[6]), Ok((std::vec![6, 7], std::vec![6])), "what failed is asked for again");
    assert_eq!(asked(&[4], &[]), Err(Status::Id), "it is there");
    assert_eq!(asked(&[6, 7], &[]), Ok((Vec::new(), Vec::new())));
}

#[test]
fn who_makes_room_has_gone_at_once() {
    let mut engine = engine(Untimed::default());
    ask(&mut engine, Command::Configure, Configure { capacity: 4.into(), eps: 0.into(), ..configuration() }.as_bytes());
    let mut asked = |wanted: &[u16], loaded: &[u16]| {
        let body = after_loads(0, &[Logit::ZERO; 12], wanted, false, loaded, &[]);
        let (status, bytes) = ask(&mut engine, Command::Token, &body);
        assert_eq!(status, Status::Done);
        decision(&bytes)
    };
    asked(&WANTED, &[]);
    asked(&WANTED, &WANTED);
    let (_, runs, loads) = asked(&[4, 5, 6, 1], &[]);
    assert_eq!(runs.iter().map(|run| run.bits).collect::<Vec<_>>(), [0, 0, 0, 2]);
    assert_eq!(loads, [Load { expert: 1.into(), victim: 7.into() }]);
    // Its place is taken, though it is not there yet, and 7 is not there any more.
    let (_, runs, loads) = asked(&[4, 5, 7, 1], &[]);
    assert_eq!(runs.iter().map(|run| run.bits).collect::<Vec<_>>(), [0, 0, 2, 2]);
    assert_eq!(loads, [Load { expert: 7.into(), victim: 6.into() }]);
}

/// Units that end a job only when they are told to, and how.
#[derive(Default)]
struct Told {
    running: Vec<Job>,
    ends: Vec<Outcome>,
}

impl ExecutionUnits for Told {
    fn submit(&mut self, job: &Job) -> Result<(), Busy> {
        self.running.push(*job);
        Ok(())
    }
    fn poll(&mut self) -> Option<Job> {
        self.ended().map(|(job, _)| job)
    }
}

impl Units for Told {
    fn ended(&mut self) -> Option<(Job, Outcome)> {
        let outcome = if self.running.is_empty() { None } else { self.ends.pop() }?;
        Some((self.running.remove(0), outcome))
    }
}

fn events_of(bytes: &[u8]) -> Vec<(u8, u16, u16)> {
    let events = <[JobEvent]>::ref_from_bytes(bytes).unwrap();
    events.iter().map(|event| (event.kind, event.turn.get(), event.expert.get())).collect()
}

#[test]
fn what_becomes_of_jobs_is_told_once() {
    let mut engine = engine(Told::default());
    let configure = Configure { eps: 0.into(), on_demand: 1, events: 1, ..configuration() };
    ask(&mut engine, Command::Configure, configure.as_bytes());
    ask(&mut engine, Command::Token, &token(0, &[Logit::ZERO; 12], &WANTED, true));
    assert_eq!(ask(&mut engine, Command::Events, &[]), (Status::Done, Vec::new()));
    engine.units.ends = std::vec![Outcome::TimedOut, Outcome::Failed, Outcome::Done];
    engine.idle();
    assert_eq!(engine.events(), 3);
    // A lost answer is asked for again; nothing is lost with it.
    let asked = request(next(&engine, Command::Events as u8), &[]);
    let expected = std::vec![(1, 0, 4), (2, 0, 5), (3, 0, 6)];
    for _ in 0..3 {
        assert_eq!(events_of(&answer(&mut engine, &asked).1), expected);
    }
    assert!(ask(&mut engine, Command::Events, &[]).1.is_empty());
    let (_, bytes) = ask(&mut engine, Command::Counters, &[0, 0]);
    let counters = Counters::read_from_bytes(&bytes).unwrap();
    assert_eq!((counters.jobs.get(), counters.failed.get(), counters.outstanding.get()), (3, 2, 1));
    // A job of a session that is over is nobody's.
    ask(&mut engine, Command::Reset, &[0; 4]);
    ask(&mut engine, Command::Configure, configure.as_bytes());
    ask(&mut engine, Command::Token, &token(1, &[Logit::ZERO; 12], &WANTED, true));
    engine.units.ends = std::vec![Outcome::Done, Outcome::Failed];
    engine.idle();
    assert_eq!(events_of(&ask(&mut engine, Command::Events, &[]).1), [(1, 1, 4)]);
}

#[test]
fn tokens_wait_while_nobody_takes_events() {
    let mut engine = engine(Untimed::default());
    let configure = Configure { capacity: 1.into(), eps: 0.into(), events: 1, ..configuration() };
    ask(&mut engine, Command::Configure, configure.as_bytes());
    let request = token(0, &[Logit::ZERO; 12], &WANTED, true);
    let mut tokens = 0;
    while ask(&mut engine, Command::Token, &request).0 == Status::Done {
        tokens += 1;
        assert!(tokens < 100, "there is no more room for events at some time");
    }
    assert_eq!(tokens, EVENTS / 4);
    let before = state(&mut engine);
    assert_eq!(ask(&mut engine, Command::Token, &request).0, Status::Busy);
    assert!(state(&mut engine) == before);
    let mut told = Vec::new();
    loop {
        let events = events_of(&ask(&mut engine, Command::Events, &[]).1);
        if events.is_empty() {
            break;
        }
        told.extend(events);
    }
    told.sort_unstable();
    assert_eq!(told.len(), EVENTS);
    assert!((0..told.len()).all(|index| told[index].1 == index as u16 / 4), "each job of each token once");
    assert_eq!(ask(&mut engine, Command::Token, &request).0, Status::Done);
}

/// All parts of a layer's state.
fn snapshot(engine: &mut Engine<'_>, layer: u16) -> Vec<Vec<u8>> {
    let part = |part: u16| Part { layer: layer.into(), part: part.into() };
    let mut parts = Vec::new();
    loop {
        let (status, words) = ask(engine, Command::Snapshot, part(parts.len() as u16).as_bytes());
        if status != Status::Done {
            assert_eq!(status, Status::Value, "beyond the last");
            return parts;
        }
        parts.push(words);
    }
}

fn put_back(engine: &mut Engine<'_>, layer: u16, parts: &[Vec<u8>]) -> Vec<Status> {
    let put = |(part, words): (u16, &Vec<u8>)| {
        ask(engine, Command::Restore, &body(&Part { layer: layer.into(), part: part.into() }, words)).0
    };
    (0u16..).zip(parts).map(put).collect()
}

proptest! {
    #[test]
    fn a_state_put_back_decides_as_the_one_it_was_taken_of(
        tokens in prop::collection::vec((0u16..2, logits()), 2..60),
        at: prop::sample::Index,
        on_demand: bool,
    ) {
        let configure = Configure { on_demand: on_demand.into(), ..configuration() };
        let place = Place { layer: 0.into(), hot: 4.into(), alpha: 0.into(), split: [2, 3, 2, 1].map(U16::new) };
        let begin = |engine: &mut Engine<'_>| {
            ask(engine, Command::Configure, configure.as_bytes());
            for layer in (0u16..2).filter(|_| !on_demand) {
                ask(engine, Command::Prefill, &body(&Prefill { layer: layer.into(), count: 2, weighted: 0 }, &[1, 0, 7, 0]));
                ask(engine, Command::Place, Place { layer: layer.into(), ..place }.as_bytes());
            }
        };
        let (mut one, mut asked) = (engine(Untimed::default()), [Vec::new(), Vec::new()]);
        begin(&mut one);
        let at = at.index(tokens.len());
        let mut other = None;
        for (number, (layer, logits)) in tokens.iter().enumerate() {
            if number == at {
                if !on_demand {
                    // In the middle of a prompt, too.
                    ask(&mut one, Command::Prefill, &body(&Prefill { layer: 1.into(), count: 2, weighted: 0 }, &[1, 0, 7, 0]));
                }
                let states = [snapshot(&mut one, 0), snapshot(&mut one, 1)];
                let mut later = engine(Untimed::default());
                begin(&mut later);
                for (layer, parts) in (0..).zip(&states) {
                    let statuses = put_back(&mut later, layer, parts);
                    prop_assert!(statuses.iter().all(|&status| status == Status::Done), "{:?}", statuses);
                    prop_assert_eq!(&snapshot(&mut later, layer), parts);
                }
                for _ in 0..10 {
                    one.idle();
                }
                prop_assert_eq!(&one.layers, &later.layers);
                other = Some(later);
            }
            let layer_asked = &mut asked[usize::from(*layer)];
            let request = after_loads(*layer, logits, &[], false, layer_asked, &[]);
            let (status, bytes) = ask(&mut one, Command::Token, &request);
            prop_assert_eq!(status, Status::Done);
            let (_, runs, loads) = decision(&bytes);
            if let Some(other) = &mut other {
                let (_, others, other_loads) = decision(&ask(other, Command::Token, &request).1);
                prop_assert_eq!((&others, &other_loads), (&runs, &loads));
            }
            *layer_asked = loads.iter().map(|load| load.expert.get()).collect();
        }
        if let Some(mut other) = other {
            for layer in 0..2 {
                prop_assert_eq!(snapshot(&mut one, layer), snapshot(&mut other, layer));
            }
        }
    }

    #[test]
    fn a_state_that_was_changed_is_refused(word: prop::sample::Index, bit in 0u8..8) {
        let mut engine = engine(Untimed::default());
        ask(&mut engine, Command::Configure, configuration().as_bytes());
        for n in 0..40 {
            ask(&mut engine, Command::Token, &token(0, &[Logit::ZERO; 12], &[n % 12, 1 + n % 11, 0, 11].map(|id| if id == n % 12 { n % 12 } else { id }), true));
        }
        let mut parts = snapshot(&mut engine, 0);
        let all: usize = parts.iter().map(Vec::len).sum();
        let mut byte = word.index(all);
        for part in &mut parts {
            if byte < part.len() {
                part[byte] ^= 1 << bit;
                break;
            }
            byte -= part.len();
        }
        let statuses = put_back(&mut engine, 0, &parts);
        prop_assert!(statuses.iter().any(|&status| status != Status::Done), "{:?}", statuses);
    }
}

#[test]
fn parts_come_in_order_and_a_layer_waits_for_the_last() {
    const LARGE: usize = 64;
    type Large<'a> = Controller<'a, Untimed, Uncounted, LARGE, { cptr_core::words_for(LARGE) }>;
    let layers = std::vec![Layer::new(); 1].leak();
    let mut engine = Large::new(layers, std::vec![0; wire::max_answer(LARGE)].leak(), Untimed::default(), Uncounted);
    let mut sequence = 0;
    let mut ask = |kind: Command, body: &[u8]| {
        let head = Head { kind: kind as u8, queue: 0, session: 1, sequence };
        let answer = Frame::open(engine.handle(&frame(head, body)))
            .map(|frame| (frame.header.status, frame.body.rest().to_vec()));
        let (status, body) = answer.unwrap();
        sequence += u32::from(status == 0);
        (Status::from_number(status).unwrap(), body)
    };
    let configure = Configure { layers: 1.into(), experts: 64.into(), ..configuration() };
    ask(Command::Reset, &[0; 4]);
    ask(Command::Configure, configure.as_bytes());
    let wanted = token(0, &[Logit::ZERO; 64], &[40, 41, 42, 63], true);
    ask(Command::Token, &wanted);
    let part = |part: u16| Part { layer: 0.into(), part: part.into() };
    let parts: Vec<Vec<u8>> = (0..)
        .map(|number| ask(Command::Snapshot, part(number).as_bytes()))
        .take_while(|(status, _)| *status == Status::Done)
        .map(|(_, words)| words)
        .collect();
    // Head, three sets of two words, 16 of bits, tracker, levels, check word.
    assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 4 * (16 + 6 + 16 + 11 + 128 + 1));
    assert!(parts[..parts.len() - 1].iter().all(|words| words.len() == 4 * PART));
    let mut put = |number: u16, words: &[u8]| ask(Command::Restore, &body(&part(number), words)).0;
    assert_eq!(put(1, &parts[1]), Status::Order, "the first one first");
    assert_eq!(put(0, &parts[1]), Status::Version, "not the first one");
    assert_eq!(put(0, &parts[0][..40]), Status::Length, "cut off");
    assert_eq!(put(0, &parts[0]), Status::Done);
    assert_eq!(put(2, &parts[2]), Status::Order);
    assert_eq!(ask(Command::Token, &wanted).0, Status::Order, "not whole");
    assert_eq!(ask(Command::Snapshot, part(0).as_bytes()).0, Status::Order);
    let mut put = |number: u16, words: &[u8]| ask(Command::Restore, &body(&part(number), words)).0;
    assert_eq!(put(1, &parts[1]), Status::Done);
    let last = parts.len() as u16 - 1;
    assert_eq!(put(last, &[&parts[2][..], &[0; 4]].concat()), Status::Length, "too long");
    assert_eq!(put(last, &parts[2]), Status::Done);
    assert_eq!(ask(Command::Token, &wanted).0, Status::Done);
}
