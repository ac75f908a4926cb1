#!/usr/bin/env python3
"""Rows of `commands.tsv`: from which cycle on Ramulator 2.1's devices take each command of a random sequence.

    PYTHONPATH=RAMULATOR/python python3 hw-model/tests/command_rows.py > hw-model/tests/commands.tsv

RAMULATOR as in `random_rows.py`, with the same changes of its tables. `dram_commands.rs` holds our device model to the
rows: refresh of all banks and of one, and refresh management, among activates, precharges, reads and writes.

Where Ramulator's table has no row and the standard has a rule, our model waits and Ramulator does not (of HBM4 it is
the other way round: an activate puts a REFpb of its bank group off by nRRD_L there, by nRRD_S here); such commands are
not drawn: a REFpb or RFMpb of a bank that was closed by PREab, RDA or WRA, or of one just refreshed or managed; those
of LPDDR5, DDR5 and HBM4 within tRRD of an activate; REFab or RFMab of a rank that was not activated since the last
one, or (but for LPDDR5) while a REFpb or RFMpb lasts.
"""
import random

import ramulator
from ramulator._ramulator_test import _DeviceUnderTest

from random_rows import change_tables

COMMANDS = 40
SEQUENCES = 12
# Ours: theirs, organisation, timing, changes, commands of refresh.
DEVICES = {
    "DDR4-3200": ("DDR4", "DDR4_8Gb_x8", "DDR4_3200AA", {}, ["REFab"]),
    "DDR5-4800": ("DDR5_RFM", "DDR5_16Gb_x8", "DDR5_4800AN", {"nRFM": 710, "nRFMpb": 313}, ["REFab", "RFMab"]),
    "DDR5-4800 bank": ("DDR5_RFM", "DDR5_16Gb_x8", "DDR5_4800AN", {"nRFM": 710, "nRFMpb": 313}, ["REFab", "RFMpb"]),
    "LPDDR5-6400": ("LPDDR5", "LPDDR5_8Gb_x16", "LPDDR5_6400", {}, ["REFab", "REFpb"]),
    "LPDDR6-10667": ("LPDDR6", "LPDDR6_16Gb_x12", "LPDDR6_10667_BL24", {}, ["REFab"]),
    "HBM2-2000": ("HBM2", "HBM2_8Gb", "HBM2_2000Mbps", {}, ["REFab", "REFpb"]),
    "HBM4-8000": ("HBM4", "HBM4_32Gb_8Hi", "HBM4_8000Mbps", {}, ["REFab", "REFpb"]),
}
ALL_BANKS = ("PREab", "REFab", "RFMab")


