// Drives `cptr_unit` by a script on standard input, words of 32 bits in the machine's order, and compares; ends at the
// first difference. `cargo xtask rtl unit` writes the script from what `cptr-core` says (xtask/src/unit/script.rs).
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "Vcptr_unit.h"
#include "verilated.h"
#if VM_COVERAGE
#include "verilated_cov.h"
#endif

namespace {

// The script's words, in the order of xtask/src/unit/script.rs.
enum Word : uint32_t { END, WRITE, READ, STREAM, EXPECT, IDLE, RESET, CYCLES, STALLS, LABEL, SILENT, REPORT };

// Longest wait for anything: a search of the largest memory takes less.
constexpr uint64_t PATIENCE = 400000;

class Bench {
  public:
    explicit Bench(VerilatedContext *context) : context(context), unit(new Vcptr_unit(context)) {
        unit->bus_request = unit->in_valid = unit->out_ready = 0;
        reset();
    }

    bool run() {
        for (;;) {
            switch (next()) {
            case END:
                std::printf("done %llu words, %llu cycles\n", (unsigned long long)words, (unsigned long long)cycle);
                return true;
            case WRITE: {
                uint32_t address = next();
                access(address, next(), true);
                break;
            }
            case READ: {
                uint32_t address = next(), expected = next();
                access(address, 0, false);
                if (unit->bus_read_data != expected) fail("register", address, unit->bus_read_data, expected);
                break;
            }
            case STREAM: stream(); break;
            case EXPECT: expect(); break;
            case IDLE:
                for (uint64_t n = 0; unit->busy; n++) {
                    if (n > PATIENCE) fail("never idle", 0, 1, 0);
                    tick();
                }
                break;
            case RESET: reset(); break;
            case CYCLES:
                for (uint32_t n = next(); n > 0; n--) tick();
                break;
            case STALLS:
                in_stalls = next();
                out_stalls = next();
                break;
            case LABEL: label = next(); break;
            case SILENT:
                if (unit->out_valid) fail("an answer that nobody waits for", 0, unit->out_data, 0);
                break;
            case REPORT: {
                uint32_t kernel = next(), experts = next(), k = next();
                access(20 << 2, 0, false);
                std::printf("cycles %u %u %u %llu %llu %llu %u\n", kernel, experts, k,
                            (unsigned long long)(first_out - first_in), (unsigned long long)(last_out - first_in),
                            (unsigned long long)(first_in - rung), unit->bus_read_data);
                break;
            }
            default: fail("not a script", 0, 0, 0);
            }
        }
    }

  private:
    VerilatedContext *context;
    std::unique_ptr<Vcptr_unit> unit;
    uint64_t cycle = 0, words = 0, rung = 0, first_in = 0, first_out = 0, last_out = 0;
    uint32_t label = 0, in_stalls = 0, out_stalls = 0, state = 1;

    uint32_t next() {
        uint32_t word;
        if (std::fread(&word, 4, 1, stdin) != 1) {
            std::printf("the script ends early\n");
            std::exit(1);
        }
        words++;
        return word;
    }

    [[noreturn]] void fail(const char *what, uint32_t where, uint32_t found, uint32_t expected) {
        std::printf("step %u, cycle %llu: %s %u: %08x instead of %08x\n", label, (unsigned long long)cycle, what, where,
                    found, expected);
        std::fflush(stdout);
        finish();
        std::exit(1);
    }

  public:
    void finish() {
#if VM_COVERAGE
        const char *file = std::getenv("COVERAGE");
        context->coveragep()->write(file ? file : "coverage.dat");
#endif
    }

  private:
    // One cycle: the inputs are those of the rising edge.
    void tick() {
        unit->clk = 0;
        unit->eval();
        unit->clk = 1;
        unit->eval();
        context->timeInc(1);
        cycle++;
    }

    // Whether to wait, in 256ths.
    bool stalls(uint32_t share) {
        state = state * 1664525 + 1013904223;
        return (state >> 24) < share;
    }

    void reset() {
        unit->rst_n = 0;
        unit->bus_request = unit->in_valid = unit->out_ready = 0;
        tick();
        tick();
        unit->rst_n = 1;
        tick();
    }

    void access(uint32_t address, uint32_t data, bool write) {
        unit->bus_request = 1;
        unit->bus_write = write;
        unit->bus_address = address;
        unit->bus_write_data = data;
        if (write && address == 4 << 2) rung = cycle;
        tick();
        unit->bus_request = 0;
        // A cycle between accesses, as on a bus with one in flight.
        if (write) tick();
    }

    void stream() {
        uint32_t count = next(), last = next();
        for (uint32_t n = 0; n < count; n++) {
            uint32_t data = next();
            while (stalls(in_stalls)) tick();
            unit->in_valid = 1;
            unit->in_data = data;
            unit->in_last = last && n + 1 == count;
            for (uint64_t waited = 0;; waited++) {
                unit->clk = 0;
                unit->eval();
                bool ready = unit->in_ready;
                if (n == 0 && ready) first_in = cycle;
                tick();
                if (ready) break;
                if (waited > PATIENCE) fail("the stream is not taken at", n, 0, 1);
            }
            unit->in_valid = unit->in_last = 0;
        }
    }

    void expect() {
        uint32_t count = next();
        for (uint32_t n = 0; n < count; n++) {
            uint32_t expected = next();
            while (stalls(out_stalls)) tick();
            unit->out_ready = 1;
            for (uint64_t waited = 0;; waited++) {
                unit->clk = 0;
                unit->eval();
                bool valid = unit->out_valid;
                if (valid && unit->out_data != expected) fail("answer word", n, unit->out_data, expected);
                if (valid && unit->out_last != (n + 1 == count)) fail("end at word", n, unit->out_last, n + 1 == count);
                if (valid && n == 0) first_out = cycle;
                if (valid) last_out = cycle;
                tick();
                if (valid) break;
                if (waited > PATIENCE) fail("no answer word", n, 0, expected);
            }
            unit->out_ready = 0;
        }
    }
};

} // namespace

int main(int argc, char **argv) {
    VerilatedContext context;
    context.commandArgs(argc, argv);
    context.randReset(2);
    Bench bench(&context);
    bool done = bench.run();
    bench.finish();
    return done ? 0 : 1;
}
