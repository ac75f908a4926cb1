//! What every trace passes when it is read, whoever wrote it.

use crate::array::FloatArray;
use crate::counts::Counts;
use crate::error::{Error, Result, printable};
use crate::{MAX_EXPERTS, MAX_TOP_K, NO_EXPERT, Shape, Trace, evidence};

/// Puts rows into order, leaves out what was not recorded, makes foreign text printable, validates, and holds the trace
/// against its router.
///
/// # Errors
/// What [`Trace::validate`] and [`evidence::hold`] find.
pub(crate) fn pass(trace: &mut Trace) -> Result<()> {
    texts(trace.meta.domains.iter_mut().chain(&mut trace.notes).chain([&mut trace.meta.model, &mut trace.meta.source]));
    settle(trace);
    // What is checked here, the places below rely on.
    trace.validate()?;
    leave_out_unrecorded(trace)?;
    evidence::hold(trace)
}

fn texts<'a>(all: impl Iterator<Item = &'a mut String>) {
    for text in all {
        if let std::borrow::Cow::Owned(shown) = printable(text) {
            *text = shown;
        }
    }
}

/// Real experts before null experts before padding, weights along with them; otherwise in the order of the source.
fn settle(trace: &mut Trace) {
    let Shape { layers, experts, k, .. } = trace.shape;
    let kind = |&id: &u16| usize::from(usize::from(id) >= experts) + usize::from(id == NO_EXPERT);
    if k == 0 || trace.ids.chunks_exact(k).all(|row| row.is_sorted_by_key(kind)) {
        return;
    }
    let mut values = trace.weights.as_ref().filter(|weights| weights.len() == trace.ids.len()).map(|weights| {
        let mut values = vec![0.0; weights.len()];
        for (at, row) in values.chunks_exact_mut(k).enumerate() {
            weights.read_row(at / layers, at % layers, row);
        }
        (weights.shape(), values)
    });
    for (at, row) in trace.ids.chunks_exact_mut(k).enumerate() {
        let mut order: Vec<usize> = (0..k).collect();
        order.sort_by_key(|&i| kind(&row[i]));
        let before = row.to_vec();
        order.iter().zip(row.iter_mut()).for_each(|(&from, id)| *id = before[from]);
        if let Some((_, values)) = &mut values {
            let row = &mut values[at * k..(at + 1) * k];
            let before = row.to_vec();
            order.iter().zip(row.iter_mut()).for_each(|(&from, weight)| *weight = before[from]);
        }
    }
    if let Some((shape, values)) = values {
        trace.weights = Some(FloatArray::owned(shape, values));
    }
}

/// Tokens without any expert in any layer: a recorder that fills its array with -1 was not there.
fn leave_out_unrecorded(trace: &mut Trace) -> Result<()> {
    let row = trace.shape.layers * trace.shape.k;
    let recorded = |token: usize| trace.ids[token * row..(token + 1) * row].iter().any(|&id| id != NO_EXPERT);
    let kept: Vec<usize> = (0..trace.shape.tokens).filter(|&token| recorded(token)).collect();
    let missing = trace.shape.tokens - kept.len();
    if missing == 0 {
        return Ok(());
    }
    if kept.is_empty() {
        return Err(Error::new("expected recorded experts, found -1 for every token"));
    }
    *trace = trace.keep(&kept);
    trace.notes.push(format!("{missing} tokens were not recorded (-1): left out, and the sequence cut there."));
    Ok(())
}

/// Identical rows at the beginning, which servers leave there when they try out their memory. Whether there were any.
pub(crate) fn drop_start_up(trace: &mut Trace) -> bool {
    let Shape { tokens, layers, k, .. } = trace.shape;
    let row = |token: usize| &trace.ids[token * layers * k..(token + 1) * layers * k];
    // One or two choices a token repeat by themselves much longer than many do together.
    let long = if layers * k >= 8 { 32 } else { 256 };
    let mut start = 0;
    let mut seen = std::collections::HashSet::new();
    while start < tokens {
        let run = (start..tokens).take_while(|&token| row(token) == row(start)).count();
        // Warm-up goes on with smaller batches of the rows seen before.
        if run < long && !seen.contains(row(start)) {
            break;
        }
        seen.insert(row(start));
        start += run;
    }
    // A recording that is nothing else is what it is.
    if start == 0 || start == tokens {
        return false;
    }
    *trace = trace.keep(&(start..tokens).collect::<Vec<_>>());
    trace.notes.push(format!(
        "The first {start} of {tokens} tokens are identical start-up rows: left out (--keep-startup keeps them)."
    ));
    true
}

