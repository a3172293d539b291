/* sum_order.c - the text, and its comparison line by line. */
#include "train/sum_order.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"

/*
 * Of the blocks that train/step_texts.c deals queries out into: 2, by the bytes of a query and its
 * documents, the longest first; 1, in the order of a step, as checkpoints have it that do not say.
 */
#define BLOCK_LAYOUT "2"

static const char layout_key[] = "block_layout";

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

/* Appends lines "<key> <value>". */
static void add_lines(char *out, const char *lines)
{
    while (*lines != '\0') {
        char line[512];
        const size_t bytes = strcspn(lines, "\n");

        (void)snprintf(line, sizeof(line), "%.*s", (int)bytes, lines);
        line[strcspn(line, " ")] = '\0';
        add(out, line, line + strlen(line) + 1);
        lines += bytes + (lines[bytes] == '\n');
    }
}

csp_status csp_sum_order_describe(int64_t blocks, const csp_ranks *ranks, csp_backend *be,
                                  const char *settings, char out[CSP_SUM_ORDER_BYTES])
{
    const char *library;
    char text[32], versions[CSP_VERSIONS_BYTES];

    out[0] = '\0';
    CSP_TRY(csp_backend_versions(be, versions));
    if (blocks > 1) {
        add(out, layout_key, BLOCK_LAYOUT);
    }
    (void)snprintf(text, sizeof(text), "%.*s", (int)strcspn(be->name, ":"), be->name);
    add(out, "device", text);
    add_lines(out, versions);
    (void)snprintf(text, sizeof(text), "%d", csp_ranks_size(ranks));
    add(out, "ranks", text);
    if (csp_ranks_size(ranks) == 1 || be->host_memory) {
        return CSP_OK;
    }
    CSP_TRY(add_places(ranks, out));
    CSP_TRY(csp_collective_library(be, &library));
    add(out, "collectives", library);
    add_lines(out, settings);
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

/* Whether a line's key, of so many bytes, is that of the layout of blocks. */
static bool is_layout(const char *line, size_t key_bytes)
{
    return key_bytes == strlen(layout_key) && strncmp(line, layout_key, key_bytes) == 0;
}

static void warn(const char *key, size_t key_bytes, const char *what)
{
    csp_log(CSP_LOG_WARN, "train", "%.*s %s", (int)key_bytes, key, what);
}

static const char to_rounding[] =
    "the run goes on, but its numbers agree with those before to rounding only";

/*
 * Warns of lines of one text: of what both have otherwise, if this is the one before; of what is
 * set for the library of collectives in one of them only, unless the other has no such library.
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

        if (found == NULL && of_devices && strncmp(text, "NCCL_", strlen("NCCL_")) == 0) {
            (void)snprintf(what, sizeof(what), "%s %.*s %s: %s", is_before ? "was" : "is",
                           (int)own_bytes, own,
                           is_before ? "before and is not set now" : "now and was not set before",
                           to_rounding);
            warn(text, key, what);
        } else if (found != NULL && is_before && !is_layout(text, key) &&
                   (found_bytes != own_bytes || strncmp(found, own, own_bytes) != 0)) {
            (void)snprintf(what, sizeof(what), "was %.*s before and is %.*s now: %s",
                           (int)own_bytes, own, (int)found_bytes, found, to_rounding);
            warn(text, key, what);
        }
        text += bytes + (text[bytes] == '\n');
    }
}

/* Blocks that were dealt out otherwise are no matter of rounding. */
static void compare_layouts(const char *there, const char *here)
{
    size_t there_bytes, here_bytes;
    const char *now = find(here, layout_key, strlen(layout_key), &here_bytes);
    const char *before = find(there, layout_key, strlen(layout_key), &there_bytes);
    char what[400];

    if (now == NULL) {
        return;
    }
    if (before == NULL) {
        before = "1";
        there_bytes = 1;
    }
    if (there_bytes != here_bytes || strncmp(before, now, here_bytes) != 0) {
        (void)snprintf(what, sizeof(what),
                       "was %.*s before and is %.*s now: contrastive.negative_blocks deals queries "
                       "out into other blocks from here on than the csplade that wrote the "
                       "checkpoint would have; the run goes on, but not to the same numbers",
                       (int)there_bytes, before, (int)here_bytes, now);
        warn(layout_key, strlen(layout_key), what);
    }
}

void csp_sum_order_compare(const char *there, const char *here, bool in_phase)
{
    compare_lines(there, here, true);
    if (there[0] != '\0') {
        compare_lines(here, there, false);
    }
    if (in_phase) {
        compare_layouts(there, here);
    }
}
