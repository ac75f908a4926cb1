#!/usr/bin/env python3
"""Rows of `random.tsv` from Ramulator 2.1: what it counts for configurations drawn at random.

    PYTHONPATH=RAMULATOR/python python3 hw-model/tests/random_rows.py draw 230 --seed 2026
    PYTHONPATH=RAMULATOR/python python3 hw-model/tests/random_rows.py draw 40 --seed 2026 --managed
    PYTHONPATH=RAMULATOR/python python3 hw-model/tests/random_rows.py draw 60 --seed 2026 --device LPDDR6-10667
    PYTHONPATH=RAMULATOR/python python3 hw-model/tests/random_rows.py again hw-model/tests/random.tsv

`draw` draws configurations and prints a row for each, of all devices but LPDDR6 or of one; with `--managed`, of devices
whose refresh management comes after so many activates of a bank (refresh `rfm32`: after 32, and no refresh beside it,
as Ramulator's has none there); the rows of `random.tsv` from the 329th on are those three calls. `again` runs the
configurations of a file of rows once more and says which rows Ramulator now counts otherwise; with `--as-published`,
without the changes below: those are the rows of `random_published.tsv`.

RAMULATOR is github.com/CMU-SAFARI/ramulator2 at commit c5b1c3a, built with its Python bindings. Of its tables only the
deviations that `docs/dram.md` names under Devices are changed, when they are loaded; its code is as published.
`dram_random.rs` holds our model to the rows and makes the same streams.
"""
import argparse
import random
import tempfile

import ramulator
from ramulator.dram.spec import TimingConstraint

MASK = (1 << 64) - 1

# Name: class, organisation, timing, controller, what is changed in the timing.
DEVICES = {
    "DDR4-3200": ("DDR4", "DDR4_8Gb_x8", "DDR4_3200AA", "GenericDDR", {}),
    "DDR5-3200": ("DDR5", "DDR5_16Gb_x8", "DDR5_3200AN", "GenericDDR", {"nRRDL": 8}),
    "DDR5-4800": ("DDR5", "DDR5_16Gb_x8", "DDR5_4800AN", "GenericDDR", {}),
    "DDR5-5600": ("DDR5", "DDR5_16Gb_x8", "DDR5_5600AN", "GenericDDR", {"nRRDS": 8}),
    "DDR5-6400": ("DDR5", "DDR5_16Gb_x8", "DDR5_6400AN", "GenericDDR", {"nRRDS": 8}),
    "LPDDR5-6400": ("LPDDR5", "LPDDR5_8Gb_x16", "LPDDR5_6400", "LPDDR5", {}),
    "LPDDR6-10667": ("LPDDR6", "LPDDR6_16Gb_x12", "LPDDR6_10667_BL24", "LPDDR6", {}),
    "HBM2-2000": ("HBM2", "HBM2_8Gb", "HBM2_2000Mbps", "HBM12", {}),
    "HBM3-6400": ("HBM3", "HBM3_32Gb_8hi", "HBM3_6400Mbps", "HBM34", {}),
    "HBM4-8000": ("HBM4", "HBM4_32Gb_8Hi", "HBM4_8000Mbps", "HBM34", {}),
}


def change_tables():
    """Ranks that share wires, and the bank groups of LPDDR5, as `docs/dram.md` says."""
    for name, burst, read, write, short in (
        ("DDR4", "nBL", "nCL", "nCWL", ""),
        ("DDR5", "nBL", "nCL", "nCWL", ""),
        ("DDR5_RFM", "nBL", "nCL", "nCWL", ""),
        ("LPDDR5", "nBL_min", "nCL", "nCWL", ""),
        ("LPDDR6", "nBL_min", "nRL", "nWL", "_S"),
    ):
        standard = getattr(ramulator.dram, name)
        rows = [row for row in standard.timing_constraints if not row.sibling]
        for first, then, latency in (
            ("RD", "RD", f"{burst} + nCS"),
            ("RD", "WR", f"{read} + {burst} + nCS - {write}"),
            ("WR", "RD", f"{write} + {burst} + nCS - {read}"),
            ("WR", "WR", f"{burst} + nCS"),
        ):
            firsts, thens = ([kind + short, kind + "A" + short] for kind in (first, then))
            rows.append(TimingConstraint("Rank", firsts, thens, latency, sibling=True))
        if name == "LPDDR5":
            rows.append(TimingConstraint("BankGroup", ["RD", "RDA"], ["WR", "WRA"], "nCL + nBL_max + 2 - nCWL"))
        standard.timing_constraints = rows


class Draw:
    """SplitMix64."""

    def __init__(self, state):
        self.state = state

    def below(self, most):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
        return (z ^ z >> 31) % most


def stream(kind, parameter, writes_percent, seed, requests, lines):
    """Pairs of (is write, line), as `dram_random.rs` makes them."""
    draw, writes = Draw(seed), Draw(seed ^ 0x5555)
    base = draw.below(lines)
    at = left = 0
    for index in range(requests):
        if kind in ("seq", "stride"):
            line = base + index * parameter
        elif kind == "rand":
            line = draw.below(lines)
        elif kind == "runs":
            if left == 0:
                at = draw.below(lines)
                left = draw.below(parameter) + 1
            left -= 1
            line = at
            at += 1
        else:
            line = base + index % parameter * 131_072
        yield writes.below(100) < writes_percent, line % lines


