// The header is C++, too.
#include "cptr.h"

static_assert(CPTR_TRACKER_SIZE(64) <= 64 * 12 + 64, "12 bytes per expert and 64 beside");

int main() {
    return cptr_version() == CPTR_VERSION ? 0 : 1;
}
