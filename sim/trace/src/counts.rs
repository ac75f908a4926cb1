//! Expert counts without token order: popularity files, usage profiles, domain tables.
//!
//! ```
//! use cptr_trace::counts::CountTable;
//!
//! let (name, counts) = ("law".into(), vec![vec![3, 1]]);
//! let table = CountTable { name, model: String::new(), k: 1, layer_ids: vec![0], counts };
//! assert_eq!(table.counts[0].iter().sum::<u64>(), 4);
//! ```

/// How often each expert was chosen, layer by layer, in one part (domain, subject, model) of a source.
#[derive(Debug, Clone, PartialEq)]
pub struct CountTable {
    /// Name of the part, such as `olmoe/arxiv`.
    pub name: String,
    /// Model name, empty if unknown.
    pub model: String,
    /// Experts per token, 0 if unknown.
    pub k: usize,
    /// The model's own number of each layer, `[L]`.
    pub layer_ids: Vec<u32>,
    /// Counts `[L][E]`.
    pub counts: Vec<Vec<u64>>,
}

/// How often expert `a` of one layer and expert `b` of a later layer were chosen by the same token.
#[derive(Debug, Clone, PartialEq)]
pub struct PairTable {
    /// Name of the part.
    pub name: String,
    /// The two layers.
    pub layers: (u32, u32),
    /// Counts `[E][E]`, first layer outermost.
    pub counts: Vec<Vec<u64>>,
}

/// A source of counts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Counts {
    /// Where the data come from.
    pub source: String,
    /// Tables of single layers.
    pub tables: Vec<CountTable>,
    /// Tables of pairs of layers.
    pub pairs: Vec<PairTable>,
    /// Remarks of the importer, one sentence each.
    pub notes: Vec<String>,
}
