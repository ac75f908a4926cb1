//! A linked file: the flash and RAM that it takes, and what of the core library's panics is in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use object::{Object, ObjectSection, ObjectSymbol, SectionKind};
use serde::Deserialize;

use super::command::Done;

/// Parts of the names of the core library's functions that panic, and of the handler that they call.
const PANICS: [&str; 4] = ["panick", "rust_begin_unwind", "slice_index_fail", "expect_failed"];

/// Bytes of memory: what a file takes, or what it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Memory {
    /// Code, constants, and the first values of static data.
    pub(super) flash: u64,
    /// Static data, initialised or not; no stack.
    pub(super) ram: u64,
}

impl Memory {
    /// Whether this fits into `budget`.
    pub(super) const fn fits(self, budget: Self) -> bool {
        self.flash <= budget.flash && self.ram <= budget.ram
    }
}

/// What is known of a linked file.
pub(super) struct Linked {
    pub(super) memory: Memory,
    /// What it defines, and where.
    symbols: BTreeMap<String, u64>,
    /// What lies in it, from which address on.
    sections: Vec<(u64, Vec<u8>)>,
}

impl Linked {
    pub(super) fn read(path: &Path) -> Done<Self> {
        let failed = |error: String| format!("{}: {error}", path.display());
        let data = fs::read(path).map_err(|error| failed(error.to_string()))?;
        let file = object::File::parse(&*data).map_err(|error| failed(error.to_string()))?;
        let bytes =
            |kinds: &[SectionKind]| file.sections().filter(|s| kinds.contains(&s.kind())).map(|s| s.size()).sum();
        let symbols = file.symbols().filter(|symbol| !symbol.is_undefined());
        Ok(Self {
            memory: Memory {
                flash: bytes(&[
                    SectionKind::Text,
                    SectionKind::ReadOnlyData,
                    SectionKind::ReadOnlyString,
                    SectionKind::Data,
                ]),
                ram: bytes(&[SectionKind::Data, SectionKind::UninitializedData]),
            },
            symbols: symbols.filter_map(|symbol| Some((symbol.name().ok()?.to_owned(), symbol.address()))).collect(),
            sections: file.sections().filter_map(|s| Some((s.address(), s.data().ok()?.to_vec()))).collect(),
        })
    }

    /// Where a symbol is; `None` if it is not defined.
    pub(super) fn address(&self, name: &str) -> Option<u64> {
        self.symbols.get(name).copied()
    }

    /// The first bytes of a function; `None` if it is not defined.
    pub(super) fn code(&self, name: &str, bytes: usize) -> Option<&[u8]> {
        // Thumb functions have odd addresses.
        let address = self.address(name)? & !1;
        self.sections.iter().find_map(|(start, data)| {
            let offset = usize::try_from(address.checked_sub(*start)?).ok()?;
            data.get(offset..)?.get(..bytes)
        })
    }

    /// Symbols of the core library's panics.
    pub(super) fn panics(&self) -> Vec<&str> {
        let names = self.symbols.keys().map(String::as_str);
        names.filter(|name| PANICS.iter().any(|panic| name.contains(panic))).collect()
    }

    /// An error if it takes more than `budget` or can panic; `name` is what it is called in it.
    pub(super) fn check(&self, name: &str, budget: Memory) -> Done {
        let panics = self.panics();
        if !panics.is_empty() {
            return Err(format!("{name} can panic: {}", panics.join(", ")));
        }
        if !self.memory.fits(budget) {
            return Err(format!("{name} exceeds its budget in firmware/budgets.toml"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linked(flash: u64, ram: u64, symbols: &[&str]) -> Linked {
        let symbols = symbols.iter().map(|&name| (name.to_owned(), 1)).collect();
        Linked { memory: Memory { flash, ram }, symbols, sections: vec![(0, vec![7, 8, 9])] }
    }

    #[test]
    fn a_budget_is_the_most_that_fits() {
        let budget = Memory { flash: 100, ram: 10 };
        assert_eq!(linked(100, 10, &["main"]).check("it", budget), Ok(()));
        for (flash, ram) in [(101, 10), (100, 11)] {
            assert!(linked(flash, ram, &[]).check("it", budget).unwrap_err().contains("exceeds"));
        }
    }

    #[test]
    fn panics_are_found_by_their_names() {
        let names = ["main", "_RNvCs_7___rustc17rust_begin_unwind", "_ZN4core9panicking9panic_fmt17h0"];
        let linked = linked(0, 0, &names);
        assert_eq!(linked.panics(), names[1..]);
        assert!(linked.check("it", Memory { flash: 1, ram: 1 }).unwrap_err().contains("panic_fmt"));
        assert_eq!((linked.address("main"), linked.address("mai")), (Some(1), None));
        assert_eq!((linked.code("main", 3), linked.code("main", 4)), (Some(&[7, 8, 9][..]), None));
    }

    // Elsewhere programs are not in ELF.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_program_that_runs_this_takes_memory_and_can_panic() {
        let linked = Linked::read(&std::env::current_exe().unwrap()).unwrap();
        assert!(linked.memory.flash > 10_000 && linked.memory.ram > 0);
        assert!(!linked.panics().is_empty());
        assert!(Linked::read(Path::new("/dev/null")).is_err());
    }
}
