//! Sweeps on a cluster: a Slurm of this machine's own, on loopback and in a temporary folder, runs an array of eight,
//! one task of which is killed and queued again; the merged rows are those of one machine. Then the libraries that
//! people read the results with do.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use super::{ROOT, packages};

const PACKAGES: [&str; 2] = ["slurm-wlm", "munge"];
const READERS: [&str; 4] = ["pandas==2.3.3", "pyarrow==22.0.0", "polars==1.35.2", "duckdb==1.4.2"];

/// Tasks of the array.
const TASKS: usize = 8;

/// How long anything of it may take.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Long enough that a task can be killed in the middle.
const SWEEP: &str = r#"
[run]
source = "{trace}"
strategy = "{policy}"
resident = "{memory}"
system = "ndp:link.gt_s={rate}"

[parameters]
trace = ["tiny-moe-8m.safetensors", "gpt-oss-20b.safetensors"]
policy = ["lru", "lfu", "bounded:eps={eps}", "once+in-place+uniform:bits=2"]
eps = [0.02, 0.08]
memory = [4, 8, 12, 16]
rate = [8, 16, 32]

[pareto]
token_time_us = "min"
mass_loss = "min"
"#;

pub(crate) fn check() -> bool {
    match Cluster::new().and_then(Cluster::check) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("xtask slurm: {error}");
            false
        }
    }
}

/// Daemons in a folder of their own.
struct Cluster {
    folder: PathBuf,
    program: PathBuf,
    daemons: Vec<Child>,
}

