//! Statistics of count files: how uneven the experts are used, how alike the parts are, and how much one layer says
//! about another.

use std::collections::BTreeMap;

use serde::Serialize;

use super::view::{cosine, mean, share, top};
use crate::counts::{CountTable, Counts, PairTable};

/// What `cptr inspect` reports of a count file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CountsInspection {
    /// Where the data come from.
    pub source: String,
    /// One entry per table of single layers.
    pub tables: Vec<TableStatistics>,
    /// Similarity of the tables of each model.
    pub models: Vec<ModelCosines>,
    /// One entry per table of layer pairs.
    pub pairs: Vec<PairStatistics>,
    /// Remarks of the importer.
    pub notes: Vec<String>,
    /// What looks wrong.
    pub warnings: Vec<String>,
}

/// Load of the experts in one table; each figure is a mean over the layers that have counts, `None` where none has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableStatistics {
    /// Name of the part.
    pub name: String,
    /// Model name, empty if unknown.
    pub model: String,
    /// Number of layers.
    pub layers: usize,
    /// Experts per layer (the largest, should layers differ).
    pub experts: usize,
    /// Experts per token, 0 if unknown.
    pub k: usize,
    /// Choices counted, all layers together.
    pub choices: u64,
    /// Count of the busiest expert over the mean count of its layer, 1..=E.
    pub max_over_mean_load: Option<f64>,
    /// Exponential of the entropy of the counts: the number of equally used experts that would be as uneven, 1..=E.
    pub effective_experts: Option<f64>,
    /// Share of the choices on the busiest E / 4 experts, at least one.
    pub coverage_quarter: Option<f64>,
    /// Share of the choices on the busiest E / 2 experts, at least one.
    pub coverage_half: Option<f64>,
}

/// Cosines between tables with the same layers and number of experts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelCosines {
    /// Model name, empty if unknown.
    pub model: String,
    /// Names of the tables.
    pub names: Vec<String>,
    /// `[N][N]` cosine of the counts, mean over layers.
    pub cosine: Vec<Vec<Option<f64>>>,
}

/// How much the expert in one layer says about the one in a later layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairStatistics {
    /// Name of the part.
    pub name: String,
    /// The two layers.
    pub layers: (u32, u32),
    /// Pairs counted.
    pub choices: u64,
    /// Mutual information of the two experts, in bits; of the counts as they are, without a correction for small
    /// samples.
    pub mutual_information_bits: Option<f64>,
    /// Share of pairs in which the best guess of the later expert, knowing the earlier one, is right.
    pub predictability: Option<f64>,
    /// The same without knowing it: the share of the most frequent later expert.
    pub predictability_marginal: Option<f64>,
}

/// Statistics of a count file. Cost: linear in the counts, and in the square of the number of tables of a model.
pub fn inspect_counts(counts: &Counts) -> CountsInspection {
    CountsInspection {
        source: counts.source.clone(),
        tables: counts.tables.iter().map(table).collect(),
        models: models(&counts.tables),
        pairs: counts.pairs.iter().map(pair).collect(),
        notes: counts.notes.clone(),
        warnings: counts.tables.iter().flat_map(warnings).collect(),
    }
}

fn table(table: &CountTable) -> TableStatistics {
    let over_layers = |f: &dyn Fn(&[u64]) -> f64| {
        mean(table.counts.iter().filter(|layer| layer.iter().any(|&n| n > 0)).map(|layer| f(layer)))
    };
    let coverage = |layer: &[u64], n: usize| {
        let covered: u64 = top(layer, n.max(1)).into_iter().map(|e| layer[e]).sum();
        covered as f64 / layer.iter().sum::<u64>() as f64
    };
    TableStatistics {
        name: table.name.clone(),
        model: table.model.clone(),
        layers: table.counts.len(),
        experts: table.counts.iter().map(Vec::len).max().unwrap_or(0),
        k: table.k,
        choices: table.counts.iter().flatten().sum(),
        max_over_mean_load: over_layers(&|layer| {
            layer.iter().max().map_or(0, |&n| n) as f64 * layer.len() as f64 / layer.iter().sum::<u64>() as f64
        }),
        effective_experts: over_layers(&|layer| entropy(layer).exp()),
        coverage_quarter: over_layers(&|layer| coverage(layer, layer.len() / 4)),
        coverage_half: over_layers(&|layer| coverage(layer, layer.len() / 2)),
    }
}

/// Entropy of the shares, in nats.
fn entropy<'a>(counts: impl IntoIterator<Item = &'a u64> + Clone) -> f64 {
    let total = counts.clone().into_iter().sum::<u64>() as f64;
    counts
        .into_iter()
        .filter(|&&n| n > 0)
        .map(|&n| {
            let p = n as f64 / total;
            -p * p.ln()
        })
        .sum()
}

fn models(tables: &[CountTable]) -> Vec<ModelCosines> {
    let mut groups: BTreeMap<_, Vec<&CountTable>> = BTreeMap::new();
    for table in tables {
        let experts: Vec<usize> = table.counts.iter().map(Vec::len).collect();
        groups.entry((&table.model, &table.layer_ids, experts)).or_default().push(table);
    }
    let cosines =
        |a: &CountTable, b: &CountTable| mean(a.counts.iter().zip(&b.counts).filter_map(|(a, b)| cosine(a, b)));
    groups
        .into_iter()
        .filter(|(_, group)| group.len() > 1)
        .map(|((model, ..), group)| ModelCosines {
            model: model.clone(),
            names: group.iter().map(|table| table.name.clone()).collect(),
            cosine: group.iter().map(|a| group.iter().map(|b| cosines(a, b)).collect()).collect(),
        })
        .collect()
}

