/* fault.c - the fault driver. */
#include "core/fault.h"

#include <stdatomic.h>

static atomic_long fault_at;
static atomic_long fault_count;

void csp_fault_arm(long n)
{
    atomic_store(&fault_count, 0);
    atomic_store(&fault_at, n);
}

bool csp_fault_here(void)
{
    const long asked = atomic_fetch_add(&fault_count, 1) + 1;

    return asked == atomic_load(&fault_at);
}

long csp_fault_asked(void)
{
    return atomic_load(&fault_count);
}
