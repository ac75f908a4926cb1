//! Reports of the command in a browser, without a framework: builds pages of several commands and looks at each as a
//! person would, on a phone, at a desk and on paper, in light and dark, with and without its script, by keyboard.
//!
//! Chromium is driven over its own pipe of the DevTools protocol. What is asked of a page stands in `page.js`, which
//! runs in it. Screenshots are left below the build folder, for people, and compared with what was looked at before
//! (`pictures.tsv`; `cargo xtask report --bless` takes the new ones over).

mod browser;
mod pictures;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{ROOT, cargo, packages};
use browser::{Browser, Page};
use pictures::{Pictures, difference};

/// What runs in the page.
const CHECKS: &str = include_str!("page.js");

/// Pages, and the commands that make them. `{tiny}` and `{gpt}` are the bundled traces.
const PAGES: [(&str, &str); 18] = [
    ("demo", "demo"),
    ("run", "run {tiny} --tokens 6000 --strategy raw,tracked,belady,recall-fetch,bounded:eps=0.02,bounded:eps=0.08"),
    ("run-near", "run {gpt} --system ndp --prefill 512 --strategy raw,monde,ctx-aware,migrate,foresight --resident 8"),
    ("run-one", "run {tiny} --tokens 300 --strategy lru"),
    ("run-ablate", "run {tiny} --tokens 2000 --strategy recall-fetch --ablate"),
    ("inspect", "inspect {gpt} --parts 60"),
    ("inspect-recall", "inspect {tiny} --tokens 2400 --recall"),
    ("inspect-changes", "inspect {tiny} --tokens 4000 --changes"),
    ("plan", "plan gpt-oss-20b"),
    ("plan-map", "plan gpt-oss-20b --system ndp --map --bits 2,4"),
    ("plan-published", "plan --published"),
    ("serve", "serve gpt-oss-20b --rate 0.5,1,2 --requests 200"),
    ("advise", "advise {gpt} --tokens 3000"),
    ("devices", "devices {gpt} --tokens 600"),
    ("budget", "budget"),
    ("layer", "layer --system ndp"),
    ("dram", "dram --requests 100000"),
    (MEASURED, "drive {tiny} --cached --in-flight 1,4,16 --turns 3 --seconds 0.02"),
];
/// The page whose times are measured: no two pictures of it are alike.
const MEASURED: &str = "drive";

/// Window: name, width, height, and whether it is a phone's.
const WINDOWS: [(&str, u32, u32, bool); 2] = [("phone", 390, 844, true), ("desk", 1280, 900, false)];
/// Name, medium, and colours.
const LOOKS: [(&str, &str, &str); 3] =
    [("light", "screen", "light"), ("dark", "screen", "dark"), ("print", "print", "light")];
/// Width of a sheet of A4 between its margins, in pixels of CSS.
const SHEET: u32 = 718;

/// Builds and looks at all pages; `bless` takes over what they look like.
pub(crate) fn check(bless: bool) -> bool {
    match all(bless) {
        Ok(failures) if failures.is_empty() => true,
        Ok(failures) => {
            failures.iter().for_each(|failure| eprintln!("xtask report: {failure}"));
            false
        }
        Err(error) => {
            eprintln!("xtask report: {error}");
            false
        }
    }
}

fn all(bless: bool) -> Result<Vec<String>, String> {
    if !packages::present("chromium") {
        packages::install(&["chromium"])?;
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(ROOT).join("target"), PathBuf::from);
    let folder = target.join("reports");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let cptr = match std::env::var_os("CPTR") {
        Some(built) => PathBuf::from(built),
        None if cargo(&["build", "--release", "--package", "cptr-cli"], &[]) => target.join("release/cptr"),
        None => return Err("cptr was not built".into()),
    };
    let pages = write(&cptr, &folder)?;
    let mut browser = Browser::start(&target.join("chromium"))?;
    let (mut failures, mut seen) = (Vec::new(), Pictures::default());
    for (name, path) in &pages {
        eprintln!("   {name}");
        let found = look(&mut browser, name, path, &folder, &mut seen).map_err(|error| format!("{name}: {error}"))?;
        failures.extend(found.into_iter().map(|failure| format!("{name}: {failure}")));
    }
    if bless {
        seen.write()?;
    } else {
        failures.extend(Pictures::read()?.differences(&seen));
    }
    println!("{} pages, screenshots in {}", pages.len(), folder.display());
    Ok(failures)
}