fn pair(pair: &PairTable) -> PairStatistics {
    let later = pair.counts.iter().map(Vec::len).max().unwrap_or(0);
    let mut column = vec![0_u64; later];
    for row in &pair.counts {
        column.iter_mut().zip(row).for_each(|(sum, n)| *sum += n);
    }
    let row: Vec<u64> = pair.counts.iter().map(|row| row.iter().sum()).collect();
    let choices = row.iter().sum();
    let joint: Vec<u64> = pair.counts.iter().flatten().copied().collect();
    let best = |counts: &[u64]| counts.iter().copied().max().unwrap_or(0);
    let information = (entropy(&row) + entropy(&column) - entropy(&joint)) / std::f64::consts::LN_2;
    PairStatistics {
        name: pair.name.clone(),
        layers: pair.layers,
        choices,
        mutual_information_bits: (choices > 0).then_some(information.max(0.0)),
        predictability: share(pair.counts.iter().map(|row| best(row)).sum(), choices),
        predictability_marginal: share(best(&column), choices),
    }
}

/// Every token chooses k experts in every layer, so the sums of the layers must agree.
fn warnings(table: &CountTable) -> Vec<String> {
    let sums: Vec<u64> = table.counts.iter().map(|layer| layer.iter().sum()).collect();
    let extreme = |pick: fn(&u64, &u64) -> std::cmp::Ordering| {
        sums.iter().zip(&table.layer_ids).max_by(|a, b| pick(a.0, b.0)).map(|(&sum, &layer)| (sum, layer))
    };
    let mut found = Vec::new();
    if let (Some((most, most_layer)), Some((least, least_layer))) = (extreme(Ord::cmp), extreme(|a, b| b.cmp(a)))
        && most != least
    {
        found.push(format!(
            "{}: expected the same number of choices in every layer, found {least} in layer {least_layer} and {most} in layer {most_layer}",
            table.name
        ));
    }
    if table.k > 0
        && let Some((sum, layer)) = sums.iter().zip(&table.layer_ids).find(|(sum, _)| **sum % table.k as u64 != 0)
    {
        found.push(format!(
            "{}: expected a multiple of k = {} choices, found {sum} in layer {layer}",
            table.name, table.k
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, k: usize, counts: &[&[u64]]) -> CountTable {
        CountTable {
            name: name.into(),
            model: "m".into(),
            k,
            layer_ids: (0..counts.len() as u32).collect(),
            counts: counts.iter().map(|layer| layer.to_vec()).collect(),
        }
    }

    fn of(tables: Vec<CountTable>, pairs: Vec<PairTable>) -> CountsInspection {
        inspect_counts(&Counts { tables, pairs, ..Counts::default() })
    }

    #[test]
    fn load_of_known_layers() {
        // Even over 4, and all on one: means of (1, 4), (4, 1), (1/4, 1), (1/2, 1).
        let found = of(vec![table("a", 2, &[&[5, 5, 5, 5], &[0, 20, 0, 0]])], Vec::new());
        let t = &found.tables[0];
        let close = |value: Option<f64>, expected: f64| (value.unwrap() - expected).abs() < 1e-12;
        assert!(close(t.max_over_mean_load, 2.5) && close(t.effective_experts, 2.5));
        assert!(close(t.coverage_quarter, 0.625) && close(t.coverage_half, 0.75));
        assert_eq!((t.layers, t.experts, t.choices), (2, 4, 40));
        assert!(found.warnings.is_empty() && found.models.is_empty());
    }

    #[test]
    fn empty_tables_have_no_figures() {
        let found = of(vec![table("a", 0, &[&[0, 0]]), table("b", 0, &[])], Vec::new());
        assert!(found.tables.iter().all(|t| t.max_over_mean_load.is_none() && t.effective_experts.is_none()));
    }

    #[test]
    fn tables_of_one_model_are_compared() {
        let found =
            of(vec![table("a", 1, &[&[1, 0]]), table("b", 1, &[&[1, 1]]), table("c", 1, &[&[1, 1, 1]])], Vec::new());
        assert_eq!(found.models.len(), 1);
        assert_eq!(found.models[0].names, ["a", "b"]);
        assert!((found.models[0].cosine[0][1].unwrap() - 0.5_f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn uneven_sums_are_named() {
        let found = of(vec![table("a", 2, &[&[3, 1], &[3, 2]])], Vec::new());
        assert_eq!(
            found.warnings,
            [
                "a: expected the same number of choices in every layer, found 4 in layer 0 and 5 in layer 1",
                "a: expected a multiple of k = 2 choices, found 5 in layer 1"
            ]
        );
    }

    #[test]
    fn information_between_layers() {
        let pairs = |counts: &[&[u64]]| {
            let counts = counts.iter().map(|row| row.to_vec()).collect();
            of(Vec::new(), vec![PairTable { name: "p".into(), layers: (0, 7), counts }]).pairs.remove(0)
        };
        let told = pairs(&[&[8, 0], &[0, 8]]);
        assert!((told.mutual_information_bits.unwrap() - 1.0).abs() < 1e-12);
        assert_eq!((told.predictability, told.predictability_marginal, told.choices), (Some(1.0), Some(0.5), 16));
        let independent = pairs(&[&[1, 3], &[2, 6]]);
        assert!(independent.mutual_information_bits.unwrap() < 1e-12);
        assert_eq!(independent.predictability, independent.predictability_marginal);
        assert_eq!(pairs(&[&[0, 0], &[0, 0]]).mutual_information_bits, None);
    }
}