/// Daemons end with the check, however it ends.
impl Drop for Cluster {
    fn drop(&mut self) {
        for daemon in self.daemons.iter_mut().rev() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Cluster {
    fn new() -> Result<Self, String> {
        let there = ["slurmctld", "slurmd", "munged", "sbatch"].iter().all(|program| found(program).is_some());
        if !there {
            packages::install(&PACKAGES)?;
        }
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(ROOT).join("target"), PathBuf::from);
        // As the tests build it: what it says is the question here, not how fast.
        let build = ["build", "--profile", "test", "--workspace", "--bin", "cptr"];
        if !super::cargo(&build, &[]) {
            return Err("the command is not built".into());
        }
        let folder = env::temp_dir().join(format!("cptr-slurm-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let folder = folder.canonicalize().map_err(|error| error.to_string())?;
        let program = target.canonicalize().map_err(|error| error.to_string())?.join("debug/cptr");
        let mut cluster = Self { folder, program, daemons: Vec::new() };
        cluster.start()?;
        Ok(cluster)
    }

    /// Writes the configuration, and starts what authenticates, what schedules, and what runs.
    fn start(&mut self) -> Result<(), String> {
        let folder = self.folder.display().to_string();
        let host = self.output("hostname", &["-s"])?;
        // Ports that nobody has just now.
        let port = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let ports = [port(), port()].map(|address| address.map(|address| address.port()).unwrap_or(6817));
        let user = self.output("id", &["-un"])?;
        let configuration = format!(
            "ClusterName=cptr\nSlurmctldHost={host}(127.0.0.1)\nSlurmUser={user}\nSlurmdUser={user}\n\
             AuthType=auth/munge\nAuthInfo=socket={folder}/munge.socket,cred_expire=5\nCredType=cred/munge\n\
             SlurmctldPort={}\nSlurmdPort={}\nStateSaveLocation={folder}/state\nSlurmdSpoolDir={folder}/spool\n\
             SlurmctldPidFile={folder}/slurmctld.pid\nSlurmdPidFile={folder}/slurmd.pid\n\
             SlurmctldLogFile={folder}/slurmctld.log\nSlurmdLogFile={folder}/slurmd.log\n\
             ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherType=jobacct_gather/none\n\
             SelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\nSlurmdParameters=config_overrides\n\
             MpiDefault=none\nReturnToService=2\nJobRequeue=1\nKillWait=1\nMinJobAge=3600\n\
             NodeName={host} NodeAddr=127.0.0.1 CPUs=4\nPartitionName=all Nodes=ALL Default=YES State=UP\n",
            ports[0], ports[1]
        );
        for name in ["state", "spool"] {
            fs::create_dir_all(self.folder.join(name)).map_err(|error| error.to_string())?;
        }
        self.write("slurm.conf", &configuration)?;
        self.write("cgroup.conf", "CgroupAutomount=no\n")?;
        let key = format!("--keyfile={folder}/munge.key");
        self.output(&sbin("mungekey"), &["--create", &key])?;
        let option = |name: &str, file: &str| format!("--{name}={folder}/{file}");
        let munge = [
            "--foreground".into(),
            "--force".into(),
            option("key-file", "munge.key"),
            option("socket", "munge.socket"),
            option("pid-file", "munge.pid"),
            option("log-file", "munge.log"),
            option("seed-file", "munge.seed"),
        ];
        self.daemon("munged", &munge)?;
        self.until("munge's socket", |cluster| cluster.folder.join("munge.socket").exists())?;
        self.daemon("slurmctld", &["-D".into()])?;
        self.daemon("slurmd", &["-D".into()])?;
        self.until("an idle node", |cluster| {
            cluster.output("sinfo", &["-h", "-o", "%t"]).is_ok_and(|state| state == "idle")
        })
    }

    fn check(mut self) -> Result<(), String> {
        for trace in ["tiny-moe-8m.safetensors", "gpt-oss-20b.safetensors"] {
            let from = Path::new(ROOT).join("sim/data").join(trace);
            fs::copy(from, self.folder.join(trace)).map_err(|error| error.to_string())?;
        }
        self.write("grid.toml", SWEEP)?;
        let script = self.cptr(&["sweep", "--job-script"])?;
        self.write("sweep.sh", &format!("{script}\n"))?;
        let array = format!("--array=1-{TASKS}");
        let job = self.output("sbatch", &["--parsable", &array, "sweep.sh", "grid.toml", "--out", "part"])?;
        eprintln!("xtask slurm: job {job}, an array of {TASKS}");
        // The third task in the middle of its points, wherever that is.
        let third = format!("part.3-of-{TASKS}.journal");
        self.until("points of a task", |cluster| cluster.lines(&third) >= 4 || cluster.nothing_runs())?;
        if let Err(error) = self.output("scontrol", &["requeue", &format!("{job}_3")]) {
            return Err(format!("{error}: {}", self.logs()));
        }
        let before = self.lines(&third);
        self.until("the array", Self::nothing_runs)?;
        let about = self.output("scontrol", &["show", "job", &format!("{job}_3")])?;
        if !about.contains("Restarts=1") || !about.contains("JobState=COMPLETED") {
            return Err(format!("the third task was not killed and queued again: {about}"));
        }
        eprintln!(
            "xtask slurm: task 3 killed after {} of {} points, and queued again",
            before - 1,
            self.lines(&third) - 1
        );
        let parts: Vec<String> = (1..=TASKS).map(|part| format!("part.{part}-of-{TASKS}.journal")).collect();
        let merge = ["merge"].into_iter().chain(parts.iter().map(String::as_str)).chain(["--out", "part"]);
        eprintln!("{}", self.cptr(&merge.collect::<Vec<_>>())?);
        self.cptr(&["sweep", "grid.toml", "--out", "whole"])?;
        for ending in ["csv", "parquet"] {
            let read = |name: &str| fs::read(self.folder.join(format!("{name}.{ending}"))).map_err(|e| e.to_string());
            if read("part")? != read("whole")? {
                return Err(format!("{ending}: the array's rows are not those of one machine"));
            }
        }
        let python = self.readers()?;
        let check = Path::new(ROOT).join("xtask/src/read_sweep.py");
        eprintln!("{}", self.output(&python, &[&check.to_string_lossy(), "part.parquet", "part.csv"])?);
        Ok(())
    }

    fn nothing_runs(&self) -> bool {
        self.output("squeue", &["-h"]).is_ok_and(|jobs| jobs.is_empty())
    }

    /// A Python that reads Parquet in all ways; it is kept for the next time.
    fn readers(&mut self) -> Result<String, String> {
        let target = self.program.parent().and_then(Path::parent).unwrap_or(Path::new(ROOT));
        let environment = target.join("python/environments/readers");
        let python = environment.join("bin/python").to_string_lossy().into_owned();
        if !Path::new(&python).exists() {
            self.output("python3", &["-m", "venv", &environment.to_string_lossy()])?;
        }
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        self.output(&python, &[&install[..], &READERS].concat())?;
        Ok(python)
    }

    fn cptr(&self, arguments: &[&str]) -> Result<String, String> {
        self.output(&self.program.to_string_lossy(), arguments)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env("SLURM_CONF", self.folder.join("slurm.conf")).env("CPTR", &self.program);
        command
    }

    /// What a program prints; its complaint where it fails.
    fn output(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let output = self.command(program).args(arguments).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("{program}: {error}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        Err(format!("{program} {}: {} {}", arguments.join(" "), output.status, text(&output.stderr)))
    }

    fn daemon(&mut self, program: &str, arguments: &[String]) -> Result<(), String> {
        let log = fs::File::create(self.folder.join(format!("{program}.out"))).map_err(|error| error.to_string())?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let mut command = self.command(&sbin(program));
        let child = command.args(arguments).stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        self.daemons.push(child.map_err(|error| format!("{program}: {error}"))?);
        Ok(())
    }

    /// Waits for something; where a daemon ends first, or it takes too long, says what the logs say.
    fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) -> Result<(), String> {
        let start = Instant::now();
        while !done(self) {
            let ended = self.daemons.iter_mut().any(|daemon| !matches!(daemon.try_wait(), Ok(None)));
            if ended || start.elapsed() > PATIENCE {
                return Err(format!("waited for {what}: {}", self.logs()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The ends of all logs.
    fn logs(&self) -> String {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let logs = files.filter(|path| path.extension().is_some_and(|ending| ending == "log" || ending == "out"));
        let end = |path: PathBuf| {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(8).collect();
            format!("\n{}:\n  {}", path.display(), lines.into_iter().rev().collect::<Vec<_>>().join("\n  "))
        };
        logs.map(end).collect()
    }

    fn lines(&self, name: &str) -> usize {
        fs::read_to_string(self.folder.join(name)).map_or(0, |text| text.matches('\n').count())
    }

    fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.folder.join(name);
        let write = fs::File::create(&path).and_then(|mut file| file.write_all(text.as_bytes()));
        write.map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Where a program is, daemons included.
fn found(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|path| path.exists())
}

fn sbin(program: &str) -> String {
    found(program).map_or_else(|| program.into(), |path| path.to_string_lossy().into_owned())
}