def counts(fields, published):
    """What Ramulator counts for the first ten columns of a row."""
    device, ranks, mapping, refresh, queue, kind, parameter, writes, seed, requests = fields
    standard, organisation, timing, controller, changes = DEVICES[device]
    changes = {} if published else dict(changes)
    if standard.startswith("HBM"):
        ranks = 2  # pseudo-channels
    else:
        changes["rank"] = int(ranks)
    plugins = []
    if refresh.startswith("rfm"):
        # RFMab after so many activates of a bank, as long as REFab.
        refreshed = getattr(ramulator.dram, standard)(org_preset=organisation, timing_preset=timing)
        changes["nRFM"] = refreshed.resolve()[1]["nRFC"]
        standard = "DDR5_RFM"
        plugins.append(ramulator.controller_plugin.RFMManager(rfm_thresh=int(refresh[3:]), rfm_mode="ab"))
    all_bank = refresh == "ab"
    dram = getattr(ramulator.dram, standard)(org_preset=organisation, timing_preset=timing, **changes)
    sizes = dram.resolve()[0]
    columns = sizes["column"] // dram.internal_prefetch_size
    lines = int(ranks) * sizes.get("sid", 1) * sizes["bankgroup"] * sizes["bank"] * sizes["row"] * columns
    on_wires = sizes["channel_width"] * dram.internal_prefetch_size // 8
    line_bytes = getattr(dram, "data_payload_bytes", None) or on_wires
    refresh_manager = ramulator.refresh_manager
    with tempfile.NamedTemporaryFile("w", suffix=".trace") as trace:
        for is_write, line in stream(kind, int(parameter), int(writes), int(seed), int(requests), lines):
            trace.write(f"{'ST' if is_write else 'LD'} {line * line_bytes}\n")
        trace.flush()
        simulation = ramulator.Simulation(
            ramulator.frontend.LoadStoreTrace(clock_ratio=4, path=trace.name),
            ramulator.memory_system.GenericDRAM(
                clock_ratio=1,
                channel_mapper=ramulator.channel_mapper.CacheLineInterleave(),
                controllers=[
                    getattr(ramulator.controller, controller)(
                        dram=dram,
                        read_buffer_size=int(queue),
                        write_buffer_size=int(queue),
                        scheduler=ramulator.scheduler.FRFCFSRowHit(),
                        refresh_manager=refresh_manager.AllBank() if all_bank else refresh_manager.NoRefresh(),
                        row_policy=ramulator.row_policy.Open(),
                        addr_mapper=getattr(ramulator.addr_mapper, mapping)(),
                        controller_plugins=plugins,
                    )
                ],
            ),
        )
        simulation.run()
        stats = simulation.stats["memory_system"]["controller"]
    names = (
        "cycles num_read_reqs_served num_write_reqs_served num_read_reqs_forwarded num_write_reqs_coalesced row_hits "
        "row_misses row_conflicts num_maintenance_reqs_served"
    )
    return [str(stats[name]) for name in names.split()]


def drawn(count, seed, devices, managed):
    """Configurations: the first ten columns of rows."""
    draw = random.Random(seed)
    for _ in range(count):
        device = draw.choice(devices)
        # Ramulator's management of one rank forgets what it counted in the others.
        ranks = 1 if managed or device.startswith("HBM") else draw.choice([1, 2, 4])
        kind = draw.choice(["seq", "stride", "rand", "runs", "hammer"])
        parameter = {
            "seq": 1,
            "rand": 1,
            "stride": draw.choice([2, 3, 4, 7, 8, 16, 31, 64, 100, 128, 1000, 4096]),
            "runs": draw.choice([2, 4, 8, 32, 100, 500]),
            "hammer": draw.choice([1, 2, 3, 4, 8, 16, 32]),
        }[kind]
        yield [
            device,
            str(ranks),
            draw.choice(["MOP4CLXOR", "RoBaRaCoCh"]),
            draw.choice(["rfm4", "rfm16", "rfm32", "rfm80"] if managed else ["none", "ab"]),
            str(draw.choice([1, 2, 3, 4, 8, 16, 24, 32, 48, 64, 128])),
            kind,
            str(parameter),
            str(draw.choice([0, 0, 5, 20, 33, 50, 80, 100])),
            str(draw.getrandbits(48)),
            str(draw.choice([3000, 10000, 30000])),
        ]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = arguments.add_subparsers(dest="task", required=True)
    draw = tasks.add_parser("draw", help="draw configurations and print a row for each")
    draw.add_argument("count", type=int)
    draw.add_argument("--seed", type=int, required=True)
    which = draw.add_mutually_exclusive_group()
    which.add_argument("--managed", action="store_true", help="devices with refresh management")
    which.add_argument("--device", choices=DEVICES, help="this device only")
    again = tasks.add_parser("again", help="run the configurations of a file once more")
    again.add_argument("file")
    again.add_argument("--as-published", action="store_true", help="leave Ramulator's tables as they are")
    chosen = arguments.parse_args()
    if chosen.task == "draw":
        change_tables()
        usual = [name for name in DEVICES if name != "LPDDR6-10667" and (name.startswith("DDR5") or not chosen.managed)]
        devices = [chosen.device] if chosen.device else usual
        for fields in drawn(chosen.count, chosen.seed, devices, chosen.managed):
            print("\t".join(fields + counts(fields, False)), flush=True)
        return
    if not chosen.as_published:
        change_tables()
    total = equal = 0
    for line in open(chosen.file):
        if line.startswith("#"):
            continue
        fields = line.rstrip("\n").split("\t")
        found = counts(fields[:10], chosen.as_published)
        total += 1
        equal += found == fields[10:]
        if found != fields[10:]:
            print("\t".join(fields[:10] + found), flush=True)
    print(f"# {equal} of {total} rows are counted as the file says")


if __name__ == "__main__":
    main()
