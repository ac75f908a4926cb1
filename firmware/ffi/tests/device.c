/* The header for drivers of a host, as C and as C++: sizes are asserted in it; here what it computes. The numbers are
   those of `region::tests::numbers_of_the_c_header`. */
#include <stddef.h>
#include <stdio.h>
#include "cptr.h"
#include "cptr_device.h"

int main(void) {
    uint32_t sum = CPTR_CHECK_START;
    int wrong = 0;
    uint32_t word;
    for (word = 1; word <= 3; word++) sum = cptr_check(sum, word);
    wrong += sum != UINT32_C(0x3E5B1F1C);
    wrong += CPTR_RING_WORDS(4, 1308) != 32 + 4 * 336;
    wrong += CPTR_REGION_WORDS(2, 4, 1308, 804) != 4512;
    wrong += offsetof(cptr_wire_header, sequence) != 8 || offsetof(cptr_wire_header, queue) != 15;
    wrong += offsetof(cptr_wire_configure, null_experts) != 52 || offsetof(cptr_wire_decision, turn) != 6;
    wrong += offsetof(cptr_wire_token, failed) != 7 || offsetof(cptr_wire_counters, repeated) != 100;
    wrong += CPTR_COMMAND_RESTORE != 11 || CPTR_FRAME_STATUS_SESSION != 12 || CPTR_STATE_BROKEN != 4;
    if (wrong) printf("device.c: %d things are not as in the protocol\n", wrong);
    return wrong;
}
