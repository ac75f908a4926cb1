//! The bit selector of the single migration, with measured losses and errors in them.

use std::path::Path;

use super::{RESULTS, by_row, none_differs, run};
use crate::command::{Folder, finish};
use crate::plan::table;
use crate::traces::number;

/// Of text of one domain, and of all of them one after the other.
#[test]
#[ignore = "a model is captured and quantised for minutes"]
fn noise_in_the_losses() {
    const HEADING: &str = "| text | same bits for all | selector | noise 0.5 | noise 1 |";
    const STRATEGIES: [&str; 4] =
        ["ctx-aware+uniform:bits=2", "ctx-aware:bits=2", "ctx-aware:bits=2:noise=0.5", "ctx-aware:bits=2:noise=1"];
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/data");
    let folder = Folder::new();
    let mut capture = folder.command("capture --out t.safetensors");
    finish(capture.arg(data.join("model")).arg("--text").arg(data.join("held-out"))).ok();
    let mut quantize = folder.command("quantize --out q");
    finish(quantize.arg(data.join("model")).arg("--calibration").arg(data.join("calibration"))).ok();
    let options = "--system ndp --prefill 512 --losses q/loss.csv --resident 8 --hidden 192 --expert-inner 96";
    let options = options.replace("q/", &format!("{}/q/", folder.path().display()));
    none_differs([by_row(HEADING, &table(RESULTS, HEADING), |_, row| {
        let domain = row[0];
        let name = if domain.contains(' ') {
            "t.safetensors".to_owned()
        } else {
            let name = format!("{domain}.safetensors");
            let twice = format!("t.safetensors#{domain},t.safetensors#{domain}");
            folder.run(&format!("gen --join {twice} --segment 2000 --segments 2 {name}")).ok();
            name
        };
        let rows = run(&folder.path().join(name), &options, &STRATEGIES);
        rows.iter().map(|row| vec![number(&row["quantisation_loss"])]).collect()
    })]);
}
