//! Host and device, and whatever comes between them.

use std::sync::atomic::{AtomicU32, Ordering};

use arbitrary::{Result, Unstructured};
use cptr_protocol::wire::{self, Command, Configure, Counters, Head, Identity, Status, Verdict, Writer, judge};
use cptr_protocol::{Coherent, Controller, Geometry, HostRegion, Layer, Mailbox, Rings, Uncounted, Untimed};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const EXPERTS: usize = 16;
const LAYERS: usize = 2;
const QUEUES: usize = 2;
const TOKENS: usize = 2;
const GEOMETRY: Geometry = Geometry {
    queues: QUEUES,
    slots: 4,
    request: wire::max_request_of(EXPERTS, TOKENS),
    answer: wire::max_answer_of(EXPERTS, TOKENS),
};

type Engine<'a> = Controller<'a, Untimed, Uncounted, EXPERTS, 1>;

fn engine<'a>(layers: &'a mut [Layer<EXPERTS, 1>; LAYERS], answers: &'a mut [u8], generation: u32) -> Engine<'a> {
    Controller::new(layers, answers, Untimed::default(), Uncounted).with_tokens(TOKENS).with_generation(generation)
}

fn frame(head: Head, body: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; wire::OVERHEAD + body.len()];
    let mut writer = Writer::new(&mut buffer);
    writer.put(body);
    writer.finish(head, Status::Done).to_vec()
}

/// A configuration that is accepted, some fields changed.
fn configuration(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let fine = Configure {
        layers: (LAYERS as u16).into(),
        experts: (EXPERTS as u16).into(),
        k: 4,
        keep: 1,
        score: input.int_in_range(0..=3)?,
        on_demand: 1,
        capacity: 6.into(),
        bits: 2,
        threshold: 4,
        eps: (1 << 28).into(),
        groups: 1,
        top_groups: 1,
        slow: (1 << 26).into(),
        reopened: (u32::MAX / 20).into(),
        fast: (1 << 29).into(),
        renormalise: 1,
        scale: (1 << 24).into(),
        ..Configure::new_zeroed()
    };
    let mut bytes = fine.as_bytes().to_vec();
    for _ in 0..input.int_in_range(0..=3)? {
        let at = input.choose_index(bytes.len())?;
        bytes[at] = input.arbitrary()?;
    }
    Ok(bytes)
}

/// A body for a command: right in its lengths as often as not.
fn body(command: Command, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match command {
        Command::Configure => bytes = configuration(input)?,
        Command::Token => {
            for _ in 0..input.int_in_range(1..=TOKENS)? {
                bytes.resize(bytes.len().next_multiple_of(4), 0);
                let token = wire::Token {
                    layer: input.int_in_range(0..=LAYERS as u16)?.into(),
                    experts: (EXPERTS as u16).into(),
                    wanted: *input.choose(&[0, 0, 4])?,
                    starts_sequence: input.int_in_range(0..=1)?,
                    loaded: input.int_in_range(0..=3)?,
                    failed: input.int_in_range(0..=2)?,
                    activation: 0.into(),
                    result: 0.into(),
                };
                bytes.extend(token.as_bytes());
                for _ in 0..EXPERTS {
                    bytes.extend((i32::from(input.arbitrary::<i16>()?) << 6).to_le_bytes());
                }
                for _ in 0..token.wanted + token.loaded + token.failed {
                    bytes.extend(input.int_in_range(0..=EXPERTS as u16)?.to_le_bytes());
                }
            }
        }
        Command::Counters | Command::Snapshot => {
            bytes.extend(input.int_in_range(0..=LAYERS as u16)?.to_le_bytes());
            if command == Command::Snapshot {
                bytes.extend(input.int_in_range(0..=2u16)?.to_le_bytes());
            }
        }
        Command::Identify | Command::Events => {}
        _ => {
            bytes = vec![0; input.int_in_range(0..=80)?];
            input.fill_buffer(&mut bytes)?;
        }
    }
    if input.ratio(1, 16)? {
        bytes.truncate(input.int_in_range(0..=bytes.len())?);
    }
    Ok(bytes)
}

/// Frames that must change nothing.
fn noise(last: &[u8], session: u32, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut bytes = last.to_vec();
    match input.int_in_range(0..=4)? {
        // The request again.
        0 => {}
        1 => bytes.truncate(input.int_in_range(0..=bytes.len().saturating_sub(1))?),
        // Up to three bits, which the checksum finds at this length.
        2 if !bytes.is_empty() => {
            let mut flipped = Vec::new();
            for _ in 0..input.int_in_range(1..=3)? {
                let bit = input.choose_index(bytes.len() * 8)?;
                if !flipped.contains(&bit) {
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    flipped.push(bit);
                }
            }
        }
        // Of another session, whole.
        3 => {
            let other = session.wrapping_add(input.int_in_range(1..=5)?);
            let kind = input.int_in_range(3..=13)?;
            bytes = frame(Head { kind, queue: 0, session: other, sequence: input.arbitrary()? }, &[0; 4]);
        }
        _ => {
            bytes = vec![0; input.int_in_range(0..=64)?];
            input.fill_buffer(&mut bytes)?;
        }
    }
    Ok(bytes)
}

pub(super) fn controller(data: &[u8]) {
    let _ = any_conversation(&mut Unstructured::new(data));
}