class Sequence:
    """One random sequence for one device."""

    def __init__(self, name, seed):
        standard, organisation, timing, changes, self.refreshes = DEVICES[name]
        dram = getattr(ramulator.dram, standard)(org_preset=organisation, timing_preset=timing, **changes)
        self.levels = list(dram.levels)
        sizes = dram.resolve()[0]
        self.counts = [sizes[level.lower()] for level in self.levels[1:-2]]
        self.device = _DeviceUnderTest(dram.to_config(), 0)
        self.half_clocks = dram.tick_multiplier == 2
        self.split = standard.startswith("LPDDR")
        # LPDDR6: clocks of each command, and what ends the names of bursts of 24 beats.
        self.length, self.burst = (2, "_S") if standard == "LPDDR6" else (1, "")
        self.row = {}
        self.closed_by = {}
        self.draw = random.Random(seed)
        self.now = 0
        self.last_act = self.last_bank_wise = -2000
        self.refreshed = set()
        self.out = []

    def address(self, bank, row, command):
        """Ramulator's address of a flat bank of ours: rank, stack, group, bank from high to low."""
        levels = []
        for count in reversed(self.counts):
            levels.append(bank % count)
            bank //= count
        levels.reverse()
        if command in ALL_BANKS:
            levels = [levels[0]] + [-1] * (len(levels) - 1)
            row = -1
        return [0] + levels + [row, 0 if row >= 0 else -1]

    def earliest(self, command, bank, row, start):
        """First cycle from `start` on, where commands but PRE go out at rising edges, if there are any others."""
        address = self.address(bank, row, command)
        cycle = start
        while not self.device.probe(command, address, cycle)["timing_OK"] or (
            self.half_clocks and not command.startswith("PRE") and cycle % 2 == 0
        ):
            cycle += 1
        return cycle

    def send(self, name, command, bank, row, start, slack):
        """Sends a command a little later than it may; notes when it may, where `start` is the cycle after the last."""
        cycle = self.earliest(command, bank, row, start)
        at = self.earliest(command, bank, row, cycle + slack)
        self.device.issue(command, self.address(bank, row, command), at)
        first = cycle if start == self.now + 1 else "-"
        self.out.append(f"{name}:{bank}:{row if name == 'ACT' else 0}:{first}:{at}")
        self.now = at

    def step(self):
        banks = 1
        for count in self.counts:
            banks *= count
        # Few banks, so that they meet.
        bank = self.draw.choice([0, 1, 2, banks // 2, banks // 2 + 1, banks // 4, banks - 1])
        of_rank = banks // self.counts[0]
        same_rank = [other for other in self.row if other // of_rank == bank // of_rank]
        slack = self.draw.choice([0, 0, 0, 1, 5, 40])
        start = self.now + 1
        kind = self.draw.random()
        if kind < 0.3:
            command = self.draw.choice(self.refreshes)
            if command in ALL_BANKS:
                rank = bank // of_rank
                if rank in self.refreshed:
                    return
                self.refreshed.add(rank)
                if not self.split:
                    start = max(start, self.last_bank_wise + 1300)
                if same_rank:
                    self.send("PREab", "PREab", bank, 0, start, slack)
                    for other in same_rank:
                        del self.row[other]
                        self.closed_by[other] = "PREab"
                    start = self.now + 1
                self.send(command, command, bank, 0, start, slack)
                return
            if bank in self.row:
                self.send("PRE", "PREpb", bank, self.row.pop(bank), start, slack)
                self.closed_by[bank] = "PRE"
                start = self.now + 1
            if self.closed_by.get(bank) != "PRE":
                return
            if self.split or self.half_clocks or self.refreshes[1] == "RFMpb":
                start = max(start, self.last_act + 20)
            self.send(command, command, bank, 0, start, slack)
            self.closed_by[bank] = command
            self.last_bank_wise = self.now
            return
        if bank not in self.row:
            row = self.draw.randrange(1 << 13)
            self.last_act = self.earliest("ACT1" if self.split else "ACT", bank, row, start)
            self.send("ACT", "ACT1" if self.split else "ACT", bank, row, start, slack)
            self.last_act = self.now
            if self.split:
                self.send("ACT2", "ACT2", bank, row, self.now + 1, 0)
            self.row[bank] = row
            self.refreshed.discard(bank // of_rank)
            return
        command = self.draw.choice(["RD", "RD", "WR", "WR", "RDA", "WRA", "PREpb"])
        row = self.row[bank]
        if command == "PREpb":
            self.send("PRE", command, bank, row, start, slack)
            self.closed_by[bank] = "PRE"
            del self.row[bank]
            return
        if self.split:
            # CAS right before the burst, and no sooner than the bus is free for it.
            cycle = self.earliest(command + self.burst, bank, row, start + 2 * self.length - 1)
            cas = "CAS" if self.burst else "CAS_RD" if command.startswith("R") else "CAS_WR"
            self.device.issue(cas, self.address(bank, row, cas), cycle - self.length)
            self.out.append(f"CAS:{bank}:0:-:{cycle - self.length}")
            self.now = cycle - self.length
            start, slack = cycle, 0
        self.send(command, command + self.burst, bank, row, start, slack)
        if command.endswith("A"):
            del self.row[bank]
            self.closed_by[bank] = command


def main():
    change_tables()
    print("# Ramulator 2.1 (commit c5b1c3a): command:bank:row:first cycle, - if not asked:cycle in which it was sent.")
    print("# Written by command_rows.py, which says how; held by dram_commands.rs.")
    for name in DEVICES:
        for seed in range(SEQUENCES):
            sequence = Sequence(name, seed)
            while len(sequence.out) < COMMANDS:
                sequence.step()
            print(name + "\t" + " ".join(sequence.out))


main()
