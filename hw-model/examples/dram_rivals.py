#!/usr/bin/env python3
"""Time a request of Ramulator 2.1 and DRAMsim3 beside ours, in one run.

    cargo build --release -p cptr-hw-model --example dram_reference
    PYTHONPATH=RAMULATOR/python python3 hw-model/examples/dram_rivals.py DRAMSIM3/build/dramsim3main \
        DRAMSIM3/configs/DDR4_8Gb_x8_3200.ini target/release/examples/dram_reference

RAMULATOR is github.com/CMU-SAFARI/ramulator2 at commit c5b1c3a, DRAMSIM3 is github.com/umd-memsys/DRAMsim3 at commit
2981759, both as published, built in release mode, the first with its Python bindings. Each pair runs in turn, so many
rounds; what is printed are medians of processor time (user and system) per read served. Of Ramulator it is the run
alone, its trace loaded before; of ours the whole process, the stream made in it; of DRAMsim3 the whole process, its
trace read in it as text, as it does. DRAMsim3 computes power all the time; ours counts what energy is computed from.
"""
import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

MASK = (1 << 64) - 1
REQUESTS = 1_000_000
LINE = 64
WINDOW_LINES = (1 << 30) // LINE
DRAMSIM3_CYCLES = 4_000_000


def splitmix64(state):
    """Numbers of SplitMix64."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
        yield z ^ z >> 31


def lines(stream):
    """The line numbers of a stream, as `cptr_hw_model::dram::stream` makes them."""
    if stream == "seq":
        yield from (index % WINDOW_LINES for index in range(REQUESTS))
    elif stream == "rand":
        draw = splitmix64(1)
        for _ in range(REQUESTS):
            yield next(draw) % WINDOW_LINES
    else:
        draw, expert, turn, made = splitmix64(2), (3 << 19) // LINE, 4096 // LINE, 0
        while True:
            chosen = [next(draw) % 512 for _ in range(8)]
            for first in range(0, expert, turn):
                for one in chosen:
                    for line in range(first, first + turn):
                        if made == REQUESTS:
                            return
                        made += 1
                        yield one * expert + line


def of_children(command):
    """Seconds of processor time of a process, and what it wrote."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def ramulator_run(trace):
    """Seconds and counts of one run of Ramulator: DDR5-4800, as in `tests/reference.tsv`."""
    import ramulator

    controller = ramulator.controller.GenericDDR(
        dram=ramulator.dram.DDR5(org_preset="DDR5_16Gb_x8", timing_preset="DDR5_4800AN"),
        scheduler=ramulator.scheduler.FRFCFSRowHit(),
        refresh_manager=ramulator.refresh_manager.AllBank(),
        row_policy=ramulator.row_policy.Open(),
        addr_mapper=ramulator.addr_mapper.MOP4CLXOR(),
    )
    mapper = ramulator.channel_mapper.CacheLineInterleave()
    simulation = ramulator.Simulation(
        ramulator.frontend.LoadStoreTrace(clock_ratio=4, path=trace),
        ramulator.memory_system.GenericDRAM(clock_ratio=1, channel_mapper=mapper, controllers=[controller]),
    )
    start = time.process_time()
    simulation.run()
    seconds = time.process_time() - start
    stats = simulation.stats["memory_system"]["controller"]
    print(seconds, stats["cycles"], stats["num_read_reqs_served"])


def ours(program, words):
    """Seconds of processor time, and cycles."""
    seconds, text = of_children([program, *words])
    rows = [line.split() for line in text.splitlines()[1:]]
    assert len(rows) == 1, (words, text)
    return seconds, int(rows[0][5])


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("dramsim3")
    arguments.add_argument("dramsim3_config")
    arguments.add_argument("dram_reference")
    arguments.add_argument("--rounds", type=int, default=5)
    chosen = arguments.parse_args()
    print("rival      stream  rival ns   ours ns   ratio, least to greatest   cycles: rival, ours", flush=True)
    for stream in ("seq", "expert", "rand"):
        with tempfile.TemporaryDirectory() as folder:
            of_ramulator, of_dramsim3 = f"{folder}/ramulator.trace", f"{folder}/dramsim3.trace"
            with open(of_ramulator, "w") as one, open(of_dramsim3, "w") as other:
                for line in lines(stream):
                    one.write(f"LD {line * LINE}\n")
                    other.write(f"0x{line * LINE:x} READ 0\n")
            config = f"{folder}/dramsim3.ini"
            text = open(chosen.dramsim3_config).read()
            text = re.sub(r"channel_size = \d+", "channel_size = 8192", text)
            text = re.sub(r"address_mapping = \w+", "address_mapping = rochrabacobg", text)
            open(config, "w").write(text)

            def ramulator_pair():
                _, text = of_children([sys.executable, __file__, "--ramulator", of_ramulator])
                seconds, cycles, reads = text.split()
                mine, my_cycles = ours(chosen.dram_reference, ["ramulator2.1", "DDR5-4800", "MOP4CLXOR", "ab", stream])
                return float(seconds) / int(reads), mine / REQUESTS, cycles, my_cycles

            def dramsim3_pair():
                out = f"{folder}/out"
                os.makedirs(out, exist_ok=True)
                command = [chosen.dramsim3, config, "-c", str(DRAMSIM3_CYCLES), "-t", of_dramsim3, "-o", out]
                seconds, _ = of_children(command)
                text = open(f"{out}/dramsim3.txt").read()
                reads = int(re.search(r"num_reads_done\s*=\s*(\d+)", text)[1])
                shutil.rmtree(out)
                words = ["dramsim3", "DDR4-3200", "rochrabacobg", stream]
                mine, my_cycles = ours(chosen.dram_reference, words)
                return seconds / reads, mine / min(reads, REQUESTS), DRAMSIM3_CYCLES, my_cycles

            for name, pair in (("ramulator", ramulator_pair), ("dramsim3", dramsim3_pair)):
                found = [pair() for _ in range(chosen.rounds)]
                theirs, mine = (statistics.median(one[at] for one in found) * 1e9 for at in (0, 1))
                ratios = [one[0] / one[1] for one in found]
                print(
                    f"{name:10} {stream:6} {theirs:9.0f} {mine:9.1f} {theirs / mine:7.1f}, {min(ratios):.1f} to "
                    f"{max(ratios):.1f}   {found[0][2]}, {found[0][3]}",
                    flush=True,
                )


if sys.argv[1:2] == ["--ramulator"]:
    ramulator_run(sys.argv[2])
else:
    main()