/// What counts must be to be summed: rows of one length, sums that floats hold exactly. Makes their text printable.
pub(crate) fn pass_counts(counts: &mut Counts) -> Result<()> {
    let names = counts.tables.iter_mut().flat_map(|table| [&mut table.name, &mut table.model]);
    let pairs = counts.pairs.iter_mut().map(|pair| &mut pair.name);
    texts(names.chain(pairs).chain(&mut counts.notes).chain([&mut counts.source]));
    for table in &counts.tables {
        let experts = table.counts.first().map_or(0, Vec::len);
        let expect = |ok: bool, what: String| {
            if ok { Ok(()) } else { Err(Error::new(what).at(format!("counts {}", table.name))) }
        };
        let most = MAX_EXPERTS;
        expect((1..=most).contains(&experts), format!("expected 1 to {most} experts, found {experts}"))?;
        let same = table.counts.iter().all(|row| row.len() == experts) && table.counts.len() == table.layer_ids.len();
        expect(same, format!("expected {experts} counts in each of {} layers", table.layer_ids.len()))?;
        expect(table.k <= MAX_TOP_K, format!("expected at most {MAX_TOP_K} experts per token, found {}", table.k))?;
        check_sum(table.counts.iter().flatten()).map_err(|error| error.at(format!("counts {}", table.name)))?;
    }
    for pair in &counts.pairs {
        check_sum(pair.counts.iter().flatten()).map_err(|error| error.at(format!("pairs {}", pair.name)))?;
    }
    Ok(())
}

fn check_sum<'a>(counts: impl Iterator<Item = &'a u64>) -> Result<()> {
    // Floats hold whole numbers up to here.
    let most = 1_u64 << 53;
    let sum = counts.fold(0_u64, |sum, &count| sum.saturating_add(count));
    if sum <= most {
        Ok(())
    } else {
        Err(Error::new(format!("expected counts that sum to at most {most}, found more")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(rows: &[[u16; 2]]) -> Trace {
        let shape = Shape { tokens: rows.len(), layers: 1, experts: 8, k: 2 };
        Trace::of_ids(shape, rows.concat())
    }

    #[test]
    fn gaps_cut_the_sequence() {
        let none = [NO_EXPERT; 2];
        let mut trace = trace(&[none, [1, 2], [2, 3], none, none, [NO_EXPERT, 4], [4, 5]]);
        pass(&mut trace).unwrap();
        assert_eq!(trace.ids, [1, 2, 2, 3, 4, NO_EXPERT, 4, 5]);
        assert_eq!((trace.sequence, trace.position), (vec![0, 0, 1, 1], vec![1, 2, 5, 6]));
        assert!(trace.notes[0].starts_with("3 tokens were not recorded (-1)"));
    }

    #[test]
    fn weights_follow_their_experts() {
        let mut trace = trace(&[[8, 1], [2, 9]]);
        trace.meta.router.null_experts = 2;
        trace.weights = Some(FloatArray::owned([2, 1, 2], vec![0.75, 0.25, 0.5, 0.125]));
        pass(&mut trace).unwrap();
        assert_eq!(trace.ids, [1, 8, 2, 9]);
        let mut row = [0.0; 2];
        trace.weights.unwrap().read_row(0, 0, &mut row);
        assert_eq!(row, [0.25, 0.75]);
    }

    #[test]
    fn start_up_rows_leave_with_their_echoes() {
        let rows = |n: usize, text: &[[u16; 2]]| [&vec![[6, 7]; n][..], text].concat();
        let text = [[1, 2], [6, 7], [3, 4]];
        let mut long = trace(&rows(300, &text));
        assert!(drop_start_up(&mut long));
        assert_eq!((long.shape.tokens, long.sequence[0], long.position[0]), (3, 0, 300));
        assert!(long.notes[0].starts_with("The first 300 of 303 tokens"));
        for mut short in [trace(&rows(200, &text)), trace(&rows(300, &[]))] {
            assert!(!drop_start_up(&mut short));
        }
        let mut echo = trace(&[&rows(300, &[[5, 6]; 260])[..], &rows(9, &text)].concat());
        assert!(drop_start_up(&mut echo));
        assert_eq!(echo.ids, text.concat());
    }
}
