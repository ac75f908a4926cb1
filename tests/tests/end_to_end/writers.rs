//! Output files are whole or not there, whoever else writes them and whenever their writer is ended; messages are short
//! whatever they quote.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::command::{Folder, finish};
use crate::traces::bundled;

/// How often a writer has to be ended while it writes.
const ENDED: usize = 4;
/// Longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

fn start(folder: &Folder, arguments: &str) -> Child {
    folder.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Temporary files in the folder.
fn temporary(folder: &Folder) -> usize {
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".cptr-")).count()
}

#[cfg(target_os = "linux")]
/// Whether a process has a temporary file open.
fn writes(process: &Child) -> bool {
    let files = fs::read_dir(format!("/proc/{}/fd", process.id())).into_iter().flatten().flatten();
    let mut open = files.filter_map(|file| fs::read_link(file.path()).ok());
    open.any(|file| file.to_string_lossy().contains("/.cptr-"))
}

/// Two processes write one file, and one of them is ended while it writes: what is there is always the whole of what
/// one of them writes alone, and what the other has left is gone when the next one has written.
#[cfg(target_os = "linux")]
#[test]
fn two_writers_of_a_file_do_not_mix_and_an_ended_one_leaves_nothing() {
    let folder = bundled();
    let inputs = ["gpt-oss-20b.safetensors", "tiny-moe-8m.safetensors"];
    let whole = inputs.map(|input| {
        folder.run(&format!("convert {input} alone.safetensors")).ok();
        folder.read("alone.safetensors")
    });
    let writers = || inputs.map(|input| start(&folder, &format!("convert {input} out.safetensors")));
    assert!(whole[0] != whole[1]);
    let begun = Instant::now();
    let mut ended = 0;
    while ended < ENDED {
        assert!(begun.elapsed() < PATIENCE, "{ended} writers were ended while they wrote");
        let [mut victim, mut rival] = writers();
        while !writes(&victim) && victim.try_wait().unwrap().is_none() {
            std::hint::spin_loop();
        }
        victim.kill().unwrap();
        ended += usize::from(!victim.wait().unwrap().success());
        if let Ok(found) = fs::read(folder.path().join("out.safetensors")) {
            assert!(whole.contains(&found), "{} bytes of neither", found.len());
        }
        assert!(rival.wait().unwrap().success());
        assert!(whole.contains(&folder.read("out.safetensors")));
        folder.run(&format!("convert {} out.safetensors", inputs[1])).ok();
        assert!(whole[1] == folder.read("out.safetensors"), "the last writer has the file");
        assert_eq!(temporary(&folder), 0);
        fs::remove_file(folder.path().join("out.safetensors")).unwrap();
    }
    // Both at once, to the end: one of the two files.
    for _ in 0..ENDED {
        for mut writer in writers() {
            assert!(writer.wait().unwrap().success());
        }
        assert!(whole.contains(&folder.read("out.safetensors")));
        assert_eq!(temporary(&folder), 0);
    }
}

/// A capture that is ended between its parts, again and again, gives in the end what one gives that never was; another
/// one of the same output is refused while it runs, or goes on where it stopped.
#[cfg(feature = "model")]
#[test]
fn a_capture_that_is_ended_again_and_again_loses_and_mixes_nothing() {
    let folder = Folder::new();
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/model/tests/golden/olmoe");
    for entry in fs::read_dir(golden).unwrap() {
        let path = entry.unwrap().path();
        folder.file(&format!("olmoe/{}", path.file_name().unwrap().to_str().unwrap()), fs::read(&path).unwrap());
    }
    folder.file("text.txt", "It was the best of times, it was the worst of times. ".repeat(40));
    let capture = "capture olmoe --text text.txt --context 16 --out";
    folder.run(&format!("{capture} whole.safetensors")).ok();
    let parts = folder.path().join("out.safetensors.part");
    let count = || fs::read_dir(&parts).map_or(0, Iterator::count);
    let mut resumed = false;
    for round in 1..=3 {
        let before = count();
        let begun = Instant::now();
        let mut victim = start(&folder, &format!("{capture} out.safetensors"));
        // Key, lock, and a few parts more than the one before had.
        while count() < before.max(2) + 2 && victim.try_wait().unwrap().is_none() && begun.elapsed() < PATIENCE {
            std::hint::spin_loop();
        }
        // The same output at the same time: refused by name, or the first one is through.
        let rival = finish(&mut folder.command("capture olmoe --text text.txt --context 8 --out out.safetensors"));
        let busy = "out.safetensors: another process writes it: wait for it to end, or name another output";
        let is_through = victim.try_wait().unwrap().is_some();
        assert!(is_through || rival.stderr == format!("cptr: {busy}\n"), "{round}: {rival:?}");
        victim.kill().unwrap();
        victim.wait().unwrap();
        resumed |= count() > 2;
    }
    assert!(resumed, "no capture was ended between its parts");
    folder.run(&format!("{capture} out.safetensors")).ok();
    assert!(folder.read("out.safetensors") == folder.read("whole.safetensors"));
    assert!(!parts.exists());
    assert_eq!(temporary(&folder), 0);
}