/// The pages of all commands, and the one that compares two of them.
fn write(cptr: &Path, folder: &Path) -> Result<Vec<(String, PathBuf)>, String> {
    // By names without a folder: a page says what was run, and should look the same wherever this is.
    let (tiny, gpt) = ("tiny-moe-8m.safetensors", "gpt-oss-20b.safetensors");
    for name in [tiny, gpt] {
        let data = Path::new(ROOT).join("sim/data").join(name);
        std::fs::copy(&data, folder.join(name)).map_err(|error| format!("{}: {error}", data.display()))?;
    }
    let run = |line: &str, more: &[&str]| -> Result<Vec<u8>, String> {
        let words = line.split(' ').map(|word| word.replace("{tiny}", tiny).replace("{gpt}", gpt));
        let output = Command::new(cptr).args(words).args(more).current_dir(folder).output();
        let output = output.map_err(|error| format!("{}: {error}", cptr.display()))?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(format!("cptr {line}: {}", String::from_utf8_lossy(&output.stderr)))
        }
    };
    let mut pages = Vec::new();
    for (name, line) in PAGES {
        let page = format!("{name}.html");
        run(line, &["--report", &page])?;
        pages.push((name.to_owned(), folder.join(page)));
    }
    for (name, line) in [
        ("a.json", "run {tiny} --tokens 3000 --strategy raw,tracked,bounded:eps=0.04 --resident 8 --json"),
        ("b.json", "run {tiny} --tokens 3000 --strategy raw,recall,bounded:eps=0.04 --resident 10 --json"),
    ] {
        std::fs::write(folder.join(name), run(line, &[])?).map_err(|error| format!("{name}: {error}"))?;
    }
    run("report a.json b.json", &["--out", "report.html"])?;
    pages.push(("report".into(), folder.join("report.html")));
    Ok(pages)
}

/// What is wrong with a page.
fn look(
    browser: &mut Browser,
    name: &str,
    path: &Path,
    folder: &Path,
    pictures: &mut Pictures,
) -> Result<Vec<String>, String> {
    let mut failures = Vec::new();
    let address = format!("file://{}", path.display());
    let mut page = browser.open(&address)?;
    let structure = page.run(CHECKS, &json!({"ask": "structure"}))?;
    failures.extend(sentences(&structure, "structure"));
    for (window, width, height, phone) in WINDOWS {
        let mut light = None;
        for (look, medium, colours) in LOOKS {
            let print = medium == "print";
            if print && phone {
                continue;
            }
            // Paper is as wide as paper.
            let width = if print { SHEET } else { width };
            page.window(width, height, phone, medium, colours)?;
            let ask = json!({"ask": "look", "print": print});
            let found = page.run(CHECKS, &ask)?;
            failures.extend(sentences(&found, &format!("{window}, {look}")));
            let shot = folder.join(format!("{name}-{window}-{look}.png"));
            let seen = page.screenshot(&shot)?;
            failures.extend(blank(&seen).map(|found| format!("{window}, {look}: {found}")));
            let coarse = seen["coarse"].as_str().unwrap_or_default();
            // In other colours the same is drawn.
            let other = light.as_ref().filter(|_| look == "dark").and_then(|light: &String| difference(light, coarse));
            failures.extend(other.map(|other| format!("{window}, dark, beside light: {other}")));
            if look == "light" {
                light = Some(coarse.to_owned());
            }
            if look != "dark" && name != MEASURED {
                pictures.add(format!("{name}-{window}-{look}"), coarse);
            }
        }
    }
    page.window(1280, 900, false, "screen", "light")?;
    failures.extend(keyboard(&mut page)?);
    for (window, width, height, phone) in WINDOWS {
        page.window(width, height, phone, "screen", "light")?;
        failures.extend(sentences(&page.run(CHECKS, &json!({"ask": "use"}))?, &format!("{window}, in use")));
    }
    failures.extend(page.complaints().into_iter().map(|said| format!("console: {said}")));
    page.close()?;
    // All of it is there without the script.
    let mut page = browser.open_without_script(&address)?;
    for (window, width, height, phone) in WINDOWS {
        page.window(width, height, phone, "screen", "light")?;
        let found = page.run(CHECKS, &json!({"ask": "look", "print": false}))?;
        failures.extend(sentences(&found, &format!("{window}, without script")));
    }
    failures.extend(sentences(&page.run(CHECKS, &json!({"ask": "bare"}))?, "without script"));
    page.close()?;
    Ok(failures)
}

/// Goes through the page by the tabulator, and holds the stops to the order of the page: each is seen, and has a name.
fn keyboard(page: &mut Page<'_>) -> Result<Vec<String>, String> {
    let wanted = page.run(CHECKS, &json!({"ask": "stops"}))?;
    let wanted: Vec<&Value> = wanted.as_array().map(|list| list.iter().collect()).unwrap_or_default();
    let mut failures = Vec::new();
    // Enough to see that the order holds; a page has a stop for each head of a column.
    for (index, stop) in wanted.iter().enumerate().take(40) {
        page.press_tab()?;
        let found = page.run(CHECKS, &json!({"ask": "focus"}))?;
        if found["stop"] != **stop {
            failures.push(format!("stop {index} of the tabulator: expected {stop}, found {}", found["stop"]));
            break;
        }
        failures.extend(sentences(&found["wrong"], &format!("stop {index} of the tabulator")));
    }
    if wanted.len() < 2 {
        failures.push("the tabulator has nowhere to go".into());
    }
    Ok(failures)
}

fn sentences(found: &Value, place: &str) -> Vec<String> {
    let said = |value: &Value| format!("{place}: {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    match found {
        Value::Array(list) => list.iter().map(said).collect(),
        other => vec![format!("{place}: {other}")],
    }
}

/// A picture in which there is nothing to see.
fn blank(seen: &Value) -> Option<String> {
    let (colours, ink) = (seen["colours"].as_u64()?, seen["ink"].as_f64()?);
    let empty = colours < 8 || !(0.005..0.9).contains(&ink);
    empty.then(|| format!("blank: {colours} colours, {:.2}% of it is not the page's own", ink * 100.0))
}