/// One device hears all, the other one only what was done: they answer alike.
fn any_conversation(input: &mut Unstructured<'_>) -> Result<()> {
    const COMMANDS: [Command; 13] = [
        Command::Token,
        Command::Token,
        Command::Token,
        Command::Token,
        Command::Events,
        Command::Counters,
        Command::Snapshot,
        Command::Restore,
        Command::Prefill,
        Command::Place,
        Command::Bias,
        Command::Configure,
        Command::Identify,
    ];
    let (mut layers, mut quiet_layers) = ([const { Layer::new() }; LAYERS], [const { Layer::new() }; LAYERS]);
    let place = QUEUES * wire::max_answer_of(EXPERTS, TOKENS);
    let (mut answers, mut quiet_answers) = (vec![0; place], vec![0; place]);
    let mut all = engine(&mut layers, &mut answers, 9);
    let mut quiet = engine(&mut quiet_layers, &mut quiet_answers, 9);
    let mut sequence = [0u32, 1];
    let session = 5;
    let mut last = Vec::new();
    let mut started = false;
    while !input.is_empty() {
        for _ in 0..input.int_in_range(0..=2)? {
            let bytes = noise(&last, session, input)?;
            all.handle(&bytes);
        }
        if input.arbitrary()? {
            all.idle();
        }
        let queue = if started { input.int_in_range(0..=1u8)? } else { 0 };
        let command = match sequence[0] {
            0 => Command::Reset,
            1 if !started => Command::Configure,
            _ => *input.choose(&COMMANDS)?,
        };
        let bytes = if command == Command::Reset { 9u32.to_le_bytes().to_vec() } else { body(command, input)? };
        let head = Head { kind: command as u8, queue, session, sequence: sequence[usize::from(queue)] };
        let request = frame(head, &bytes);
        // Jobs end when there is time: both have had it.
        while all.idle() {}
        while quiet.idle() {}
        let answer = all.handle(&request).to_vec();
        match judge(head, &answer) {
            Verdict::Done(body) if command == Command::Identify => {
                let identity = Identity::read_from_bytes(body.rest()).expect("an identity");
                assert_eq!((identity.session.get(), identity.generation.get()), (session, 9));
                continue;
            }
            Verdict::Done(_) => {
                let expected = quiet.handle(&request).to_vec();
                if command == Command::Counters {
                    let counters = |answer: &[u8]| {
                        let body = answer.get(wire::OVERHEAD - 4..answer.len() - 4).unwrap_or_default();
                        let counters = Counters::read_from_bytes(body).expect("counters");
                        // What was refused and repeated is what the other one has not heard.
                        Counters { refused: 0.into(), repeated: 0.into(), ..counters }
                    };
                    assert_eq!(counters(&answer), counters(&expected));
                } else {
                    assert_eq!(answer, expected, "{command:?}");
                }
                sequence[usize::from(queue)] += 1;
                started |= command == Command::Configure;
                last = request;
            }
            Verdict::Refused(status) => assert_ne!(status, Status::Frame, "{command:?}"),
            verdict => panic!("{command:?}: {verdict:?}"),
        }
    }
    Ok(())
}

pub(super) fn rings(data: &[u8]) {
    let _ = any_memory(&mut Unstructured::new(data));
}

/// A host that writes anywhere in shared memory, and one that comes after it: attached and served in eight turns.
fn any_memory(input: &mut Unstructured<'_>) -> Result<()> {
    let words: Vec<AtomicU32> = (0..GEOMETRY.words()).map(|_| AtomicU32::new(0)).collect();
    let mut request = vec![0; GEOMETRY.request.div_ceil(4)];
    let mut device = Rings::new(&words, GEOMETRY, Coherent, &mut request).expect("the memory holds the region");
    let mut layers = [const { Layer::new() }; LAYERS];
    let mut answers = vec![0; QUEUES * wire::max_answer_of(EXPERTS, TOKENS)];
    let generation = device.generation();
    let mut engine = engine(&mut layers, &mut answers, generation);
    let mut host = HostRegion::new(&words, Coherent);
    let mut work = |device: &mut Rings<'_, Coherent>| {
        for _ in 0..64 {
            if device.poll(|request, link| engine.handle_from(request, link)) != Ok(true) {
                return;
            }
        }
        panic!("more requests than there are slots");
    };
    while !input.is_empty() {
        match input.int_in_range(0..=5)? {
            0 => _ = host.attach(),
            1 => _ = host.send(input.int_in_range(0..=2)?, &frame_of(input)?),
            2 => _ = host.receive(input.int_in_range(0..=2)?, &mut [0; GEOMETRY.answer]),
            3 => {
                let word = &words[input.choose_index(words.len())?];
                word.store(input.arbitrary()?, Ordering::Relaxed);
            }
            4 => {
                // The lines with indices and states.
                let word = &words[input.choose_index(words.len() / 16)? * 16 + input.int_in_range(0..=15)?];
                word.fetch_xor(1 << input.int_in_range(0..=31)?, Ordering::Relaxed);
            }
            _ => work(&mut device),
        }
    }
    // Whoever comes now begins anew.
    let mut next = HostRegion::new(&words, Coherent);
    let head = Head { kind: Command::Identify as u8, queue: 0, session: 0, sequence: 1 };
    let request = frame(head, &[]);
    for turn in 0..8 {
        let _ = next.attach();
        work(&mut device);
        let _ = next.attach();
        let _ = next.send(0, &request);
        work(&mut device);
        let mut bytes = [0; GEOMETRY.answer];
        if let Ok(Some(length)) = next.receive(0, &mut bytes)
            && matches!(judge(head, &bytes[..length]), Verdict::Done(_))
        {
            return Ok(());
        }
        if turn > 2 {
            next = HostRegion::new(&words, Coherent);
        }
    }
    panic!("the next host is not served");
}

fn frame_of(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let head = Head { kind: input.int_in_range(0..=14)?, queue: 0, session: 1, sequence: input.int_in_range(0..=3)? };
    let mut body = vec![0; input.int_in_range(0..=40)?];
    input.fill_buffer(&mut body)?;
    Ok(frame(head, &body))
}
