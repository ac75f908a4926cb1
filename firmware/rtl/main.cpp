// Clock and reset; the image ends the run.
#include "Vtop.h"
#include "verilated.h"

int main(int argc, char **argv) {
    VerilatedContext context;
    context.commandArgs(argc, argv);
    Vtop top(&context);
    for (unsigned long half = 0; !context.gotFinish(); half++) {
        top.clk = half & 1;
        top.rst_n = half > 8;
        top.eval();
        context.timeInc(1);
    }
    return 0;
}
