//! Terminal manners: examples that work, exit codes, colours, quiet and verbose, completions, manual pages, and JSON
//! that is what its schema says.

use std::io::Read;
use std::process::Command;

use serde_json::Value;

use crate::command::{Folder, Output, finish};
use crate::traces::bundled;

/// The commands, as the help names them.
fn commands(folder: &Folder) -> Vec<String> {
    let help = folder.run("--help").ok().stdout;
    let list = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let named = |line: &str| line.split_whitespace().next().map(str::to_owned);
    // Longer descriptions go on in further lines, deeper.
    let first = |line: &&str| line.starts_with("  ") && !line.starts_with("   ");
    list.lines().filter(first).filter_map(named).filter(|name| name != "help").collect()
}

/// The command lines in which its help ends.
fn examples(folder: &Folder, command: &str) -> Vec<String> {
    let [short, long] = ["-h", "--help"].map(|help| folder.run(&format!("{command} {help}")).ok().stdout);
    let of = |help: &str| -> Vec<String> {
        let (_, end) = help.split_once("\nExamples:\n").unwrap_or_else(|| panic!("cptr {command}: no examples"));
        let line = |line: &str| line.strip_prefix("  cptr").map(|rest| format!("cptr{rest}"));
        end.lines().filter_map(line).collect()
    };
    assert_eq!(of(&short), of(&long), "{command}");
    assert!(
        !of(&long).is_empty() && long.lines().all(|line| !line.starts_with("  cptr") || line.len() <= 100),
        "{long}"
    );
    of(&long)
}

/// A folder with all that comes with the program, and the program as `cptr` on the path of a shell.
fn at_home() -> Folder {
    let folder = bundled();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../sim/data");
    for name in ["model", "held-out", "calibration"] {
        std::os::unix::fs::symlink(format!("{data}/{name}"), folder.path().join(name)).unwrap();
    }
    let sweep = include_str!("../../../docs/sweep.md").split("```toml\n# bound.toml\n").nth(1).unwrap();
    folder.file("bound.toml", sweep.split("```").next().unwrap());
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_cptr-under-test"), folder.path().join("bin/cptr")).unwrap();
    folder
}

/// Command lines whose rows are of other kinds than those of the examples.
const OTHER_ROWS: [&str; 8] = [
    "inspect tiny-moe-8m.safetensors --forecast",
    "inspect tiny-moe-8m.safetensors --batches",
    "inspect counts.json",
    "run counts.json",
    "run tiny-moe-8m.safetensors --domain rust --strategy bounded --ablate",
    "plan gpt-oss-20b --system ndp --map",
    "plan --published",
    "reproduce ctx-aware",
];

/// A line of a shell.
fn typed(folder: &Folder, shell: &str, line: &str) -> Output {
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", folder.path().join("bin").display());
    finish(Command::new(shell).args(["-c", line]).current_dir(folder.path()).env("PATH", path))
}

/// Every example of every help works word for word, and what it prints as JSON is what the schema says.
#[test]
fn examples_work_and_their_json_is_that_of_the_schema() {
    let folder = at_home();
    let schema: Value = serde_json::from_str(&folder.run("schema").ok().stdout).unwrap();
    let schema = jsonschema::draft202012::new(&schema).unwrap();
    let mut checked = Vec::new();
    for command in commands(&folder) {
        for line in examples(&folder, &command) {
            assert_eq!(line.split(' ').nth(1), Some(&*command));
            let has_json = ["completions", "man", "schema"].iter().all(|none| command != *none) && !line.contains('>');
            // The table is checked by the tests of the command.
            let typed_line = if has_json { format!("{line} --json > out.json") } else { line.clone() };
            let start = std::time::Instant::now();
            typed(&folder, "sh", &typed_line).ok();
            println!("{:6.2} s  {line}", start.elapsed().as_secs_f64());
            let file = if has_json { "out.json" } else { line.rsplit("> ").next().unwrap() };
            if !has_json && !line.contains("--json") {
                continue;
            }
            let answer: Value = serde_json::from_slice(&folder.read(file)).unwrap();
            let wrong: Vec<String> =
                schema.iter_errors(&answer).map(|error| format!("{}: {error}", error.instance_path())).collect();
            assert!(wrong.is_empty(), "{line}: {wrong:#?}");
            assert_eq!(answer["command"], *command);
            checked.push(command.clone());
        }
    }
    checked.dedup();
    assert_eq!(checked.len() + 3, commands(&folder).len(), "{checked:?}");
    for line in OTHER_ROWS {
        let answer = folder.json(&format!("{line} --json"));
        assert!(schema.is_valid(&answer), "{line}: {:?}", schema.validate(&answer));
    }
    // A schema that takes anything would have passed all that.
    let mut answer: Value = folder.json("budget --json");
    assert!(schema.is_valid(&answer));
    answer["rows"][0].as_object_mut().unwrap().remove("model");
    assert!(!schema.is_valid(&answer));
}

