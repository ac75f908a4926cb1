// Clock and reset of a core with the hardware unit, for an image that ends the run itself; with +host for one that
// serves a host, whose requests come on standard input, in words of 32 bits in the machine's order:
//
//   1 ADDRESS COUNT WORDS...   write words of memory
//   2 ADDRESS COUNT            read words of memory: they come on standard output
//   3                          ring
//   4 CYCLES                   go on for so long
//
// Memory is as the core sees it in that cycle. Ends with its input. Built with --trace and started with +waves=FILE it
// writes what every signal does in the first turn, and ends.
#include "Vtop.h"
#include "Vtop___024root.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

static const uint32_t RAM = 0x80000000u;
static const uint64_t MOST_CYCLES = 60000000;

struct Machine {
    VerilatedContext context;
    Vtop top{&context};

    // Behind its reset.
    Machine(int argc, char **argv) {
        context.commandArgs(argc, argv);
#if VM_TRACE
        context.traceEverOn(true);
#endif
        top.host_rings = 0;
        top.rst_n = 0;
        for (int i = 0; i < 4; i++) cycle();
        top.rst_n = 1;
    }
    void cycle() {
        for (int clk = 0; clk < 2; clk++) {
            top.clk = clk;
            top.eval();
            context.timeInc(1);
        }
    }
    uint32_t *word(uint32_t address) {
        auto &ram = top.rootp->top__DOT__memory__DOT__ram;
        uint32_t index = (address - RAM) / 4;
        return index < sizeof ram / 4 ? &ram[index] : nullptr;
    }
};

static bool take(uint32_t *words, size_t count) { return std::fread(words, 4, count, stdin) == count; }

// Whether what was asked for can be done.
static bool serve(Machine &machine, uint32_t command) {
    uint32_t place[2];
    switch (command) {
    case 1:
    case 2: {
        if (!take(place, 2) || place[1] > 1 << 20) return false;
        std::vector<uint32_t> words(place[1]);
        if (command == 1 && !take(words.data(), words.size())) return false;
        for (uint32_t i = 0; i < place[1]; i++) {
            uint32_t *word = machine.word(place[0] + 4 * i);
            if (!word) return false;
            if (command == 1) *word = words[i];
            else words[i] = *word;
        }
        return command == 1
            || (std::fwrite(words.data(), 4, words.size(), stdout) == words.size() && std::fflush(stdout) == 0);
    }
    case 3:
        machine.top.host_rings = 1;
        machine.cycle();
        machine.top.host_rings = 0;
        return true;
    case 4:
        if (!take(place, 1)) return false;
        while (place[0]-- > 0 && !machine.context.gotFinish()) machine.cycle();
        return !machine.context.gotFinish();
    default: return false;
    }
}

#if VM_TRACE
// The first turn, with some cycles before and after it: what comes before it is run twice, as nobody knows how long it
// takes.
static int waves(int argc, char **argv, const char *file) {
    const uint64_t BESIDE = 16;
    uint64_t before = 0;
    {
        Machine machine(argc, argv);
        while (!machine.top.rootp->top__DOT__turn__DOT__unit_rings && !machine.context.gotFinish()) {
            machine.cycle();
            before++;
        }
    }
    Machine machine(argc, argv);
    while (before-- > BESIDE) machine.cycle();
    VerilatedVcdC trace;
    machine.top.trace(&trace, 99);
    trace.open(file);
    auto &works = machine.top.rootp->top__DOT__turn__DOT__works;
    uint64_t after = 0;
    for (uint64_t i = 0; (i <= BESIDE || after < BESIDE) && !machine.context.gotFinish(); i++) {
        for (int clk = 0; clk < 2; clk++) {
            machine.top.clk = clk;
            machine.top.eval();
            trace.dump(machine.context.time());
            machine.context.timeInc(1);
        }
        after = works ? 0 : after + 1;
    }
    trace.close();
    return machine.context.gotFinish();
}
#endif

int main(int argc, char **argv) {
#if VM_TRACE
    // Verilator ends with one machine at a time.
    for (int i = 1; i < argc; i++) {
        if (std::strncmp(argv[i], "+waves=", 7) == 0) return waves(argc, argv, argv[i] + 7);
    }
#endif
    Machine machine(argc, argv);
    if (machine.context.commandArgsPlusMatch("host")[0] == 0) {
        // Twice what the image takes: a unit that never answers is waited for no longer.
        while (!machine.context.gotFinish() && machine.context.time() < MOST_CYCLES * 2) machine.cycle();
        return 0;
    }
    uint32_t command;
    while (take(&command, 1)) {
        if (!serve(machine, command)) return 1;
    }
    return 0;
}
