/* sum_order.c - the text, and its comparison line by line. */
#include "train/sum_order.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"

static void add(char *out, const char *key, const char *value)
{
    const size_t used = strlen(out);

    if (used + strlen(key) + strlen(value) + 2 < CSP_SUM_ORDER_BYTES) {
        (void)snprintf(out + used, CSP_SUM_ORDER_BYTES - used, "%s %s\n", key, value);
    }
}

/* Appends so many runs of so many ranks; nothing of none. */
static void add_runs(char *text, size_t bytes, int times, int length)
{
    const size_t used = strlen(text);

    if (times > 0) {
        (void)snprintf(text + used, bytes - used, " %dx%d", times, length);
    }
}

/*
 * "2: 2x2" of the first rank on each rank's machine: two machines, and twice two ranks in a row on
 * one. Ranks that machines take in turn are "2: 4x1".
 */
static void describe_places(const int32_t *first, int ranks, char *text, size_t bytes)
{
    int machines = 0, times = 0, length = 0;

    for (int r = 0; r < ranks; r++) {
        machines += first[r] == r;
    }
    (void)snprintf(text, bytes, "%d:", machines);
    for (int r = 0, end; r < ranks; r = end) {
        for (end = r + 1; end < ranks && first[end] == first[r]; end++) {
        }
        if (end - r != length) {
            add_runs(text, bytes, times, length);
            times = 0;
            length = end - r;
        }
        times++;
    }
    add_runs(text, bytes, times, length);
}

/* Which ranks share machines: an order of sums among devices follows from it. */
static csp_status add_places(const csp_ranks *ranks, char *out)
{
    int32_t first = ranks->rank, *all = NULL;
    char text[512];
    csp_comm *machine;
    csp_status status;

    CSP_TRY(csp_comm_group_local(ranks->comm, &machine));
    CSP_TRY(csp_comm_broadcast(machine, &first, sizeof(first), 0, "the machines of ranks"));
    CSP_TRY(csp_alloc("ranks", ranks->size, sizeof(*all), &all));
    status = csp_ranks_gather_host(ranks, &first, all, sizeof(first), "the machines of ranks");
    if (status == CSP_OK) {
        describe_places(all, ranks->size, text, sizeof(text));
        add(out, "machines", text);
    }
    free(all);
    return status;
}

csp_status csp_sum_order_describe(const csp_ranks *ranks, csp_backend *be, const char *settings,
                                  char out[CSP_SUM_ORDER_BYTES])
{
    const char *library;
    char text[32];

    out[0] = '\0';
    (void)snprintf(text, sizeof(text), "%.*s", (int)strcspn(be->name, ":"), be->name);
    add(out, "device", text);
    (void)snprintf(text, sizeof(text), "%d", csp_ranks_size(ranks));
    add(out, "ranks", text);
    if (csp_ranks_size(ranks) == 1 || be->host_memory) {
        return CSP_OK;
    }
    CSP_TRY(add_places(ranks, out));
    CSP_TRY(csp_collective_library(be, &library));
    add(out, "collectives", library);
    while (*settings != '\0') {
        char line[512];
        const size_t bytes = strcspn(settings, "\n");

        (void)snprintf(line, sizeof(line), "%.*s", (int)bytes, settings);
        line[strcspn(line, " ")] = '\0';
        add(out, line, line + strlen(line) + 1);
        settings += bytes + (settings[bytes] == '\n');
    }
    return CSP_OK;
}

/* A line's value under the key of another line, and its bytes; NULL: it has none. */
static const char *find(const char *text, const char *key, size_t key_bytes, size_t *bytes)
{
    while (*text != '\0') {
        *bytes = strcspn(text, "\n");
        if (*bytes > key_bytes && strncmp(text, key, key_bytes) == 0 && text[key_bytes] == ' ') {
            *bytes -= key_bytes + 1;
            return text + key_bytes + 1;
        }
        text += *bytes + (text[*bytes] == '\n');
    }
    return NULL;
}

int csp_sum_order_ranks(const char *text)
{
    size_t bytes;
    const char *value = find(text, "ranks", strlen("ranks"), &bytes);

    return value != NULL ? (int)strtol(value, NULL, 10) : 0;
}

static void warn(const char *key, size_t key_bytes, const char *what)
{
    csp_log(CSP_LOG_WARN, "train",
            "%.*s %s: the run goes on, but its sums agree with those before to rounding only",
            (int)key_bytes, key, what);
}

/*
 * Warns of lines of one text: of what both have otherwise, if this is the one before; of what the
 * other lacks, unless it is of one rank or of CPUs, which need none of it.
 */
static void compare_lines(const char *text, const char *other, bool is_before)
{
    size_t found_bytes;
    const bool of_devices = find(other, "collectives", strlen("collectives"), &found_bytes) != NULL;

    while (*text != '\0') {
        const size_t bytes = strcspn(text, "\n"), key = strcspn(text, " \n");
        const char *own = text + key + (text[key] == ' ');
        const size_t own_bytes = bytes - (size_t)(own - text);
        const char *found = find(other, text, key, &found_bytes);
        char what[1200];

        if (found == NULL && of_devices) {
            (void)snprintf(what, sizeof(what), "%s %.*s %s", is_before ? "was" : "is",
                           (int)own_bytes, own,
                           is_before ? "before and is not set now" : "now and was not set before");
            warn(text, key, what);
        } else if (found != NULL && is_before &&
                   (found_bytes != own_bytes || strncmp(found, own, own_bytes) != 0)) {
            (void)snprintf(what, sizeof(what), "was %.*s before and is %.*s now", (int)own_bytes,
                           own, (int)found_bytes, found);
            warn(text, key, what);
        }
        text += bytes + (text[bytes] == '\n');
    }
}

void csp_sum_order_compare(const char *there, const char *here)
{
    if (there[0] != '\0') {
        compare_lines(there, here, true);
        compare_lines(here, there, false);
    }
}