/// The schema is committed; a key that goes, or whose type changes, needs another version, one that comes does not.
#[test]
fn the_schema_is_the_committed_one() {
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cptr.schema.json");
    let printed = Folder::new().run("schema").ok().stdout;
    let old = std::fs::read_to_string(committed).unwrap_or_else(|_| "{}".into());
    let [old_value, new_value]: [Value; 2] = [&old, &printed].map(|text| serde_json::from_str(text).unwrap());
    let of = |all: &Value| -> Vec<(Value, Value)> {
        let commands = all["allOf"].as_array().cloned().unwrap_or_default();
        commands.into_iter().map(|one| (one["then"]["properties"]["schema"]["const"].clone(), one)).collect()
    };
    let new = of(&new_value);
    for (name, old) in of(&old_value) {
        if let Some((_, new)) = new.iter().find(|(other, _)| *other == name) {
            kept(&old, new, &name.to_string());
        }
    }
    if std::env::var_os("CPTR_BLESS").is_some() {
        std::fs::write(committed, &printed).unwrap();
    } else {
        assert!(old == printed, "docs/cptr.schema.json is not what cptr schema prints: CPTR_BLESS=1 writes it");
    }
}

/// What the old one asks for, the new one has, under the same type.
fn kept(old: &Value, new: &Value, place: &str) {
    for (key, value) in old["properties"].as_object().into_iter().flatten() {
        let place = format!("{place} {key}");
        let other = &new["properties"][key];
        assert_eq!(value["type"], other["type"], "{place}: gone, or another type: raise VERSION (columns/schema.rs)");
        kept(value, other, &place);
    }
    kept_parts(old, new, place);
}

fn kept_parts(old: &Value, new: &Value, place: &str) {
    for key in ["then", "items"].iter().filter(|key| old[**key].is_object()) {
        kept(&old[*key], &new[*key], place);
    }
    for (index, old) in old["anyOf"].as_array().into_iter().flatten().enumerate() {
        kept(old, &new["anyOf"][index], &format!("{place} kind {index}"));
    }
}

