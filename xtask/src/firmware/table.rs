//! Counts per kernel, core, E and k: what an image prints, and the committed table that it must agree with.

use std::fmt::Write;
use std::fs;

use super::command::{Done, folder};

/// Largest relative difference from the table, in percent.
const TOLERANCE: u64 = 2;
const HEAD: &str = "core\tkernel\texperts\tk\tinstructions\tcycles\n";

/// The mean of a call of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) core: String,
    pub(crate) kernel: String,
    pub(crate) experts: u64,
    pub(crate) k: u64,
    pub(crate) instructions: u64,
    /// 0 where an emulator counts none.
    pub(crate) cycles: u64,
}

/// The lines `count KERNEL EXPERTS K INSTRUCTIONS CYCLES` of an image.
pub(crate) fn parse(core: &str, text: &str) -> Done<Vec<Count>> {
    let counts = text.lines().filter_map(|line| line.strip_prefix("count "));
    counts.map(|line| count(core, line.split(' ')).ok_or_else(|| format!("not a count: {line}"))).collect()
}

fn count<'a>(core: &str, mut fields: impl Iterator<Item = &'a str>) -> Option<Count> {
    let kernel = fields.next()?.to_owned();
    let mut number = || fields.next()?.parse().ok();
    let (experts, k, instructions, cycles) = (number()?, number()?, number()?, number()?);
    Some(Count { core: core.to_owned(), kernel, experts, k, instructions, cycles })
}

/// Compares with the lines of `cores` in `firmware/FILE`, or writes it.
pub(crate) fn compare(file: &str, counts: &[Count], cores: &[&str], bless: bool) -> Done {
    let path = folder().join(file);
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    if bless {
        let mut text = HEAD.to_owned();
        for c in counts {
            let _ =
                writeln!(text, "{}\t{}\t{}\t{}\t{}\t{}", c.core, c.kernel, c.experts, c.k, c.instructions, c.cycles);
        }
        return fs::write(&path, text).map_err(failed);
    }
    let mut table = read(file)?;
    table.retain(|count| cores.contains(&&*count.core));
    differences(&table, counts)
        .map_err(|error| format!("{}: {error}; --bless takes the new counts over", path.display()))
}

fn read(file: &str) -> Done<Vec<Count>> {
    let path = folder().join(file);
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let lines = text.lines().skip(1);
    let table: Option<_> =
        lines.map(|line| line.split_once('\t').and_then(|(core, rest)| count(core, rest.split('\t')))).collect();
    table.ok_or_else(|| format!("{}: not a table of counts", path.display()))
}

fn differences(table: &[Count], counts: &[Count]) -> Done {
    let key = |c: &Count| (c.core.clone(), c.kernel.clone(), c.experts, c.k);
    if !table.iter().map(key).eq(counts.iter().map(key)) {
        return Err("other kernels, cores or sizes than those measured".into());
    }
    let near = |a: u64, b: u64| a.abs_diff(b) * 100 <= TOLERANCE * a.max(b);
    let off: Vec<String> = table
        .iter()
        .zip(counts)
        .filter(|(t, c)| !near(t.instructions, c.instructions) || !near(t.cycles, c.cycles))
        .map(|(t, c)| {
            let numbers = (t.instructions, t.cycles, c.instructions, c.cycles);
            format!(
                "{} {} E={} k={}: {}/{} now {}/{}",
                t.core, t.kernel, t.experts, t.k, numbers.0, numbers.1, numbers.2, numbers.3
            )
        })
        .collect();
    if off.is_empty() { Ok(()) } else { Err(format!("more than {TOLERANCE} % off: {}", off.join("; "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parsed_and_others_passed_over() {
        let counts = parse("rv32imc", "hello\ncount update 64 8 1500 1700\ngolden 1 2\n").unwrap();
        assert_eq!(counts.len(), 1);
        assert_eq!((counts[0].experts, counts[0].k, counts[0].instructions, counts[0].cycles), (64, 8, 1500, 1700));
        assert!(parse("rv32imc", "count update 64 8 many 1700").is_err());
    }

    #[test]
    fn two_percent_is_the_limit() {
        let table = parse("a", "count update 64 8 1000 0").unwrap();
        let with = |line: &str| differences(&table, &parse("a", line).unwrap());
        assert!(with("count update 64 8 1020 0").is_ok());
        assert!(with("count update 64 8 1021 0").unwrap_err().contains("1000/0 now 1021/0"));
        assert!(with("count update 64 8 979 0").is_err());
        assert!(with("count update 64 4 1000 0").is_err());
        assert!(with("").is_err());
    }

    /// Instructions of turns by the tokens of a request, as docs/budgets.md has them.
    #[test]
    fn turns_are_documented() {
        let document = include_str!("../../../docs/budgets.md");
        let table = read("instructions.tsv").unwrap();
        let of = |core: &str, kernel: &str, experts: u64, k: u64| {
            let found = table
                .iter()
                .find(|c| c.core == core && c.kernel == kernel && (c.experts, c.k) == (experts, k))
                .unwrap();
            let number = found.instructions.to_string();
            let groups: Vec<&str> =
                number.as_bytes().rchunks(3).rev().map(|b| std::str::from_utf8(b).unwrap()).collect();
            groups.join(",")
        };
        let mut lines = Vec::new();
        for (core, name) in [("cortex-m4f", "Cortex-M4F"), ("rv32imac", "RV32IMAC")] {
            for (experts, k) in [(8, 2), (32, 4), (64, 6), (64, 8), (128, 8), (256, 8)] {
                let kernels = ["turn", "turn_2", "turn_4", "turn_8", "turn_16", "turn_dma", "turn_dma_16"];
                let cells = kernels.map(|kernel| of(core, kernel, experts, k));
                lines.push(format!("| {name} | {experts} | {k} | {} |", cells.join(" | ")));
            }
        }
        let all = lines.join("\n");
        assert!(lines.iter().all(|line| document.lines().any(|other| other == line)), "docs/budgets.md has not\n{all}");
    }
}
