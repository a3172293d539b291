/*
 * settings.cc - the emulator's environment variables, its random choices and its planned failures.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emulator/control.h"
#include "emulator/internals.h"

namespace emu
{

namespace
{

uint64_t random_state;
int calls, failing_call;

uint64_t number(const char *name, uint64_t standard)
{
    const char *text = getenv(name);
    char *end;

    if (text == nullptr || *text == '\0') {
        return standard;
    }
    const uint64_t value = strtoull(text, &end, 10);
    if (*end != '\0') {
        fail({ nullptr, 0 }, "%s=%s: not a number", name, text);
    }
    return value;
}

Order order()
{
    const char *text = getenv("CSP_EMU_ORDER");

    if (text == nullptr || *text == '\0' || strcmp(text, "random") == 0) {
        return ORDER_RANDOM;
    }
    if (strcmp(text, "forward") == 0) {
        return ORDER_FORWARD;
    }
    if (strcmp(text, "reverse") == 0) {
        return ORDER_REVERSE;
    }
    fail({ nullptr, 0 }, "CSP_EMU_ORDER=%s: random, forward or reverse", text);
}

/* Spreads the bits of small seeds; never 0, which the generator would keep. */
uint64_t spread(uint64_t seed)
{
    seed = (seed + 0x9E3779B97F4A7C15u) * 0xBF58476D1CE4E5B9u;
    return (seed ^ seed >> 29) | 1u;
}

Settings read_settings()
{
    Settings s;

    s.seed = number("CSP_EMU_SEED", 1);
    s.order = order();
    s.eager = number("CSP_EMU_EAGER", 0) != 0;
    s.warp_clocks = number("CSP_EMU_WARP_CLOCKS", 0) != 0;
    s.memory = (size_t)number("CSP_EMU_MEMORY_MB", 4096) << 20;
    s.faulty = number("CSP_EMU_FAULT_KERNEL", 0);
    s.fill = s.seed % 2 != 0 ? 0xFF : 0x7F;
    random_state = spread(s.seed);
    return s;
}

} // namespace

Settings &mutable_settings()
{
    static Settings s = { 0, ORDER_RANDOM, false, false, 0, 0, 0xFF };
    static bool known = false;

    if (!known) {
        known = true;
        s = read_settings();
    }
    return s;
}

const Settings &settings()
{
    return mutable_settings();
}

uint32_t draw(uint32_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 32) * below >> 32);
}

bool planned_failure()
{
    calls++;
    return calls == failing_call;
}

} // namespace emu

void emu_fail_call(int n)
{
    emu::calls = 0;
    emu::failing_call = n;
}

int emu_calls(void)
{
    return emu::calls;
}

void emu_reseed(uint64_t seed)
{
    emu::mutable_settings().seed = seed;
    emu::random_state = emu::spread(seed);
}