#[test]
fn of_several_outputs_all_are_written_or_none() {
    let folder = bundled();
    let run = "run tiny-moe-8m.safetensors --domain rust --strategy lru";
    for outputs in ["--csv rows.csv --report absent/page.html", "--report page.html --csv absent/rows.csv"] {
        assert!(folder.refusal(&format!("{run} {outputs}")).starts_with("absent/"));
    }
    folder.run(&format!("{run} --csv rows.csv --report page.html")).ok();
    assert!(folder.read("rows.csv").starts_with(b"strategy") && folder.read("page.html").starts_with(b"<!"));
}

/// What is wrong is said in at most 300 characters that a terminal does not obey, whatever stands in its place.
#[test]
fn messages_are_short_and_printable() {
    let folder = bundled();
    let trace = "tiny-moe-8m.safetensors";
    let long = "x".repeat(100_000);
    let values = [
        "9".repeat(300),
        "-".to_owned() + &"9".repeat(300),
        "1e".to_owned() + &"9".repeat(300),
        format!("\u{1b}[2J\u{7}\u{202e}{long}"),
        "ä\n\nUsage: \n".repeat(200),
        format!("{long}.safetensors"),
    ];
    // A file whose keys and values are as long as a file may be.
    let name = "y".repeat(1 << 20);
    folder.file("key.toml", format!("{name} = 1\n\"\u{9b}{name}\" = 2\n"));
    folder.file("value.toml", format!("name = \"\\u001b[31m{name}\"\nlink = \"{name}\"\n"));
    folder.file("value.json", format!("{{\"{name}\": \"\\u001b{name}\"}}"));
    let mut lines: Vec<Vec<String>> = Vec::new();
    for value in &values {
        let value = value.as_str();
        for line in [
            &["run", trace, "--resident", value][..],
            &["run", trace, "--strategy", value],
            &["run", trace, "--strategy", &format!("bounded:eps={value}")],
            &["run", trace, "--strategy", &format!("bounded:{value}=1")],
            &["run", trace, "--system", value],
            &["run", trace, "--domain", value],
            &["run", trace, "--tokens", value],
            &["run", trace, value],
            &["run", value],
            &[value],
            &["inspect", trace, &format!("--{value}")],
            &["inspect", trace, "--cache", value],
            &["convert", trace, &format!("absent/{value}")],
            &["plan", value],
            &["layer", "--system", value],
            &["dram", "--device", value],
            &["gen", value],
            &["budget", "--bits", value],
            &["serve", "--rate", value],
            &["attack", value],
            &["reproduce", value],
        ] {
            lines.push(line.iter().map(|&word| word.to_owned()).collect());
        }
    }
    for file in ["key.toml", "value.toml", "value.json"] {
        for line in [
            &["run", trace, "--system", file][..],
            &["layer", "--system", file],
            &["dram", "--device", file],
            &["reproduce", file],
            &["attack", "lru", "--replay", file],
            &["inspect", file],
        ] {
            lines.push(line.iter().map(|&word| word.to_owned()).collect());
        }
    }
    for line in lines {
        let shown: Vec<String> = line.iter().map(|word| word.chars().take(40).collect()).collect();
        let output = finish(folder.command("").args(&line));
        assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{shown:?}: {}", output.stderr);
        let message = output.stderr.strip_prefix("cptr: ").and_then(|rest| rest.strip_suffix('\n'));
        let message = message.unwrap_or_else(|| panic!("{shown:?}: {}", output.stderr));
        let obeyed = |c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
        assert!(message.chars().count() <= 300, "{shown:?}: {} characters", message.chars().count());
        assert!(!message.contains(obeyed) && !message.trim().is_empty(), "{shown:?}: {message:?}");
    }
}