#[test]
fn exit_codes_are_those_that_are_documented() {
    let folder = bundled();
    let help = folder.run("--help").ok().stdout;
    let guide = include_str!("../../../docs/guide.md");
    let list = help.split_once("Exit codes:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let codes: Vec<(i32, &str)> = list
        .lines()
        .filter_map(|line| line.trim().split_once(' '))
        .map(|(code, meaning)| (code.parse().unwrap(), meaning.trim()))
        .collect();
    assert_eq!(codes.iter().map(|(code, _)| *code).collect::<Vec<_>>(), [0, 2, 101]);
    for (code, meaning) in &codes {
        assert!(guide.contains(&format!("| {code} | {meaning} |")), "docs/guide.md: {code} {meaning}");
    }
    for (line, code) in [
        ("--help", 0),
        ("--version", 0),
        ("help run", 0),
        ("inspect tiny-moe-8m.safetensors", 0),
        ("", 2),
        ("inspect", 2),
        ("inspect absent", 2),
        ("nothing", 2),
        ("run tiny-moe-8m.safetensors --strategy nothing", 2),
        ("budget --csv absent/file.csv", 2),
    ] {
        assert_eq!(folder.run(line).code, code, "cptr {line}");
    }
    // A reader that goes away is no error; a disk that is full is one.
    assert_eq!(typed(&at_home(), "bash", "set -o pipefail; cptr run --help | head -n 1").code, 0);
    let full = typed(&at_home(), "sh", "cptr budget > /dev/full");
    assert_eq!((full.code, full.stderr.contains("standard output")), (2, true), "{full:?}");
}

/// What is wrong with arguments, and where one can see how it is done.
#[test]
fn wrong_arguments_are_answered_with_what_to_do_next() {
    let folder = Folder::new();
    for (line, next) in [
        ("inspect", "; cptr inspect --help has examples"),
        ("run a --strategie lru", "; cptr run --help has examples"),
        ("nothing", "; cptr --help has examples"),
        ("--jsn", "; cptr --help has examples"),
    ] {
        let refusal = folder.refusal(line);
        assert!(refusal.ends_with(next) && refusal.chars().count() <= 300, "{line}: {refusal}");
    }
}

#[test]
fn quiet_and_verbose_change_standard_error_alone() {
    let folder = bundled();
    for line in ["plan --published", "inspect tiny-moe-8m.safetensors --domain rust", "budget --json"] {
        let plain = folder.run(line).ok();
        let quiet = folder.run(&format!("{line} --quiet")).ok();
        let verbose = folder.run(&format!("-v {line}")).ok();
        assert_eq!(quiet.stderr, "", "{line}");
        assert!(verbose.stderr.starts_with(&plain.stderr) && verbose.stderr.ends_with(" s\n"), "{line}: {verbose:?}");
        if !line.contains("--json") {
            assert_eq!((&quiet.stdout, &verbose.stdout), (&plain.stdout, &plain.stdout), "{line}");
        }
    }
    assert!(folder.run("plan --published").ok().stderr.starts_with("Note: "));
    let read = folder.run("inspect tiny-moe-8m.safetensors -v").ok().stderr;
    let file = &folder.json("inspect tiny-moe-8m.safetensors --json")["files"][0];
    let said =
        format!("Note: read tiny-moe-8m.safetensors, 2,088,208 bytes, SHA-256 {}\n", file["sha256"].as_str().unwrap());
    assert!(read.contains(&said), "{read}");
    assert!(folder.refusal("inspect absent --quiet").starts_with("absent: "));
    assert!(folder.refusal("budget -q -v").contains("cannot be used with"));
}

/// What a process says to a terminal.
fn on_terminal(mut command: Command) -> String {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
    let theirs = std::fs::File::options().read(true).write(true).open(name).unwrap();
    command.stdout(theirs.try_clone().unwrap()).stderr(theirs);
    let mut child = command.spawn().unwrap();
    // The ends that the child was given.
    drop(command);
    let (mut text, mut part) = (Vec::new(), [0; 4096]);
    let mut ours = std::fs::File::from(ours);
    // When nobody holds the other end any more, reading fails.
    while let Ok(count @ 1..) = ours.read(&mut part) {
        text.extend_from_slice(&part[..count]);
    }
    child.wait().unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let folder = Folder::new();
    let escape = "\u{1b}[";
    for line in ["run --help", "inspect absent", "inspect"] {
        let with = |variables: &[(&str, &str)]| {
            let mut command = folder.command(line);
            ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI"].iter().for_each(|name| _ = command.env_remove(name));
            command.env("TERM", "xterm").envs(variables.iter().copied());
            command
        };
        let piped = |variables: &[(&str, &str)]| {
            let output = finish(&mut with(variables));
            output.stdout + &output.stderr
        };
        assert!(on_terminal(with(&[])).contains(escape), "{line}");
        assert!(!on_terminal(with(&[("NO_COLOR", "1")])).contains(escape), "{line}");
        assert!(!on_terminal(with(&[("TERM", "dumb")])).contains(escape), "{line}");
        assert!(!piped(&[]).contains(escape), "{line}");
        assert!(piped(&[("CLICOLOR_FORCE", "1")]).contains(escape), "{line}");
        assert!(!piped(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).contains(escape), "{line}");
    }
    // Tables have none anywhere.
    assert!(!on_terminal(folder.command("budget")).contains(escape));
}

/// Bash is told what it may complete, and does.
#[test]
fn bash_completes_commands_options_and_values() {
    let folder = at_home();
    let complete = |words: &str| {
        let line = format!(
            "source <(cptr completions bash); COMP_WORDS=(cptr {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _cptr cptr \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        let output = typed(&folder, "bash", &line).ok();
        assert_eq!(output.stderr, "");
        output.stdout.trim().to_owned()
    };
    assert_eq!(complete("insp"), "inspect");
    assert_eq!(complete("run --resi"), "--resident");
    assert_eq!(complete("completions z"), "zsh");
    for shell in ["fish", "zsh", "elvish", "powershell"] {
        let script = folder.run(&format!("completions {shell}")).ok().stdout;
        assert!(commands(&folder).iter().all(|command| script.contains(command.as_str())), "{shell}");
    }
}

/// One page for the whole and one for each command; what is wrong with a folder leaves none.
#[test]
fn manual_pages_are_of_all_commands() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path().join("man")).unwrap();
    let said = folder.run("man --out man").ok().stdout;
    let commands = commands(&folder);
    assert_eq!(said, format!("{} pages in man\n", commands.len() + 1));
    let whole = String::from_utf8(folder.read("man/cptr.1")).unwrap();
    assert_eq!(folder.run("man").ok().stdout, whole);
    for command in &commands {
        let page = String::from_utf8(folder.read(&format!("man/cptr-{command}.1"))).unwrap();
        assert!(page.contains(&format!(".TH cptr-{command} 1")) && page.contains("Examples:"), "{command}: {page}");
        assert!(whole.contains(&format!("cptr\\-{command}(1)")), "{command}");
    }
    assert!(folder.refusal("man --out absent").contains("absent"));
}
